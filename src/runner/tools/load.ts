import type { ToolModel } from '../../generated/prisma/models.ts';
import { loadAgentTools } from '../../services/agent-tool.ts';
import { builtInTools } from '../../services/built-in-tool.ts';
import { refreshStaleServers } from '../../services/mcp-listing.ts';
import { builtInName, httpSettings } from '../../services/tool.ts';
import type { ToolResources } from '../../services/tool-resources.ts';
import type { ExecutableTool, LoadTools } from '../tool.ts';
import type { BuiltInCalls } from './built-in.ts';
import { callHttpTool } from './http.ts';
import { callMcpTool } from './mcp.ts';

/**
 * Turns the tools that an agent was given into tools that its run can call. A row that no kind knows is left out.
 * @param listMaxAge how old the list of an MCP server may be, in milliseconds, before it is asked again
 */
export function createToolLoader(resources: ToolResources, builtIns: BuiltInCalls, listMaxAge: number): LoadTools {
  return async ({ operation, task, signal }) => {
    const { agentId } = task;
    if (agentId === null) {
      return [];
    }
    let found = await loadAgentTools(operation.read, agentId, listMaxAge);
    if (found.staleServerIds.length > 0) {
      await refreshStaleServers(operation, found.staleServerIds, listMaxAge, resources, signal);
      found = await loadAgentTools(operation.read, agentId, listMaxAge);
    }
    return found.usable.flatMap((row) => {
      const behaviour = behaviourOf(row, resources, builtIns);
      return behaviour === null
        ? []
        : [
            {
              toolId: row.id,
              name: row.name,
              description: row.description,
              argumentsSchema: behaviour.argumentsSchema ?? (row.argumentsSchema as Record<string, unknown>),
              dangerous: row.dangerous,
              approvalPolicy: row.approvalPolicy,
              approvalTimeout: row.approvalTimeoutSeconds === null ? null : row.approvalTimeoutSeconds * 1_000,
              timeout: row.timeoutSeconds * 1_000,
              call: behaviour.call,
            },
          ];
    });
  };
}

type Behaviour = Pick<ExecutableTool, 'call'> & Partial<Pick<ExecutableTool, 'argumentsSchema'>>;

function behaviourOf(row: ToolModel, resources: ToolResources, builtIns: BuiltInCalls): Behaviour | null {
  const name = builtInName(row);
  if (name !== null) {
    // What the service does may change with its version; the row then follows.
    return { call: builtIns[name], argumentsSchema: builtInTools[name].argumentsSchema };
  }
  if (row.mcpServerId !== null && row.remoteName !== null) {
    return { call: callMcpTool(row, { serverId: row.mcpServerId, remoteName: row.remoteName }, resources) };
  }
  const settings = httpSettings(row);
  return settings === null ? null : { call: callHttpTool(row, settings, resources) };
}
