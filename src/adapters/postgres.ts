import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import pg from 'pg';
import { DomainError } from '../errors.ts';
import { createPrismaBinding, type PrismaTransaction } from './prisma.ts';

/** A prepared statement: its name lets the server reuse the plan on every connection. */
export interface Statement<Row extends pg.QueryResultRow = pg.QueryResultRow> {
  readonly name: string;
  readonly text: string;
  /** Only a type: what a row of the result looks like. */
  readonly row?: Row;
}

/** One Postgres transaction that acts as one user (or as nobody, who sees no rows). */
export interface Transaction {
  query<Row extends pg.QueryResultRow>(statement: Statement<Row>, values?: unknown[]): Promise<Row[]>;
  /** Prisma's client over this very transaction. */
  prisma(): Promise<PrismaTransaction>;
  commit(): Promise<void>;
  rollback(): Promise<void>;
}

export interface Database {
  /** @throws DomainError SERVICE_BUSY when no connection came free in time. */
  begin(mode: 'read' | 'write', userId: string | null): Promise<Transaction>;
  /** One statement of its own, as nobody: for the engine's functions. @throws DomainError SERVICE_BUSY as `begin` does */
  query<Row extends pg.QueryResultRow>(statement: Statement<Row>, values?: unknown[]): Promise<Row[]>;
  /**
   * A connection of the pool that stays with its holder: its statements wait for no other connection to come free, to be
   * opened, or to have their plans made.
   */
  reserve(): Reserved;
  /** Connections open, idle, and callers waiting for one. */
  usage(): { total: number; idle: number; waiting: number };
  close(): Promise<void>;
}

/** What the engine's functions need: statements of their own, as nobody. */
export type Statements = Pick<Database, 'query'>;

/** A connection that is taken at the first statement, and anew after a fault. */
export interface Reserved extends Statements {
  /** Gives it back to the pool. */
  close(): void;
}

export interface DatabaseOptions {
  url: string;
  poolSize: number;
  /** How long a caller waits for a connection, in milliseconds. */
  connectionTimeout: number;
  /** How long one statement may run, in milliseconds. */
  statementTimeout: number;
  applicationName: string;
  onError: (error: Error) => void;
  /** Called for each caller that got no connection in time. */
  onRefused?: () => void;
}

/**
 * Milliseconds until a connection that has nothing to do is closed. A new one has to read catalogs and to plan each
 * statement anew, some 50 ms of work that its first user waits for: load that comes and goes shall find those of before.
 */
const idleTimeout = 600_000;
/** How long a closing pool waits for the server to end its connections, in milliseconds. */
const goodbyeTimeout = 2_000;
const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const bigintType = 20;

/** Names a statement after its text, so that equal texts share one prepared plan. */
export function statement<Row extends pg.QueryResultRow = pg.QueryResultRow>(text: string): Statement<Row> {
  return { name: createHash('sha256').update(text).digest('base64url').slice(0, 24), text };
}

/** SQLSTATE of a Postgres error, from `pg` itself or as Prisma wraps it; undefined for everything else. */
export function sqlState(error: unknown): string | undefined {
  if (error instanceof pg.DatabaseError) {
    return error.code;
  }
  if (error instanceof Error && 'meta' in error) {
    const meta = error.meta as { driverAdapterError?: { cause?: { originalCode?: string } } } | undefined;
    return meta?.driverAdapterError?.cause?.originalCode;
  }
  return undefined;
}

