import { randomUUID } from 'node:crypto';
import { chmodSync } from 'node:fs';
import { mkdir, readFile, realpath } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { isPostgresReady, ownerUrl, type PostgresServer, startPostgres } from './postgres.ts';
import {
  findProcessesIn,
  identifyProcess,
  isRunning,
  type ProcessIdentity,
  type ServerProcess,
  stopProcess,
} from './process.ts';
import { isQdrantReady, QDRANT_STOP_STEPS, type QdrantServer, startQdrant } from './qdrant.ts';
import { askRedisProcessId, REDIS_STOP_STEPS, type RedisServer, startRedis } from './redis.ts';
import {
  readStackState,
  type StackPart,
  type StackState,
  stopRecordedProcesses,
  writeStackState,
} from './stack-state.ts';
import { takeStartLock } from './start-lock.ts';

/** How long a start waits for another one of the same folder; covers a first start that installs Redis. */
const LOCK_DEADLINE_MS = 300_000;
const STATE_FILE = 'stack.json';
const NO_REDIS = 'without it one process serves alone, without shared rate limits and live events between processes';
const NO_QDRANT = "without it memory is searched by words in Postgres, and says that it's degraded";

/** The servers that the service needs, running on this machine for development and tests. */
export interface Stack {
  readonly postgres: {
    readonly host: string;
    readonly port: number;
    /** Connects the superuser to the database `retinue`. */
    readonly ownerUrl: string;
    readonly ownerPassword: string;
  };
  /** Null when Redis couldn't be started or wasn't wanted. */
  readonly redisUrl: string | null;
  /** Null when Qdrant couldn't be started or wasn't wanted. */
  readonly qdrantUrl: string | null;
  /** One line for each part that couldn't be started, with what that costs. */
  readonly notices: readonly string[];
  /** True when the stack was already running, so that `stop` leaves it alone. */
  readonly isReused: boolean;
  /** The server processes this call started. */
  readonly processes: Readonly<Partial<Record<StackPart, ProcessIdentity>>>;
  /** Stops what this call started, in reverse order and bounded in time. Can be called more than once. */
  stop(): Promise<void>;
}

export interface StackOptions {
  /** Holds all data, logs and state; created when missing. */
  readonly dataFolder: string;
  /** False leaves Redis out. */
  readonly redis?: boolean;
  /** False leaves Qdrant out. */
  readonly qdrant?: boolean;
  /** A Redis that runs already, used instead of starting one. */
  readonly redisUrl?: string | undefined;
  /** Settings for Postgres beside or instead of the stack's own, such as `{ fsync: 'off' }` for tests. */
  readonly postgresSettings?: Readonly<Record<string, string>>;
  /** Receives a line for each step. */
  readonly log?: (line: string) => void;
  /** False refuses, instead of reuses, a stack that already runs in the folder. */
  readonly reuse?: boolean;
}

/**
 * Starts real Postgres, Redis and Qdrant on 127.0.0.1 over the folder's data, or reuses those that already run there.
 * What a killed run left behind is cleared first. The servers end with this process, also when it is killed.
 *
 * @throws Error when Postgres can't be started; the other two are optional and only noticed.
 */
export async function startStack(options: StackOptions): Promise<Stack> {
  await mkdir(resolve(options.dataFolder), { recursive: true });
  // Processes are found by their working folder, which the system reports without symbolic links.
  const dataFolder = await realpath(resolve(options.dataFolder));
  const unlock = await takeStartLock(join(dataFolder, 'start.lock'), LOCK_DEADLINE_MS);
  try {
    const stateFile = join(dataFolder, STATE_FILE);
    const previous = readStackState(stateFile);
    const running = previous && (await findRunningStack(previous));
    if (running && options.reuse === false) {
      throw new Error(`A stack already runs in ${dataFolder}, started by process ${previous.owner.pid}.`);
    }
    if (running) {
      options.log?.(`Reusing the stack that runs in ${dataFolder}, started by process ${previous.owner.pid}.`);
      return running;
    }
    if (previous) await stopRecordedProcesses(previous);
    await stopUnrecordedProcesses(dataFolder);
    return await startServers({ ...options, dataFolder }, stateFile, previous?.ports ?? {});
  } finally {
    unlock();
  }
}

async function findRunningStack(state: StackState): Promise<Stack | null> {
  // Without its owner a stack is about to be stopped by its watchdogs.
  if (!state.running || !isRunning(state.owner)) return null;
  const { postgres } = state.running;
  const password = (await readFile(postgres.passwordFile, 'utf8').catch(() => '')).trim();
  const url = ownerUrl(postgres.port, password);
  if (!(await isPostgresReady(url))) return null;
  const notices = [...state.running.notices];
  let { redisUrl, qdrantUrl } = state.running;
  if (redisUrl !== null && (await askRedisProcessId(redisUrl)) === null) {
    notices.push(`Redis of the running stack doesn't answer: ${NO_REDIS}.`);
    redisUrl = null;
  }
  if (qdrantUrl !== null && !(await isQdrantReady(qdrantUrl))) {
    notices.push(`Qdrant of the running stack doesn't answer: ${NO_QDRANT}.`);
    qdrantUrl = null;
  }
  return {
    postgres: { host: '127.0.0.1', port: postgres.port, ownerUrl: url, ownerPassword: password },
    redisUrl,
    qdrantUrl,
    notices,
    isReused: true,
    processes: {},
    stop: async () => undefined,
  };
}

