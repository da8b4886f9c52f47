import { v7 as uuidv7 } from 'uuid';
import { sqlState, statement } from '../adapters/postgres.ts';
import { badInput, DomainError, notFound } from '../errors.ts';
import type { ApprovalPolicy } from '../generated/prisma/enums.ts';
import type { ToolModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { type BuiltInName, builtInTools, isBuiltInName } from './built-in-tool.ts';
import type { HttpToolSettings } from './http-tool.ts';
import { parseInput } from './input.ts';
import { childPages, type List, loadChildPage, loadPage, type Page, type PageArguments } from './page.ts';
import { rowsById, type ToolRow, tables } from './table.ts';
import {
  checkHttpSettings,
  checkSchema,
  longestHttpSeconds,
  type ToolInput,
  type ToolValues,
  toHttpSettings,
  toolRules,
} from './tool-input.ts';
import type { ToolResources } from './tool-resources.ts';
import type { JsonObject } from './tool-schema.ts';
import { assertMayMove, changeSecrets, noSecrets, type SecretColumns } from './tool-secrets.ts';

/** Most tools of a user, those of MCP servers included. */
export const mostTools = 1_000;
/** Longest call of a tool that says nothing about it, in seconds. */
const usualSeconds = 30;

const toolList: List<ToolRow> = {
  table: tables.tool,
  order: [{ field: 'id', column: 'id', type: 'uuid' }],
  direction: 'ascending',
};

const loadTools = rowsById<ToolRow>(tables.tool);
const loadAgentTools = childPages(toolList, {
  condition: 'id IN (SELECT tool_id FROM agent_tools WHERE user_id = $1 AND agent_id = parent.id)',
});
const loadServerTools = childPages(toolList, 'mcp_server_id');

const lockUser = statement(`SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE`);
const count = statement<{ count: number }>(`SELECT count(*)::int AS count FROM tools WHERE user_id = $1`);
const insert = statement(`
  INSERT INTO tools (user_id, id, name, description, kind, arguments_schema, settings, dangerous, approval_policy,
    timeout_seconds, secrets, secrets_key_id, secret_names, approval_timeout_seconds)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`);
const lock = statement<ToolModel & Record<string, unknown>>(
  `SELECT ${tables.tool.columns}, secrets, secrets_key_id AS "secretsKeyId" FROM tools WHERE user_id = $1 AND id = $2 FOR UPDATE`,
);
const change = statement(`
  UPDATE tools SET name = $3, description = $4, arguments_schema = $5, settings = $6, dangerous = $7,
    approval_policy = $8, timeout_seconds = $9, secrets = $10, secrets_key_id = $11, secret_names = $12, updated_at = $13,
    approval_timeout_seconds = $14
  WHERE user_id = $1 AND id = $2`);
const remove = statement(`DELETE FROM tools WHERE user_id = $1 AND id = $2`);

/** The caller's tool of that id, or null. */
export function toolById(operation: ReadOperation, id: string): Promise<ToolRow | null> {
  return operation.load(loadTools, id);
}

/** The caller's tools, oldest first. */
export function listTools(operation: ReadOperation, page: PageArguments): Promise<Page<ToolRow>> {
  return loadPage(operation, toolList, page);
}

/** The tools that an agent may use, oldest first. Pages of many agents are read in one statement. */
export function listAgentTools(operation: ReadOperation, agentId: string, page: PageArguments): Promise<Page<ToolRow>> {
  return loadChildPage(operation, loadAgentTools, agentId, page);
}

/** The tools that an MCP server lent, oldest first. Pages of many servers are read in one statement. */
export function listServerTools(
  operation: ReadOperation,
  serverId: string,
  page: PageArguments,
): Promise<Page<ToolRow>> {
  return loadChildPage(operation, loadServerTools, serverId, page);
}

/** How an HTTP tool makes its request; null for other kinds. */
export function httpSettings(tool: Pick<ToolRow, 'kind' | 'settings'>): HttpToolSettings | null {
  return tool.kind === 'HTTP' ? (tool.settings as unknown as HttpToolSettings) : null;
}

/** Which built-in tool a row stands for; null for other kinds. */
export function builtInName(tool: Pick<ToolRow, 'kind' | 'settings'>): BuiltInName | null {
  const name = (tool.settings as { builtIn?: unknown } | null)?.builtIn;
  return tool.kind === 'BUILT_IN' && typeof name === 'string' && isBuiltInName(name) ? name : null;
}

/**
 * Adds a tool to what the caller's agents can be given.
 * @throws DomainError BAD_USER_INPUT, NAME_TAKEN, QUOTA_EXCEEDED, SECRETS_UNAVAILABLE
 */
export async function createTool(
  operation: WriteOperation,
  input: ToolInput,
  resources: ToolResources,
): Promise<{ toolId: string }> {
  const values = parseInput(toolRules, input, 'input');
  const id = uuidv7();
  const columns = values.builtIn === undefined ? newHttpTool(values) : newBuiltIn(values, values.builtIn);
  // The schemas of built-in tools are held by a test.
  const schema = columns.kind === 'BUILT_IN' ? (columns.schema as JsonObject) : checkSchema(resources, columns.schema);
  const owner = { userId: operation.userId, table: 'tools' as const, rowId: id };
  const secrets = changeSecrets(resources.secrets, owner, noSecrets, values.secrets);
  if (columns.kind === 'HTTP') {
    checkHttpSettings(
      resources,
      columns.settings as HttpToolSettings,
      schema,
      secrets.secretNames,
      columns.timeoutSeconds,
    );
  }
  await reserveTools(operation, 1);
  const policy = { policy: values.approvalPolicy ?? null, timeout: values.approvalTimeoutSeconds ?? null };
  await withFreeName(() => store(operation, id, { ...columns, schema }, secrets, policy));
  return { toolId: id };
}

/** Gives a new user all built-in tools, as they are. @returns their ids */
export async function addBuiltInTools(operation: WriteOperation): Promise<Map<BuiltInName, string>> {
  const ids = new Map<BuiltInName, string>();
  for (const name of Object.keys(builtInTools).filter(isBuiltInName)) {
    const id = uuidv7();
    await store(operation, id, newBuiltIn({}, name), noSecrets, { policy: null, timeout: null });
    ids.set(name, id);
  }
  return ids;
}

async function store(
  operation: WriteOperation,
  id: string,
  columns: NewTool,
  secrets: SecretColumns,
  approval: { policy: ApprovalPolicy | null; timeout: number | null },
): Promise<void> {
  await operation.query(insert, [
    operation.userId,
    id,
    columns.name,
    columns.description,
    columns.kind,
    JSON.stringify(columns.schema),
    JSON.stringify(columns.settings),
    columns.dangerous,
    approval.policy,
    columns.timeoutSeconds,
    secrets.secrets,
    secrets.secretsKeyId,
    secrets.secretNames,
    approval.timeout,
  ]);
}

interface NewTool {
  name: string;
  description: string;
  kind: 'BUILT_IN' | 'HTTP';
  schema: unknown;
  settings: object;
  dangerous: boolean;
  timeoutSeconds: number;
}

function newBuiltIn(values: ToolValues, name: string): NewTool {
  if (!isBuiltInName(name)) {
    throw badInput(
      'input.builtIn',
      `There is no built-in tool of that name. There are: ${Object.keys(builtInTools).join(', ')}.`,
    );
  }
  refuse(values, ['http', 'arguments', 'secrets'], 'A built-in tool has its own arguments and no settings.');
  const { description, argumentsSchema, dangerous, timeoutSeconds } = builtInTools[name];
  return {
    name: values.name ?? name,
    description: values.description ?? description,
    kind: 'BUILT_IN',
    schema: argumentsSchema,
    settings: { builtIn: name },
    dangerous: values.dangerous ?? dangerous,
    timeoutSeconds: values.timeoutSeconds ?? timeoutSeconds,
  };
}

function newHttpTool(values: ToolValues): NewTool {
  const { name, description, http } = values;
  if (http === undefined) {
    throw badInput('input.http', 'Say what the tool is: give either `http` or `builtIn`.');
  }
  if (name === undefined) {
    throw badInput('input.name', '`name` is required and may not be null.');
  }
  if (description === undefined) {
    throw badInput('input.description', '`description` is required: models choose the tool by it.');
  }
  return {
    name,
    description,
    kind: 'HTTP',
    schema: values.arguments ?? { type: 'object', properties: {}, additionalProperties: false },
    settings: toHttpSettings(http),
    // What it does at the other side is not known here.
    dangerous: values.dangerous ?? true,
    timeoutSeconds: values.timeoutSeconds ?? Math.min(usualSeconds, longestHttpSeconds),
  };
}

/**
 * Changes the members that are given and leaves the others. What a tool of an MCP server is called and takes is its
 * server's to say.
 * @throws DomainError NOT_FOUND, BAD_USER_INPUT, NAME_TAKEN, SECRETS_UNAVAILABLE
 */
export async function updateTool(
  operation: WriteOperation,
  toolId: string,
  input: ToolInput,
  resources: ToolResources,
): Promise<{ toolId: string }> {
  const values = parseInput(toolRules, input, 'input');
  const [tool] = await operation.query(lock, [operation.userId, toolId]);
  if (tool === undefined) {
    throw notFound('tool', 'id');
  }
  refuse(values, ['builtIn'], 'What a tool is can not be changed. Create another one.');
  if (tool.kind === 'BUILT_IN') {
    refuse(values, ['http', 'arguments', 'secrets'], 'A built-in tool has its own arguments and no settings.');
  }
  if (tool.kind === 'MCP') {
    refuse(
      values,
      ['name', 'description', 'http', 'arguments', 'secrets'],
      'This is for the MCP server of the tool to say.',
    );
  }
  const before = httpSettings(tool);
  const settings = values.http === undefined ? before : toHttpSettings(values.http);
  if (before !== null && settings !== null) {
    assertMayMove(before.url, settings.url, tool.secretNames, values.secrets, 'input.http.url');
  }
  const schema =
    values.arguments === undefined ? (tool.argumentsSchema as JsonObject) : checkSchema(resources, values.arguments);
  const timeoutSeconds = values.timeoutSeconds ?? tool.timeoutSeconds;
  const owner = { userId: operation.userId, table: 'tools' as const, rowId: toolId };
  const secrets = changeSecrets(resources.secrets, owner, tool, values.secrets);
  if (settings !== null) {
    checkHttpSettings(resources, settings, schema, secrets.secretNames, timeoutSeconds);
  }
  await withFreeName(() =>
    operation.query(change, [
      operation.userId,
      toolId,
      values.name ?? tool.name,
      values.description ?? tool.description,
      JSON.stringify(schema),
      JSON.stringify(settings ?? tool.settings),
      values.dangerous ?? tool.dangerous,
      values.approvalPolicy === undefined ? tool.approvalPolicy : values.approvalPolicy,
      timeoutSeconds,
      secrets.secrets,
      secrets.secretsKeyId,
      secrets.secretNames,
      operation.clock.now(),
      values.approvalTimeoutSeconds === undefined ? tool.approvalTimeoutSeconds : values.approvalTimeoutSeconds,
    ]),
  );
  return { toolId };
}

/**
 * Deletes a tool; agents that had it go on without it.
 * @throws DomainError NOT_FOUND, BAD_USER_INPUT for a tool of an MCP server, which goes with its server
 */
export async function deleteTool(operation: WriteOperation, toolId: string): Promise<{ deletedToolId: string }> {
  const [tool] = await operation.query(lock, [operation.userId, toolId]);
  if (tool === undefined) {
    throw notFound('tool', 'id');
  }
  if (tool.kind === 'MCP') {
    throw badInput('id', 'A tool of an MCP server goes with its server. To keep an agent from it, detach it.');
  }
  await operation.query(remove, [operation.userId, toolId]);
  return { deletedToolId: toolId };
}

/**
 * Makes sure that the caller may have so many more tools. Holds the user's row until the commit, so that of many at once
 * exactly as many get through as there is room for.
 * @throws DomainError QUOTA_EXCEEDED
 */
export async function reserveTools(operation: WriteOperation, more: number): Promise<void> {
  await operation.query(lockUser, [operation.userId]);
  const [row] = await operation.query(count, [operation.userId]);
  const used = row?.count ?? 0;
  if (used + more > mostTools) {
    const quota = { name: 'tools', limit: mostTools, used, resetsAt: null };
    throw new DomainError('QUOTA_EXCEEDED', `You may have at most ${mostTools} tools.`, { quota });
  }
}

/** @throws DomainError BAD_USER_INPUT for the first of the members that was given */
function refuse(values: ToolValues, members: readonly (keyof ToolValues)[], message: string): void {
  const given = members.find((member) => values[member] !== undefined);
  if (given !== undefined) {
    throw badInput(`input.${given}`, message);
  }
}

async function withFreeName<Result>(work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (sqlState(error) === '23505') {
      throw new DomainError('NAME_TAKEN', 'You already have a tool of that name.', { field: 'input.name' });
    }
    throw error;
  }
}
