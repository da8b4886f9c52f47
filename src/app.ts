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

/** Builds the API process and starts to listen. @throws Error when a role could bypass row-level security */
export async function startApi(config: Config, log: Log): Promise<RunningApi> {
  const database = await openDatabase(config, config.DATABASE_URL, 'app_user', log);
  const channel = createChannel({ url: config.REDIS_URL ?? null, log });
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
          : { jwksUrl: config.TOKEN_JWKS_URL },
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
      await channel.close();
      await database.close();
      log.info('api stopped');
    },
  };
}

/** Builds the worker process and starts to claim tasks. @throws Error when a role could bypass row-level security */
export async function startTaskWorker(config: Config, log: Log): Promise<Running> {
  const database = await openDatabase(config, config.WORKER_DATABASE_URL, 'app_worker', log);
  const channel = createChannel({ url: config.REDIS_URL ?? null, log });
  const worker = await startWorker(
    {
      database,
      channel,
      clock: systemClock(),
      log,
      model: createLanguageModel({
        baseUrl: config.MODEL_BASE_URL,
        apiKey: config.MODEL_API_KEY,
        defaultModel: config.MODEL_NAME,
        connectTimeout: config.MODEL_CONNECT_TIMEOUT,
        idleTimeout: config.MODEL_IDLE_TIMEOUT,
      }),
      taskTimeout: config.TASK_TIMEOUT,
    },
    { slots: config.WORKER_SLOTS, pollInterval: config.WORKER_POLL_INTERVAL, stopTimeout: config.SHUTDOWN_TIMEOUT },
  );
  return {
    stop: async () => {
      await worker.stop();
      await channel.close();
      await database.close();
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
