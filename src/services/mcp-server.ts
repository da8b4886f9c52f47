import { v7 as uuidv7 } from 'uuid';
import { z } from 'zod';
import { sqlState, statement } from '../adapters/postgres.ts';
import { DomainError, notFound } from '../errors.ts';
import type { McpServerModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { parseInput, text } from './input.ts';
import { type List, loadPage, type Page, type PageArguments } from './page.ts';
import { type McpServerRow, rowsById, tables } from './table.ts';
import { checkAddress } from './tool-input.ts';
import type { ToolResources } from './tool-resources.ts';
import { assertMayMove, changeSecrets, noSecrets, type SecretInput, secretRules } from './tool-secrets.ts';

export interface McpServerInput {
  name?: string | null | undefined;
  url?: string | null | undefined;
  headers?: readonly SecretInput[] | null | undefined;
}

/** Most MCP servers of a user. */
export const mostServers = 20;

const url = text('url').min(1, '`url` may not be empty.').max(2_000, '`url` may have at most 2,000 characters.');
/** Headers of the protocol and of the connection are not the user's to set. */
const headers = secretRules(
  /^(?!(host|accept.*|connection|content-.*|mcp-.*|last-event-id|transfer-encoding|te|trailer|upgrade|expect|proxy-.*)$)[\w!#$%&'*+.^`|~-]{1,100}$/i,
  'This header may not be set.',
);
const createRules = z.object({
  name: text('name')
    .regex(
      /^[A-Za-z][A-Za-z0-9]*(?:[_-][A-Za-z0-9]+)*$/,
      '`name` must be letters and digits, with single _ and - in between, and begin with a letter.',
    )
    .max(24, '`name` may have at most 24 characters.'),
  url,
  headers,
});
const changeRules = z.object({ url: url.optional(), headers });

const serverList: List<McpServerRow> = {
  table: tables.mcpServer,
  order: [{ field: 'id', column: 'id', type: 'uuid' }],
  direction: 'ascending',
};
const loadServers = rowsById<McpServerRow>(tables.mcpServer);

const lockUser = statement(`SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE`);
const count = statement<{ count: number }>(`SELECT count(*)::int AS count FROM mcp_servers WHERE user_id = $1`);
const insert = statement(`
  INSERT INTO mcp_servers (user_id, id, name, url, secrets, secrets_key_id, secret_names) VALUES ($1, $2, $3, $4, $5, $6, $7)`);
const sealed = `SELECT ${tables.mcpServer.columns}, secrets, secrets_key_id AS "secretsKeyId" FROM mcp_servers WHERE user_id = $1 AND id = $2`;
const find = statement<McpServerModel & Record<string, unknown>>(sealed);
const lock = statement<McpServerModel & Record<string, unknown>>(`${sealed} FOR UPDATE`);
const change = statement(`
  UPDATE mcp_servers SET url = $3, secrets = $4, secrets_key_id = $5, secret_names = $6, updated_at = $7
  WHERE user_id = $1 AND id = $2`);
const remove = statement<{ id: string }>(`DELETE FROM mcp_servers WHERE user_id = $1 AND id = $2 RETURNING id`);

/** The caller's MCP server of that id, or null. */
export function mcpServerById(operation: ReadOperation, id: string): Promise<McpServerRow | null> {
  return operation.load(loadServers, id);
}

/** The caller's MCP servers, oldest first. */
export function listMcpServers(operation: ReadOperation, page: PageArguments): Promise<Page<McpServerRow>> {
  return loadPage(operation, serverList, page);
}

/** The caller's MCP server with its sealed secrets, or null. */
export async function sealedMcpServer(operation: ReadOperation, id: string): Promise<McpServerModel | null> {
  const [server] = await operation.query(find, [operation.userId, id]);
  return server ?? null;
}

/** The same, locked until the commit. */
export async function lockMcpServer(operation: WriteOperation, id: string): Promise<McpServerModel | null> {
  const [server] = await operation.query(lock, [operation.userId, id]);
  return server ?? null;
}

/**
 * Adds a server. Its tools come with the first refresh.
 * @throws DomainError BAD_USER_INPUT, NAME_TAKEN, QUOTA_EXCEEDED, SECRETS_UNAVAILABLE
 */
export async function createMcpServer(
  operation: WriteOperation,
  input: McpServerInput,
  resources: ToolResources,
): Promise<{ mcpServerId: string }> {
  const values = parseInput(createRules, input, 'input');
  checkAddress(resources, values.url, 'input.url');
  const id = uuidv7();
  const owner = { userId: operation.userId, table: 'mcp_servers' as const, rowId: id };
  const secrets = changeSecrets(resources.secrets, owner, noSecrets, values.headers);
  await operation.query(lockUser, [operation.userId]);
  const [row] = await operation.query(count, [operation.userId]);
  const used = row?.count ?? 0;
  if (used >= mostServers) {
    const quota = { name: 'mcpServers', limit: mostServers, used, resetsAt: null };
    throw new DomainError('QUOTA_EXCEEDED', `You may have at most ${mostServers} MCP servers.`, { quota });
  }
  try {
    await operation.query(insert, [
      operation.userId,
      id,
      values.name,
      values.url,
      secrets.secrets,
      secrets.secretsKeyId,
      secrets.secretNames,
    ]);
  } catch (error) {
    if (sqlState(error) === '23505') {
      throw new DomainError('NAME_TAKEN', 'You already have an MCP server of that name.', { field: 'input.name' });
    }
    throw error;
  }
  return { mcpServerId: id };
}

/**
 * Changes the members that are given and leaves the others.
 * @throws DomainError NOT_FOUND, BAD_USER_INPUT, SECRETS_UNAVAILABLE
 */
export async function updateMcpServer(
  operation: WriteOperation,
  id: string,
  input: McpServerInput,
  resources: ToolResources,
): Promise<{ mcpServerId: string }> {
  const values = parseInput(changeRules, input, 'input');
  const server = await lockMcpServer(operation, id);
  if (server === null) {
    throw notFound('MCP server', 'id');
  }
  const target = values.url ?? server.url;
  checkAddress(resources, target, 'input.url');
  assertMayMove(server.url, target, server.secretNames, values.headers, 'input.url');
  const owner = { userId: operation.userId, table: 'mcp_servers' as const, rowId: id };
  const secrets = changeSecrets(resources.secrets, owner, server, values.headers);
  await operation.query(change, [
    operation.userId,
    id,
    target,
    secrets.secrets,
    secrets.secretsKeyId,
    secrets.secretNames,
    operation.clock.now(),
  ]);
  return { mcpServerId: id };
}

/** Deletes a server with the tools that it lent. @throws DomainError NOT_FOUND */
export async function deleteMcpServer(operation: WriteOperation, id: string): Promise<{ deletedMcpServerId: string }> {
  const [removed] = await operation.query(remove, [operation.userId, id]);
  if (removed === undefined) {
    throw notFound('MCP server', 'id');
  }
  return { deletedMcpServerId: id };
}
