import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { systemClock } from './adapters/clock.ts';
import { createLanguageModel } from './adapters/llm.ts';
import type { Log } from './adapters/log.ts';
import { createDatabase, type Database } from './adapters/postgres.ts';
import { type Channel, createChannel } from './adapters/redis.ts';
import { assertConfinedRole } from './adapters/role.ts';
import { createAuthenticator } from './auth.ts';
import type { Config } from './config.ts';
import { createHttpServer } from './http.ts';
import { createOperation } from './operation.ts';
import { createSchema } from './resolvers/schema.ts';
import { runAgent } from './runner/run-agent.ts';
import { startUpkeep } from './runner/upkeep.ts';
import { startWorker } from './runner/worker.ts';
import { signInUser } from './services/user.ts';

/** A running part of the service. */
export interface Running {
  /** Stops taking work, lets what runs finish within its time limit, and closes everything in reverse order. */
  stop(): Promise<void>;
}

export interface RunningApi extends Running {
  /** Where GraphQL answers. */
  url: string;
}

/**
 * Starts API and worker in this process, over one channel: so that live messages reach the API without Redis too.
 * @throws Error when a role could bypass row-level security
 */
export async function startAll(config: Config, log: Log): Promise<RunningApi> {
  await using started = new AsyncDisposableStack();
  const channel = createChannel({ url: config.REDIS_URL ?? null, log });
  started.defer(() => channel.close());
  const worker = await startTaskWorker(config, log, channel);
  started.defer(() => worker.stop());
  const api = await startApi(config, log, channel);
  started.defer(() => api.stop());
  const all = started.move();
  return { url: api.url, stop: () => all.disposeAsync() };
}

/**
 * Builds the API process and starts to listen. A channel that is handed in stays the caller's to close.
 * @throws Error when a role could bypass row-level security
 */
export async function startApi(config: Config, log: Log, shared?: Channel): Promise<RunningApi> {
  await using started = new AsyncDisposableStack();
  const database = await openDatabase(config, config.DATABASE_URL, 'app_user', log);
  started.defer(() => database.close());
  const channel = shared ?? createChannel({ url: config.REDIS_URL ?? null, log });
  if (shared === undefined) {
    started.defer(() => channel.close());
  }
  const resources = { database, channel, clock: systemClock() };
  const openOperation = (userId: string) => createOperation(resources, userId);
  const stopping = new AbortController();

  const server = createHttpServer({
    schema: createSchema(),
    authenticate: createAuthenticator({
      issuer: config.TOKEN_ISSUER,
      audience: config.TOKEN_AUDIENCE,
      keys:
        config.TOKEN_JWKS_URL === undefined
          ? { publicKey: config.TOKEN_PUBLIC_KEY ?? '' }
          : { url: config.TOKEN_JWKS_URL, cooldown: config.TOKEN_JWKS_COOLDOWN, maxAge: config.TOKEN_JWKS_MAX_AGE },
      signIn: (identity) => signInUser(database, openOperation, identity),
    }),
    openOperation,
    live: { channel, heartbeatInterval: config.HEARTBEAT_INTERVAL },
    log,
    trustProxy: config.TRUST_PROXY,
    graphiql: config.GRAPHIQL ? { token: config.GRAPHIQL_TOKEN ?? null } : null,
    readiness: () => readiness(database, channel, stopping.signal),
    stopping: stopping.signal,
  });
  server.listen(config.PORT, config.HOST);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  log.info({ port }, 'api listening');

  const all = started.move();
  return {
    url: `http://${config.HOST.includes(':') ? `[${config.HOST}]` : config.HOST}:${port}/graphql`,
    stop: async () => {
      const closed = once(server, 'close');
      server.close();
      stopping.abort();
      server.closeIdleConnections();
      const force = setTimeout(() => server.closeAllConnections(), config.SHUTDOWN_TIMEOUT);
      await closed;
      clearTimeout(force);
      await all.disposeAsync();
      log.info('api stopped');
    },
  };
}

/**
 * Builds the worker process and starts to claim tasks. A channel that is handed in stays the caller's to close.
 * @throws Error when a role could bypass row-level security
 */
export async function startTaskWorker(config: Config, log: Log, shared?: Channel): Promise<Running> {
  await using started = new AsyncDisposableStack();
  const database = await openDatabase(config, config.WORKER_DATABASE_URL, 'app_worker', log);
  started.defer(() => database.close());
  const channel = shared ?? createChannel({ url: config.REDIS_URL ?? null, log });
  if (shared === undefined) {
    started.defer(() => channel.close());
  }
  const resources = { database, channel, clock: systemClock(), log };
  const model = createLanguageModel({
    baseUrl: config.MODEL_BASE_URL,
    apiKey: config.MODEL_API_KEY,
    defaultModel: config.MODEL_NAME,
    defaultEmbeddingModel: config.MODEL_EMBEDDING_NAME,
    connectTimeout: config.MODEL_CONNECT_TIMEOUT,
    idleTimeout: config.MODEL_IDLE_TIMEOUT,
  });
  const worker = await startWorker(
    {
      ...resources,
      modelFor: () => model,
      taskTimeout: config.TASK_TIMEOUT,
    },
    {
      handlers: { AGENT_RUN: runAgent },
      slots: config.WORKER_SLOTS,
      pollInterval: config.WORKER_POLL_INTERVAL,
      lease: config.TASK_LEASE,
      stopTimeout: config.SHUTDOWN_TIMEOUT,
    },
  );
  const stopUpkeep = startUpkeep(resources, worker.id, {
    lease: config.TASK_LEASE,
    taskTimeout: config.TASK_TIMEOUT,
    retention: {
      expiredSessionDays: config.SESSION_RETENTION_DAYS,
      eventDays: config.EVENT_RETENTION_DAYS,
      eventsPerSession: config.EVENTS_PER_SESSION,
    },
  });
  const all = started.move();
  return {
    stop: async () => {
      await stopUpkeep();
      await worker.stop();
      await all.disposeAsync();
      log.info('worker stopped');
    },
  };
}

async function openDatabase(config: Config, url: string, role: string, log: Log): Promise<Database> {
  const database = createDatabase({
    url,
    poolSize: config.POOL_SIZE,
    connectionTimeout: config.POOL_TIMEOUT,
    statementTimeout: config.STATEMENT_TIMEOUT,
    applicationName: `retinue ${role}`,
    onError: (error) => log.warn({ reason: error.message }, 'idle database connection failed'),
  });
  try {
    await assertConfinedRole(database);
  } catch (error) {
    await database.close();
    throw error;
  }
  return database;
}

async function readiness(
  database: Database,
  channel: Channel,
  stopping: AbortSignal,
): Promise<{ ready: boolean; dependencies: Record<string, string> }> {
  const postgres = await database.query({ name: 'ready', text: 'SELECT 1' }).then(
    () => 'up',
    () => 'down',
  );
  // Redis only makes it fast: without it the service goes on from the log.
  return { ready: postgres === 'up' && !stopping.aborted, dependencies: { postgres, redis: channel.status() } };
}
