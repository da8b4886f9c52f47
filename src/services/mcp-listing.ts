import { createHash } from 'node:crypto';
import { type McpTool, mostServerTools } from '../adapters/mcp.ts';
import { statement } from '../adapters/postgres.ts';
import { DomainError, notFound } from '../errors.ts';
import type { McpServerModel } from '../generated/prisma/models.ts';
import type { Operation, ReadOperation, WriteOperation } from '../operation.ts';
import { lockMcpServer, sealedMcpServer } from './mcp-server.ts';
import { redactSecrets, type Secrets } from './secret-box.ts';
import { reserveTools } from './tool.ts';
import type { ToolResources } from './tool-resources.ts';
import { openSecrets } from './tool-secrets.ts';

/** Longest wait for a list of tools, in milliseconds. */
const listTimeout = 15_000;
const longestName = 64;
const longestDescription = 2_000;
const longestError = 1_000;

interface StoredTool extends Record<string, unknown> {
  id: string;
  remoteName: string;
  description: string;
  schema: string;
}

const stored = statement<StoredTool>(`
  SELECT id, remote_name AS "remoteName", description, arguments_schema::text AS schema FROM tools
  WHERE user_id = $1 AND mcp_server_id = $2`);
const insert = statement(`
  INSERT INTO tools (user_id, name, description, kind, arguments_schema, mcp_server_id, remote_name)
  VALUES ($1, $2, $3, 'MCP', $4, $5, $6)`);
const sameSchema = statement<{ same: boolean }>(`SELECT $1::jsonb = $2::jsonb AS same`);
const change = statement(`
  UPDATE tools SET description = $3, arguments_schema = $4, dangerous = true, approval_policy = NULL, updated_at = $5
  WHERE user_id = $1 AND id = $2`);
const markPresent = statement(`
  UPDATE tools SET missing_since = CASE WHEN remote_name = ANY ($3::text[]) THEN NULL ELSE coalesce(missing_since, $4) END
  WHERE user_id = $1 AND mcp_server_id = $2 AND (missing_since IS NULL) <> (remote_name = ANY ($3::text[]))`);
const markListed = statement(`
  UPDATE mcp_servers SET listed_at = $3, list_error = $4 WHERE user_id = $1 AND id = $2`);
const claimStale = statement<{ id: string }>(`
  UPDATE mcp_servers SET listed_at = $4
  WHERE user_id = $1 AND id = ANY ($2::uuid[]) AND (listed_at IS NULL OR listed_at < $3)
  RETURNING id`);

/** Stores what a listing came to: in a transaction of its own, which may also keep a request's Idempotency-Key. */
type Save = (work: (operation: WriteOperation) => Promise<{ mcpServerId: string }>) => Promise<{ mcpServerId: string }>;

/**
 * Asks a server for its tools and stores them. A server that does not answer is no fault of the caller: it is told on the
 * server, and the tools of before stay.
 * @throws DomainError NOT_FOUND, QUOTA_EXCEEDED
 */
export async function refreshMcpServer(
  operation: ReadOperation,
  serverId: string,
  resources: ToolResources,
  signal: AbortSignal,
  save: Save,
): Promise<{ mcpServerId: string }> {
  const server = await sealedMcpServer(operation, serverId);
  if (server === null) {
    throw notFound('MCP server', 'id');
  }
  // No transaction is open while the server is asked.
  const listing = await list(server, resources, signal);
  return save(async (write) => {
    await storeListing(write, server, listing, resources);
    return { mcpServerId: serverId };
  });
}

/**
 * Asks servers again whose lists are older than `maxAge` milliseconds. Of several that find one stale, one asks; what
 * fails is told on the server, and the tools of before are used.
 */
export async function refreshStaleServers(
  operation: Operation,
  serverIds: readonly string[],
  maxAge: number,
  resources: ToolResources,
  signal: AbortSignal,
): Promise<void> {
  if (serverIds.length === 0) {
    return;
  }
  const stale = await operation.write(async (write) => {
    const now = write.clock.now();
    return write.query(claimStale, [write.userId, serverIds, new Date(now.getTime() - maxAge), now]);
  });
  await Promise.all(
    stale.map(async ({ id }) => {
      try {
        await refreshMcpServer(operation.read, id, resources, signal, (work) => operation.write(work));
      } catch (error) {
        // Deleted meanwhile, or too many tools: neither is a reason for the run not to begin.
        if (!(error instanceof DomainError)) {
          throw error;
        }
      }
    }),
  );
}

type Listing = { tools: McpTool[] } | { fault: string };

async function list(server: McpServerModel, resources: ToolResources, signal: AbortSignal): Promise<Listing> {
  try {
    const secrets = openServerSecrets(server, resources);
    try {
      const tools = await resources.mcp.listTools({ url: server.url, headers: secrets }, listTimeout, signal);
      // A server may put what it was sent into its own descriptions.
      return { tools: JSON.parse(redactSecrets(JSON.stringify(tools), telling(secrets))) as McpTool[] };
    } catch (error) {
      throw error instanceof DomainError
        ? new DomainError(error.code, redactSecrets(error.message, telling(secrets)))
        : error;
    }
  } catch (error) {
    if (error instanceof DomainError) {
      return { fault: error.message };
    }
    throw error;
  }
}