/** Finds by their working folder what a kill kept from being recorded; Postgres looks for its own. */
async function stopUnrecordedProcesses(dataFolder: string): Promise<void> {
  for (const orphan of findProcessesIn(join(dataFolder, 'qdrant'), /qdrant/)) {
    await stopProcess(orphan, QDRANT_STOP_STEPS);
  }
  for (const orphan of findProcessesIn(join(dataFolder, 'redis'), /redis|valkey/)) {
    await stopProcess(orphan, REDIS_STOP_STEPS);
  }
}

async function startServers(options: StackOptions, stateFile: string, ports: StackState['ports']): Promise<Stack> {
  const { dataFolder } = options;
  const log = options.log ?? (() => undefined);
  const logFolder = join(dataFolder, 'logs');
  await mkdir(logFolder, { recursive: true });
  // Postgres may run as another user that has to pass through, and nobody else has business here.
  chmodSync(dataFolder, 0o711);
  chmodSync(logFolder, 0o700);
  const owner = identifyProcess(process.pid);
  if (!owner) throw new Error('This system does not tell about its processes (no /proc and no ps).');
  const state: StackState = { id: randomUUID(), owner, spawned: [], running: null, ports: { ...ports } };
  const record = (part: StackPart) => (identity: ProcessIdentity) => {
    state.spawned.push({ part, process: { ...identity } });
    writeStackState(stateFile, state);
  };
  const started: ServerProcess[] = [];
  const notices: string[] = [];

  const startRequired = async (): Promise<PostgresServer> => {
    const server = await startPostgres({
      dataFolder,
      logFile: join(logFolder, 'postgres.log'),
      preferredPort: ports.postgres ?? null,
      settings: options.postgresSettings ?? {},
      onSpawn: record('postgres'),
    });
    started.push(server.process);
    if (server.notice) notices.push(server.notice);
    log(`Postgres answers on port ${server.port}.`);
    return server;
  };
  const startOptional = async <T extends RedisServer | QdrantServer>(
    name: string,
    cost: string,
    start: () => Promise<T>,
  ): Promise<T | null> => {
    try {
      const server = await start();
      started.push(server.process);
      log(`${name} answers on port ${server.port}.`);
      return server;
    } catch (error) {
      notices.push(`${name} couldn't be started: ${error instanceof Error ? error.message : String(error)}; ${cost}.`);
      return null;
    }
  };
  const startOwnRedis = (): Promise<RedisServer | null> =>
    startOptional('Redis', NO_REDIS, () =>
      startRedis({
        folder: join(dataFolder, 'redis'),
        logFile: join(logFolder, 'redis.log'),
        preferredPort: ports.redis ?? null,
        onSpawn: record('redis'),
        log,
      }),
    );
  const startOwnQdrant = (): Promise<QdrantServer | null> =>
    startOptional('Qdrant', NO_QDRANT, () =>
      startQdrant({
        folder: join(dataFolder, 'qdrant'),
        logFile: join(logFolder, 'qdrant.log'),
        preferredPort: ports.qdrant ?? null,
        onSpawn: record('qdrant'),
      }),
    );

  const givenRedis = options.redis === false ? undefined : options.redisUrl;
  const [postgresResult, redis, qdrant] = await Promise.all([
    startRequired().then(
      (server) => ({ server }),
      (error: unknown) => ({ error }),
    ),
    options.redis === false || givenRedis !== undefined ? null : startOwnRedis(),
    options.qdrant === false ? null : startOwnQdrant(),
  ]);
  if ('error' in postgresResult) {
    await stopAll(started);
    throw postgresResult.error;
  }
  const postgres = postgresResult.server;
  if (givenRedis !== undefined && (await askRedisProcessId(givenRedis)) === null) {
    notices.push(`The Redis given by its address doesn't answer yet; until it does: ${NO_REDIS}.`);
  }
  state.ports = {
    postgres: postgres.port,
    ...(redis ? { redis: redis.port } : {}),
    ...(qdrant ? { qdrant: qdrant.port } : {}),
  };
  const redisUrl = givenRedis ?? redis?.url ?? null;
  const qdrantUrl = qdrant?.url ?? null;
  const { port, passwordFile, ownerPassword } = postgres;
  state.running = { postgres: { port, passwordFile }, redisUrl, qdrantUrl, notices };
  writeStackState(stateFile, state);
  let stopping: Promise<void> | null = null;
  return {
    postgres: { host: '127.0.0.1', port, ownerUrl: ownerUrl(port, ownerPassword), ownerPassword },
    redisUrl,
    qdrantUrl,
    notices,
    isReused: false,
    processes: {
      postgres: postgres.process.identity,
      ...(redis ? { redis: redis.process.identity } : {}),
      ...(qdrant ? { qdrant: qdrant.process.identity } : {}),
    },
    stop: () => {
      stopping ??= stopStack(dataFolder, stateFile, state, started);
      return stopping;
    },
  };
}

async function stopStack(
  dataFolder: string,
  stateFile: string,
  state: StackState,
  started: readonly ServerProcess[],
): Promise<void> {
  const unlock = await takeStartLock(join(dataFolder, 'start.lock'), LOCK_DEADLINE_MS);
  try {
    await stopAll(started);
    const isOurs = readStackState(stateFile)?.id === state.id;
    // The ports stay on record for the next start.
    if (isOurs) writeStackState(stateFile, { ...state, spawned: [], running: null });
  } finally {
    unlock();
  }
}

/** Stops in reverse order; one that resists doesn't keep the others running. */
async function stopAll(servers: readonly ServerProcess[]): Promise<void> {
  const failures: unknown[] = [];
  for (const server of servers.toReversed()) {
    await server.stop().catch((error: unknown) => failures.push(error));
  }
  if (failures.length > 0) throw new AggregateError(failures, 'Some servers of the stack could not be stopped.');
}
