import { randomBytes } from 'node:crypto';
import { mkdir, realpath, rm } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import {
  createDevelopmentKey,
  developmentAudience,
  developmentIssuer,
  signDevelopmentToken,
} from '../../dev/identity.ts';
import { roleUrls } from '../../dev/local.ts';
import { ownerUrl, startPostgres } from '../../dev/postgres.ts';
import { findFreePort } from '../../dev/process.ts';
import { startQdrant } from '../../dev/qdrant.ts';
import { startRedis } from '../../dev/redis.ts';
import { allowLogin, migrate } from '../../prisma/migrate.ts';
import { nodePart, type Part, serverPart } from './part.ts';

/** The service as it runs in production: every part a process of its own, here on one machine. */
export interface World {
  postgres: Part;
  redis: Part;
  qdrant: Part;
  /** Takes away all that Qdrant stored; it must be stopped. */
  wipeQdrant(): Promise<void>;
  model: Part;
  apis: readonly Part[];
  workers: readonly Part[];
  /** Where the APIs answer; each keeps its address over a restart. */
  urls: readonly string[];
  token(user: string): Promise<string>;
  /** A worker whose clock is wrong by so many milliseconds. */
  startSkewedWorker(milliseconds: number): Promise<Part>;
  /** Runs SQL as the superuser: to look, never as the service. */
  owner(sql: string, values?: unknown[]): Promise<Record<string, unknown>[]>;
  stop(): Promise<void>;
}

const processes = 2;
/** Shorter than in production, so that a fault is over in seconds. */
const settings = {
  TASK_LEASE: '3000',
  WORKER_POLL_INTERVAL: '500',
  HEARTBEAT_INTERVAL: '1000',
  SHUTDOWN_TIMEOUT: '5000',
  POOL_SIZE: '10',
  POOL_TIMEOUT: '5000',
  STATEMENT_TIMEOUT: '5000',
  LOG_LEVEL: 'info',
  // Few users send as much as many would.
  RATE_LIMIT_REQUESTS: '100000',
  RATE_LIMIT_SEND: '100000',
  RATE_LIMIT_SEARCH: '100000',
  MODEL_REQUESTS_PER_MINUTE: '1000000',
};