/** The headers that a server is sent. @throws DomainError SECRETS_UNAVAILABLE */
export function openServerSecrets(
  server: Pick<McpServerModel, 'userId' | 'id' | 'secrets' | 'secretsKeyId'>,
  resources: Pick<ToolResources, 'secrets'>,
): Secrets {
  return openSecrets(resources.secrets, { userId: server.userId, table: 'mcp_servers', rowId: server.id }, server);
}

/** What in headers is a secret by itself: `Bearer abc` tells as much as `abc` does. */
export function telling(headers: Secrets): Secrets {
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) => [
      [name, value],
      ...value
        .split(/\s+/)
        .flatMap((part, place) => (place > 0 && part.length >= 4 ? [[`${name} ${place}`, part]] : [])),
    ]),
  );
}

async function storeListing(
  operation: WriteOperation,
  asked: McpServerModel,
  listing: Listing,
  resources: ToolResources,
): Promise<void> {
  const server = await lockMcpServer(operation, asked.id);
  if (server === null) {
    throw notFound('MCP server', 'id');
  }
  if (server.url !== asked.url) {
    // It was moved while the old address was asked: what that said is of no use.
    return;
  }
  const now = operation.clock.now();
  if ('fault' in listing) {
    await operation.query(markListed, [operation.userId, server.id, now, listing.fault.slice(0, longestError)]);
    return;
  }
  const { usable, faults } = sift(listing.tools, resources);
  const before = await operation.query(stored, [operation.userId, server.id]);
  const known = new Map(before.map((tool) => [tool.remoteName, tool]));
  const names = toolNames(server.name, [...new Set([...known.keys(), ...usable.map(({ name }) => name)])]);
  const added = usable.filter(({ name }) => !known.has(name));
  if (added.length > 0) {
    await reserveTools(operation, added.length);
  }
  for (const tool of usable) {
    const old = known.get(tool.name);
    const schema = JSON.stringify(tool.argumentsSchema);
    if (old === undefined) {
      const name = names.get(tool.name);
      await operation.query(insert, [operation.userId, name, tool.description, schema, server.id, tool.name]);
    } else if (old.description !== tool.description || !(await isSame(operation, old.schema, schema))) {
      // It is another tool now than the one that the user trusted.
      await operation.query(change, [operation.userId, old.id, tool.description, schema, now]);
    }
  }
  const present = usable.map(({ name }) => name);
  await operation.query(markPresent, [operation.userId, server.id, present, now]);
  const error = faults.length === 0 ? null : `Left out: ${faults.join('; ')}`.slice(0, longestError);
  await operation.query(markListed, [operation.userId, server.id, now, error]);
}

async function isSame(operation: WriteOperation, one: string, other: string): Promise<boolean> {
  const [row] = await operation.query(sameSchema, [one, other]);
  return row?.same ?? false;
}

/** What can be offered to models of what a server lists, and why the rest can't. */
function sift(listed: readonly McpTool[], resources: ToolResources): { usable: McpTool[]; faults: string[] } {
  const usable = new Map<string, McpTool>();
  const faults: string[] = [];
  for (const { name, description, argumentsSchema } of listed.slice(0, mostServerTools)) {
    const label = JSON.stringify(name.slice(0, 60));
    const fault = resources.arguments.findSchemaFault(argumentsSchema, false);
    if (fault !== null) {
      faults.push(`${label} (its schema${fault.path === '' ? '' : ` at ${fault.path}`} ${fault.message})`);
    } else if (
      name === '' ||
      name.length > 200 ||
      name.includes('\u0000') ||
      JSON.stringify(argumentsSchema).includes('\\u0000')
    ) {
      faults.push(`${label} (its name or schema can't be stored)`);
    } else if (!usable.has(name)) {
      const shown = description.replaceAll('\u0000', '').toWellFormed().slice(0, longestDescription);
      usable.set(name, { name, description: shown, argumentsSchema });
    }
  }
  return { usable: [...usable.values()], faults };
}

/**
 * What models call a server's tools by: the server's name, `__`, and the tool's name as far as models take it. Two that
 * would be alike, and those that are too long, end in a hash of the tool's own name.
 */
export function toolNames(serverName: string, remoteNames: readonly string[]): Map<string, string> {
  const plain = (remote: string): string => `${serverName}__${remote.replace(/[^A-Za-z0-9_-]/g, '_')}`;
  const counts = new Map<string, number>();
  for (const remote of remoteNames) {
    const key = plain(remote).toLowerCase();
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return new Map(
    remoteNames.map((remote) => {
      const name = plain(remote);
      const isPlain = name.length <= longestName && counts.get(name.toLowerCase()) === 1;
      const hash = createHash('sha256').update(remote).digest('hex').slice(0, 10);
      return [remote, isPlain ? name : `${name.slice(0, longestName - hash.length - 1)}_${hash}`];
    }),
  );
}
