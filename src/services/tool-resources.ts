import { createMcpClient, type McpClient } from '../adapters/mcp.ts';
import type { Outgoing } from '../adapters/outgoing.ts';
import { createSecretBox, type SecretBox, type SecretKey } from './secret-box.ts';
import { createToolArguments, type ToolArguments } from './tool-arguments.ts';

/** What rules about tools need beside the database. */
export interface ToolResources {
  arguments: ToolArguments;
  secrets: SecretBox;
  outgoing: Outgoing;
  mcp: McpClient;
}

/** Builds them for a process. The guard stays the caller's to close. */
export function createToolResources(outgoing: Outgoing, secretKeys: readonly SecretKey[]): ToolResources {
  return {
    arguments: createToolArguments(),
    secrets: createSecretBox(secretKeys),
    outgoing,
    mcp: createMcpClient(outgoing),
  };
}