/** Starts everything anew, over data folders that are emptied first. */
export async function startWorld(folder: string): Promise<World> {
  await using started = new AsyncDisposableStack();
  // Parts may join later, when what is started now has been handed over.
  let owned: AsyncDisposableStack = started;
  await rm(folder, { recursive: true, force: true });
  await mkdir(join(folder, 'logs'), { recursive: true });
  const dataFolder = await realpath(folder);
  const logFile = (name: string): string => join(dataFolder, 'logs', `${name}.log`);
  const use = async (part: Part): Promise<Part> => {
    await part.start();
    // Also what was paused has to end.
    owned.defer(() => part.kill());
    return part;
  };

  const postgresPort = await findFreePort(null);
  let password = '';
  const postgres = await use(
    serverPart(
      async () => {
        const server = await startPostgres({
          dataFolder,
          logFile: logFile('postgres'),
          preferredPort: postgresPort,
          settings: { max_connections: '200' },
          onSpawn: () => undefined,
        });
        if (server.port !== postgresPort) {
          throw new Error('Postgres came back at another port');
        }
        password = server.ownerPassword;
        return server.process;
      },
      { folder: join(dataFolder, 'postgres'), names: /postgres/ },
    ),
  );
  const owner = ownerUrl(postgresPort, password);
  const urls = roleUrls(owner, password);
  await migrate({ ownerUrl: owner, direction: 'up' });
  await allowLogin(owner, urls.app);
  await allowLogin(owner, urls.worker);

  const redisPort = await findFreePort(null);
  const redis = await use(
    serverPart(async () => {
      const server = await startRedis({
        folder: join(dataFolder, 'redis'),
        logFile: logFile('redis'),
        preferredPort: redisPort,
        onSpawn: () => undefined,
        log: () => undefined,
      });
      return server.process;
    }),
  );

  const qdrantFolder = join(dataFolder, 'qdrant');
  const qdrantPort = await findFreePort(null);
  const qdrant = await use(
    serverPart(async () => {
      const server = await startQdrant({
        folder: qdrantFolder,
        logFile: logFile('qdrant'),
        preferredPort: qdrantPort,
        onSpawn: () => undefined,
      });
      return server.process;
    }),
  );

  const modelPort = await findFreePort(null);
  const modelUrl = `http://127.0.0.1:${modelPort}/v1`;
  const modelKey = randomBytes(12).toString('hex');
  const model = await use(
    nodePart({
      args: ['dev/offline-model/main.ts'],
      environment: { OFFLINE_MODEL_PORT: String(modelPort), OFFLINE_MODEL_API_KEY: modelKey },
      logFile: logFile('model'),
      isReady: async () => (await ask(`${modelUrl}/models`, modelKey)) < 500,
    }),
  );

  const key = await createDevelopmentKey();
  const environment = {
    ...settings,
    DATABASE_URL: urls.app,
    WORKER_DATABASE_URL: urls.worker,
    REDIS_URL: `redis://127.0.0.1:${redisPort}`,
    QDRANT_URL: `http://127.0.0.1:${qdrantPort}`,
    MODEL_BASE_URL: modelUrl,
    MODEL_API_KEY: modelKey,
    MODEL_NAME: 'offline-1',
    MODEL_EMBEDDING_NAME: 'offline-embedding',
    MODEL_CONNECT_TIMEOUT: '3000',
    MODEL_IDLE_TIMEOUT: '3000',
    TOKEN_ISSUER: developmentIssuer,
    TOKEN_AUDIENCE: developmentAudience,
    TOKEN_PUBLIC_KEY: JSON.stringify(key.publicKey),
  };
  const startProcess = async (name: string, args: string[], port: number | null): Promise<Part> => {
    const metricsPort = await findFreePort(null);
    return use(
      nodePart({
        args,
        environment: {
          ...environment,
          METRICS_PORT: String(metricsPort),
          ...(port === null ? {} : { PORT: String(port) }),
        },
        logFile: logFile(name),
        isReady: async () => (await ask(`http://127.0.0.1:${port ?? metricsPort}/health/ready`)) === 200,
      }),
    );
  };
  const workers: Part[] = [];
  const apis: Part[] = [];
  const apiUrls: string[] = [];
  for (let number = 1; number <= processes; number += 1) {
    const port = await findFreePort(null);
    workers.push(await startProcess(`worker-${number}`, ['src/worker.ts'], null));
    apis.push(await startProcess(`api-${number}`, ['src/server.ts'], port));
    apiUrls.push(`http://127.0.0.1:${port}/graphql`);
  }

  const all = started.move();
  owned = all;
  return {
    postgres,
    redis,
    qdrant,
    wipeQdrant: () => rm(join(qdrantFolder, 'storage'), { recursive: true, force: true }),
    model,
    apis,
    workers,
    urls: apiUrls,
    token: (user) => signDevelopmentToken(key, user),
    startSkewedWorker: (milliseconds) =>
      startProcess(
        'worker-skewed',
        ['--import', `data:text/javascript,${encodeURIComponent(skewedClock(milliseconds))}`, 'src/worker.ts'],
        null,
      ),
    owner: async (sql, values) => {
      const client = new pg.Client({ connectionString: owner, connectionTimeoutMillis: 10_000 });
      client.on('error', () => undefined);
      await client.connect();
      try {
        return (await client.query(sql, values)).rows;
      } finally {
        await client.end();
      }
    },
    stop: () => all.disposeAsync(),
  };
}

/** A program that moves the wall clock of its process. Timers go on as they are: they do not follow it. */
function skewedClock(milliseconds: number): string {
  return `
    const now = Date.now.bind(Date);
    globalThis.Date = class extends Date {
      constructor(...given) { given.length === 0 ? super(now() + ${milliseconds}) : super(...given); }
      static now() { return now() + ${milliseconds}; }
    };`;
}

/** Status of the answer; throws when there is none within two seconds. */
async function ask(url: string, key?: string): Promise<number> {
  const headers = key === undefined ? {} : { authorization: `Bearer ${key}` };
  const response = await fetch(url, { headers, signal: AbortSignal.timeout(2_000) });
  await response.body?.cancel();
  return response.status;
}
