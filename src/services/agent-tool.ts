import { statement } from '../adapters/postgres.ts';
import { badInput, DomainError, notFound } from '../errors.ts';
import type { ToolModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { tables } from './table.ts';

/** Most tools of one agent: with more, models choose badly and prompts grow. */
export const mostAgentTools = 64;

const lockAgent = statement<{ id: string }>(`SELECT id FROM agents WHERE user_id = $1 AND id = $2 FOR NO KEY UPDATE`);
const holdTools = statement<{ id: string }>(
  `SELECT id FROM tools WHERE user_id = $1 AND id = ANY ($2::uuid[]) ORDER BY id FOR KEY SHARE`,
);
const attach = statement(`
  INSERT INTO agent_tools (user_id, agent_id, tool_id) SELECT $1, $2, unnest($3::uuid[]) ON CONFLICT DO NOTHING`);
const detach = statement(`DELETE FROM agent_tools WHERE user_id = $1 AND agent_id = $2 AND tool_id = ANY ($3::uuid[])`);
const detachOthers = statement(
  `DELETE FROM agent_tools WHERE user_id = $1 AND agent_id = $2 AND tool_id <> ALL ($3::uuid[])`,
);
const countAttached = statement<{ count: number }>(
  `SELECT count(*)::int AS count FROM agent_tools WHERE user_id = $1 AND agent_id = $2`,
);
const ofAgent = statement<ToolModel & { isListStale: boolean } & Record<string, unknown>>(`
  SELECT ${tables.tool.columns}, secrets, secrets_key_id AS "secretsKeyId", EXISTS (
    SELECT FROM mcp_servers
    WHERE mcp_servers.user_id = $1 AND mcp_servers.id = tools.mcp_server_id AND (listed_at IS NULL OR listed_at < $3)
  ) AS "isListStale"
  FROM tools
  WHERE user_id = $1 AND id IN (SELECT tool_id FROM agent_tools WHERE user_id = $1 AND agent_id = $2)
  ORDER BY id`);

/** Ids of an agent and a tool, as a change of both came to. */
export type AgentToolOutcome = { agentId: string; toolId: string };

/**
 * Gives an agent a tool; nothing happens when it has it.
 * @throws DomainError NOT_FOUND, QUOTA_EXCEEDED
 */
export async function attachTool(
  operation: WriteOperation,
  agentId: string,
  toolId: string,
): Promise<AgentToolOutcome> {
  await holdAgent(operation, agentId, 'agentId');
  await hold(operation, [toolId], 'toolId');
  await operation.query(attach, [operation.userId, agentId, [toolId]]);
  await checkCount(operation, agentId);
  return { agentId, toolId };
}

/** Takes a tool from an agent; nothing happens when it does not have it. @throws DomainError NOT_FOUND */
export async function detachTool(
  operation: WriteOperation,
  agentId: string,
  toolId: string,
): Promise<AgentToolOutcome> {
  await holdAgent(operation, agentId, 'agentId');
  await hold(operation, [toolId], 'toolId');
  await operation.query(detach, [operation.userId, agentId, [toolId]]);
  return { agentId, toolId };
}

/**
 * Gives an agent, whose row the caller has locked, exactly these tools.
 * @throws DomainError NOT_FOUND, BAD_USER_INPUT
 */
export async function setAgentTools(
  operation: WriteOperation,
  agentId: string,
  toolIds: readonly string[],
): Promise<void> {
  const ids = [...new Set(toolIds)];
  if (ids.length > mostAgentTools) {
    throw badInput('input.toolIds', `An agent may have at most ${mostAgentTools} tools.`);
  }
  await hold(operation, ids, 'input.toolIds');
  await operation.query(detachOthers, [operation.userId, agentId, ids]);
  await operation.query(attach, [operation.userId, agentId, ids]);
}

/** The tools of an agent, as its run finds them. */
export interface AgentTools {
  /** Those that it may call now, with their sealed secrets: those that their server took back are left out. */
  usable: ToolModel[];
  /** MCP servers that lend it tools, and whose lists are too old to go by. */
  staleServerIds: string[];
}

/** @param maxAge how old the list of an MCP server may be, in milliseconds */
export async function loadAgentTools(operation: ReadOperation, agentId: string, maxAge: number): Promise<AgentTools> {
  const before = new Date(operation.clock.now().getTime() - maxAge);
  const tools = await operation.query(ofAgent, [operation.userId, agentId, before]);
  const stale = tools.flatMap(({ mcpServerId, isListStale }) =>
    mcpServerId !== null && isListStale ? [mcpServerId] : [],
  );
  return {
    usable: tools.filter(({ missingSince }) => missingSince === null).slice(0, mostAgentTools),
    staleServerIds: [...new Set(stale)],
  };
}

async function holdAgent(operation: WriteOperation, agentId: string, field: string): Promise<void> {
  const [agent] = await operation.query(lockAgent, [operation.userId, agentId]);
  if (agent === undefined) {
    throw notFound('agent', field);
  }
}

async function hold(operation: WriteOperation, toolIds: readonly string[], field: string): Promise<void> {
  const found = await operation.query(holdTools, [operation.userId, toolIds]);
  if (found.length < toolIds.length) {
    throw notFound('tool', field);
  }
}

async function checkCount(operation: WriteOperation, agentId: string): Promise<void> {
  const [row] = await operation.query(countAttached, [operation.userId, agentId]);
  if ((row?.count ?? 0) > mostAgentTools) {
    throw new DomainError('QUOTA_EXCEEDED', `An agent may have at most ${mostAgentTools} tools.`, {
      quota: { name: 'agentTools', limit: mostAgentTools, used: mostAgentTools, resetsAt: null },
    });
  }
}
