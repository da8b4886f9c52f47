import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { systemClock } from './adapters/clock.ts';
import { createModelProbe } from './adapters/llm.ts';
import type { Log } from './adapters/log.ts';
import type { Metrics, PoolName } from './adapters/metrics.ts';
import { createOutgoing } from './adapters/outgoing.ts';
import { createDatabase, type Database } from './adapters/postgres.ts';
import { createPageReader } from './adapters/readable-page.ts';
import { assertConfinedRole } from './adapters/role.ts';
import { createLimits, createTerms } from './app/limits.ts';
import { createMemoryIndex } from './app/memory.ts';
import { createModels } from './app/model.ts';
import { createStreams } from './app/streams.ts';
import { createAuthenticator } from './auth.ts';
import type { Config } from './config.ts';
import type { ModelFor } from './governor/caller.ts';
import { createHttpServer } from './http.ts';
import { createOperation, type Origin } from './operation.ts';
import { httpUrl, type ProcessParts, startProcessParts } from './process.ts';
import { memoryTaskKinds } from './queue/kind.ts';
import { createSchema } from './resolvers/schema.ts';
import { composeAnswer } from './runner/compose-answer.ts';
import { createPlanner } from './runner/make-plan.ts';
import { startMemoryUpkeep } from './runner/memory-upkeep.ts';
import { createAgentRunner } from './runner/run-agent.ts';
import { createMemoryHandlers } from './runner/run-memory.ts';
import { askOtherAgent } from './runner/tools/ask-agent.ts';
import { calculate, currentTime, fetchPage } from './runner/tools/built-in.ts';
import { createToolLoader } from './runner/tools/load.ts';
import { rememberNote, searchOwnMemory } from './runner/tools/memory.ts';
import { startUpkeep } from './runner/upkeep.ts';

import { startWorker } from './runner/worker.ts';
import { createCalculator } from './services/calculation.ts';
import { createToolResources } from './services/tool-resources.ts';
import { signInUser } from './services/user.ts';
import type { StreamStats } from './streams/counts.ts';

/** A running part of the service. */
export interface Running {
  /** Address of metrics and health; null when METRICS_PORT is not set. */
  monitorUrl: string | null;
  /** Stops taking work, lets what runs finish within its time limit, and closes everything in reverse order. */
  stop(): Promise<void>;
}

export interface RunningApi extends Running {
  /** Where GraphQL answers. */
  url: string;
  /** A look at the event streams, for metrics. */
  streamStats: () => StreamStats;
}

/** What API and worker share when they are one process. */
type Parts = ProcessParts & { modelFor?: ModelFor };

/**
 * Starts API and worker in this process, over one channel: so that live messages reach the API without Redis too.
 * @throws Error when a role could bypass row-level security
 */
export async function startAll(config: Config, log: Log): Promise<RunningApi> {
  await using started = new AsyncDisposableStack();
  const parts = await startParts(config, 'retinue', config.DATABASE_URL, log);
  started.defer(() => parts.close());
  const worker = await startTaskWorker(config, log, parts);
  started.defer(() => worker.stop());
  const api = await startApi(config, log, parts);
  started.defer(() => api.stop());
  const all = started.move();
  return { url: api.url, monitorUrl: parts.monitorUrl, streamStats: api.streamStats, stop: () => all.disposeAsync() };
}

/**
 * Builds the API process and starts to listen. Parts that are handed in stay the caller's to close.
 * @throws Error when a role could bypass row-level security
 */
