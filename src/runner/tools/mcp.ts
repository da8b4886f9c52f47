import { DomainError } from '../../errors.ts';
import type { ToolModel } from '../../generated/prisma/models.ts';
import { openServerSecrets, telling } from '../../services/mcp-listing.ts';
import { sealedMcpServer } from '../../services/mcp-server.ts';
import type { ToolResources } from '../../services/tool-resources.ts';
import type { ExecutableTool } from '../tool.ts';
import { withoutSecrets } from './http.ts';

/** Calls a tool that an MCP server lends. The headers of the server are opened for the call alone. */
export function callMcpTool(
  tool: ToolModel,
  origin: { serverId: string; remoteName: string },
  resources: ToolResources,
): ExecutableTool['call'] {
  return async (given, { run, idempotencyKey, signal }) => {
    const server = await sealedMcpServer(run.operation.read, origin.serverId);
    if (server === null) {
      throw new DomainError('TOOL_FAILED', 'The server of this tool was deleted.');
    }
    const headers = openServerSecrets(server, resources);
    const call = { name: origin.remoteName, arguments: given, idempotencyKey };
    return await withoutSecrets(telling(headers), () =>
      resources.mcp.callTool({ url: server.url, headers }, call, tool.timeoutSeconds * 1_000, signal),
    );
  };
}