/** Classes and codes of SQLSTATE that say nothing about the statement: connection lost, no resources, shut down, timed out. */
const passingStates = /^(08|53|57P|57014|25P03|55P03)/;
const connectionMessages = /^(Connection terminated|Client has encountered a connection error|Query read timeout)/;
const connectionCodes = new Set(['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'EHOSTUNREACH', 'ENOTFOUND']);

/** Whether Postgres was away or out of capacity, so that the same work may succeed later. */
export function isPassingFault(error: unknown): boolean {
  const state = sqlState(error);
  if (state !== undefined) {
    return passingStates.test(state);
  }
  if (!(error instanceof Error)) {
    return false;
  }
  const code = 'code' in error ? error.code : undefined;
  return connectionMessages.test(error.message) || (typeof code === 'string' && connectionCodes.has(code));
}

/**
 * Asks the server for a sign of life over a connection of its own: a pool whose connections are all taken says nothing
 * of the server.
 */
export function createProbe(url: string, timeout: number): { ask(): Promise<void>; close(): Promise<void> } {
  const pool = new pg.Pool({
    connectionString: url,
    max: 1,
    connectionTimeoutMillis: timeout,
    query_timeout: timeout,
    application_name: 'retinue probe',
    keepAlive: true,
  });
  pool.on('error', () => undefined);
  return { ask: async () => void (await pool.query('SELECT 1')), close: prepareEnd(pool) };
}

/** A pool of connections whose transactions say at their start which user they act for. */
export function createDatabase(options: DatabaseOptions): Database {
  const pool = new pg.Pool({
    connectionString: options.url,
    max: options.poolSize,
    connectionTimeoutMillis: options.connectionTimeout,
    idleTimeoutMillis: idleTimeout,
    application_name: options.applicationName,
    statement_timeout: options.statementTimeout,
    idle_in_transaction_session_timeout: options.statementTimeout * 2,
    // A server that went silent would hold the caller for ever: the client gives up a little after the server should have.
    query_timeout: options.statementTimeout + 5_000,
    keepAlive: true,
    // BEGIN travels with the first statement instead of waiting for its own round trip.
    pipeline: true,
    types: {
      getTypeParser: (type: number, format?: 'text' | 'binary') =>
        type === bigintType ? (value: string) => BigInt(value) : pg.types.getTypeParser(type, format),
    } as pg.CustomTypesConfig,
  });
  pool.on('error', options.onError);
  // Not before: connecting a socket takes away what was put in the place of its methods.
  pool.on('connect', (client) => gatherWrites((client as pg.PoolClient & pg.Client).connection.stream));
  const endPool = prepareEnd(pool);
  const prisma = createPrismaBinding(pool);

  const connect = async (): Promise<pg.PoolClient> => {
    try {
      return await pool.connect();
    } catch (error) {
      if (error instanceof Error && error.message.includes('timeout exceeded when trying to connect')) {
        options.onRefused?.();
        throw new DomainError('SERVICE_BUSY', 'The service is busy. Try again shortly.', {
          retryAfter: 1,
          cause: error,
        });
      }
      throw error;
    }
  };

  const reservations = new Set<Reserved>();

  return {
    begin: async (mode, userId) => {
      if (userId !== null && !uuidPattern.test(userId)) {
        throw new Error('a transaction must act for a user id');
      }
      const client = await connect();
      return openTransaction(client, prisma.bind, mode, userId);
    },
    query: async (prepared, values = []) => {
      const client = await connect();
      const ignoreLoss = (): void => undefined;
      client.on('error', ignoreLoss);
      let failed = true;
      try {
        const { rows } = await client.query({ name: prepared.name, text: prepared.text, values });
        failed = false;
        return rows;
      } finally {
        client.off('error', ignoreLoss);
        // After a fault nobody knows what state the connection is in.
        client.release(failed);
      }
    },
    reserve: () => {
      const reserved = reserveConnection(connect, () => reservations.delete(reserved));
      reservations.add(reserved);
      return reserved;
    },
    usage: () => ({ total: pool.totalCount, idle: pool.idleCount, waiting: pool.waitingCount }),
    close: async () => {
      for (const reserved of reservations) {
        reserved.close();
      }
      await prisma.close();
      await endPool();
    },
  };
}

/**
 * Notes which connections a pool has, so that its end can wait until the server has closed them: the pool's own only sends
 * them away, and who stops the server next would have them lost.
 * @returns closes the pool
 */
function prepareEnd(pool: pg.Pool): () => Promise<void> {
  const open = new Set<pg.PoolClient>();
  pool.on('connect', (client) => open.add(client));
  pool.on('remove', (client) => open.delete(client));
  return async () => {
    await pool.end();
    const signal = AbortSignal.timeout(goodbyeTimeout);
    while (open.size > 0 && !signal.aborted) {
      // A connection that is lost meanwhile has ended too.
      await once(pool, 'remove', { signal }).catch(() => undefined);
    }
  };
}

/** Lets what is written in one turn go out in one packet: pipelined statements cost one system call, not one each. */
function gatherWrites(stream: Duplex): void {
  const write = stream.write.bind(stream) as (...values: unknown[]) => boolean;
  let isGathering = false;
  stream.write = (...values: unknown[]): boolean => {
    if (!isGathering) {
      isGathering = true;
      stream.cork();
      process.nextTick(() => {
        isGathering = false;
        stream.uncork();
      });
    }
    return write(...values);
  };
}

function reserveConnection(connect: () => Promise<pg.PoolClient>, onClose: () => void): Reserved {
  let held: Promise<pg.PoolClient> | undefined;
  let closed = false;
  const letGo = (lost: Promise<pg.PoolClient>): void => {
    if (held === lost) {
      held = undefined;
      lost.then((client) => client.release(true)).catch(() => undefined);
    }
  };
  const take = (): Promise<pg.PoolClient> => {
    const taken = connect();
    held = taken;
    // A connection that is lost while it has nothing to do says so by an event, which would end the process when nobody listens.
    taken.then((client) => void client.on('error', () => letGo(taken))).catch(() => letGo(taken));
    return taken;
  };
  return {
    query: async (prepared, values = []) => {
      if (closed) {
        throw new Error('the connection was given back');
      }
      const taken = held ?? take();
      const client = await taken;
      try {
        return (await client.query({ name: prepared.name, text: prepared.text, values })).rows;
      } catch (error) {
        // After a fault nobody knows what state the connection is in.
        letGo(taken);
        throw error;
      }
    },
    close: () => {
      closed = true;
      onClose();
      if (held !== undefined) {
        letGo(held);
      }
    },
  };
}

type BindPrisma = (client: pg.PoolClient) => Promise<{ transaction: PrismaTransaction; finish: () => Promise<void> }>;

function openTransaction(
  client: pg.PoolClient,
  bindPrisma: BindPrisma,
  mode: 'read' | 'write',
  userId: string | null,
): Transaction {
  // The id was checked to be a UUID: SET LOCAL takes no parameters, and a simple query carries both in one trip.
  const start = mode === 'read' ? 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY' : 'BEGIN';
  const begun = client.query(`${start}; SET LOCAL app.user_id = '${userId ?? ''}'`);
  // Whoever queries next sees the same failure; without a listener it would end the process.
  begun.catch(() => undefined);
  let binding: ReturnType<BindPrisma> | undefined;
  let ended = false;
  // A connection that is lost between two statements says so by an event, which would end the process when nobody
  // listens; the next statement fails on it anyway.
  const ignoreLoss = (): void => undefined;
  client.on('error', ignoreLoss);
  const release = (isLost?: boolean): void => {
    client.off('error', ignoreLoss);
    client.release(isLost);
  };

  const end = async (command: 'COMMIT' | 'ROLLBACK'): Promise<void> => {
    if (ended) {
      return;
    }
    ended = true;
    try {
      if (binding !== undefined) {
        await (await binding).finish();
      }
      // It follows whatever is on its way without waiting for it; the server takes one after the other.
      const [, result] = await Promise.all([begun, client.query(command)]);
      if (command === 'COMMIT' && result.command !== 'COMMIT') {
        // Postgres answers COMMIT of a failed transaction with ROLLBACK and no error.
        throw new Error('the transaction had failed and was rolled back');
      }
      release();
    } catch (error) {
      // A rollback that went through leaves the connection usable; anything else does not.
      const rolledBack = error instanceof Error && error.message.startsWith('the transaction had failed');
      release(!rolledBack);
      throw error;
    }
  };

  return {
    query: async (prepared, values = []) => {
      if (ended) {
        throw new Error('the transaction has ended');
      }
      return (await client.query({ name: prepared.name, text: prepared.text, values })).rows;
    },
    prisma: async () => {
      binding ??= bindPrisma(client);
      return (await binding).transaction;
    },
    commit: () => end('COMMIT'),
    rollback: () => end('ROLLBACK'),
  };
}