export async function startApi(config: Config, log: Log, shared?: Parts): Promise<RunningApi> {
  await using started = new AsyncDisposableStack();
  const parts = shared ?? (await startParts(config, 'retinue-api', config.DATABASE_URL, log));
  if (shared === undefined) {
    started.defer(() => parts.close());
  }
  const { channel, metrics, tracing } = parts;
  const database = await openDatabase(config, 'api', log, metrics);
  started.defer(() => database.close());
  const resources = { database, channel, clock: systemClock(), terms: createTerms(config) };
  const openOperation = (userId: string, origin?: Origin) => createOperation(resources, userId, origin);
  const stopping = new AbortController();
  const { feeds, streams } = createStreams(config, { database, channel, openOperation, log, metrics });
  started.defer(() => streams.stop());
  const outgoing = createOutgoing({ allowedOrigins: config.OUTGOING_ALLOW });
  started.defer(() => outgoing.close());

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
    feeds,
    streams,
    tools: createToolResources(outgoing, config.SECRET_KEYS),
    memory: createMemoryIndex(config),
    modelFor: parts.modelFor ?? createModels(config, log, parts),
    log,
    metrics,
    tracing,
    trustProxy: config.TRUST_PROXY,
    limits: await createLimits(config, parts.store),
    fieldSuggestions: config.FIELD_SUGGESTIONS,
    graphiql: config.GRAPHIQL ? { token: config.GRAPHIQL_TOKEN ?? null } : null,
    health: parts.health,
    stopping: stopping.signal,
  });
  server.listen(config.PORT, config.HOST);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  log.info({ port }, 'api listening');

  const all = started.move();
  return {
    url: `${httpUrl(config.HOST, port)}/graphql`,
    monitorUrl: parts.monitorUrl,
    streamStats: () => streams.stats(),
    stop: async () => {
      parts.beginStop();
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
 * Builds the worker process and starts to claim tasks. Parts that are handed in stay the caller's to close.
 * @throws Error when a role could bypass row-level security
 */
export async function startTaskWorker(config: Config, log: Log, shared?: Parts): Promise<Running> {
  await using started = new AsyncDisposableStack();
  const parts = shared ?? (await startParts(config, 'retinue-worker', config.WORKER_DATABASE_URL, log));
  if (shared === undefined) {
    started.defer(() => parts.close());
  }
  const { channel, metrics, tracing } = parts;
  const database = await openDatabase(config, 'worker', log, metrics);
  started.defer(() => database.close());
  const resources = { database, channel, clock: systemClock(), terms: createTerms(config), log, metrics, tracing };
  const outgoing = createOutgoing({ allowedOrigins: config.OUTGOING_ALLOW });
  started.defer(() => outgoing.close());
  const tools = createToolResources(outgoing, config.SECRET_KEYS);
  const memory = createMemoryIndex(config);
  const worker = await startWorker(
    {
      ...resources,
      modelFor: parts.modelFor ?? createModels(config, log, parts),
      approvalTimeout: config.APPROVAL_TIMEOUT,
    },
    {
      handlers: {
        AGENT_RUN: createAgentRunner({
          loadTools: createToolLoader(
            tools,
            {
              current_time: currentTime(),
              calculate: calculate(createCalculator()),
              fetch_page: fetchPage(outgoing, createPageReader({ threads: 2, timeout: 10_000 })),
              search_memory: searchOwnMemory(memory),
              remember: rememberNote(),
              ask_agent: askOtherAgent(),
            },
            config.MCP_LIST_MAX_AGE,
          ),
          memory,
          toolArguments: tools.arguments,
          maxTurns: config.AGENT_MAX_TURNS,
          resultLength: config.TOOL_RESULT_LENGTH,
        }),
        PLAN: createPlanner({ timeout: config.PLANNING_TIMEOUT, cacheLife: config.PLAN_CACHE_LIFE }),
        COMPOSE: composeAnswer,
        ...createMemoryHandlers(memory),
      },
      backgroundKinds: memoryTaskKinds,
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
    secrets: tools.secrets,
  });
  const stopMemoryUpkeep = startMemoryUpkeep(resources, worker.id, {
    lease: config.TASK_LEASE,
    vectors: memory.vectors,
    unusedDays: config.MEMORY_UNUSED_DAYS,
    maxCollections: config.MEMORY_MAX_COLLECTIONS,
  });
  const all = started.move();
  return {
    monitorUrl: parts.monitorUrl,
    stop: async () => {
      parts.beginStop();
      await Promise.all([stopUpkeep(), stopMemoryUpkeep()]);
      await worker.stop();
      await all.disposeAsync();
      log.info('worker stopped');
    },
  };
}

async function startParts(config: Config, serviceName: string, databaseUrl: string, log: Log): Promise<Parts> {
  const model = createModelProbe({ baseUrl: config.MODEL_BASE_URL, apiKey: config.MODEL_API_KEY });
  const { vectors } = createMemoryIndex(config);
  const parts = await startProcessParts(
    {
      databaseUrl,
      redisUrl: config.REDIS_URL ?? null,
      // Tasks wait for the model, and memories are searched by words; everything else goes on.
      dependencies: {
        model: { required: false, ask: model },
        qdrant: { required: false, ask: async () => (await vectors?.status()) ?? 'not configured' },
      },
      tracing:
        config.TRACES_URL === undefined ? null : { url: config.TRACES_URL, ratio: config.TRACES_RATIO, serviceName },
      monitor: config.METRICS_PORT === undefined ? null : { host: config.METRICS_HOST, port: config.METRICS_PORT },
    },
    log,
  );
  return { ...parts, modelFor: createModels(config, log, parts) };
}

async function openDatabase(config: Config, pool: PoolName, log: Log, metrics: Metrics): Promise<Database> {
  const database = createDatabase({
    url: pool === 'api' ? config.DATABASE_URL : config.WORKER_DATABASE_URL,
    poolSize: config.POOL_SIZE,
    connectionTimeout: config.POOL_TIMEOUT,
    statementTimeout: config.STATEMENT_TIMEOUT,
    applicationName: `retinue ${pool}`,
    onError: (error) => log.warn({ reason: error.message }, 'idle database connection failed'),
    onRefused: () => metrics.databaseRefused.add({ pool }),
  });
  metrics.databaseLimit.set({ pool }, config.POOL_SIZE);
  metrics.databaseConnections.watch({ pool, state: 'idle' }, () => database.usage().idle);
  metrics.databaseConnections.watch({ pool, state: 'used' }, () => database.usage().total - database.usage().idle);
  metrics.databaseWaiting.watch({ pool }, () => database.usage().waiting);
  try {
    await assertConfinedRole(database);
  } catch (error) {
    await database.close();
    throw error;
  }
  return database;
}
