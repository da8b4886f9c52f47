import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { inject } from 'vitest';
import {
  createDevelopmentKey,
  type DevelopmentKey,
  developmentAudience,
  developmentIssuer,
  signDevelopmentToken,
} from '../dev/identity.ts';
import { roleUrls } from '../dev/local.ts';
import { type OfflineModel, startOfflineModel } from '../dev/offline-model/server.ts';
import { createLog } from '../src/adapters/log.ts';
import { type RunningApi, startAll, startApi, startTaskWorker } from '../src/app.ts';
import { type Config, readConfig } from '../src/config.ts';

export interface TestDatabase {
  ownerUrl: string;
  appUrl: string;
  workerUrl: string;
  /** Runs SQL as the superuser, past every policy: to arrange and to look, never as the service. */
  owner(sql: string, values?: unknown[]): Promise<Record<string, unknown>[]>;
  drop(): Promise<void>;
}

function templateName(): string {
  return new URL(inject('templateUrl')).pathname.slice(1);
}

/** A name that belongs to this run, so that no other run takes it for left behind. */
export function newDatabaseName(): string {
  return templateName().replace('template', randomBytes(6).toString('hex'));
}

/** A fresh database with the whole schema, for one test file. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const name = newDatabaseName();
  const server = new URL(inject('templateUrl'));
  server.pathname = '/postgres';
  await withClient(server.href, async (client) => {
    // Copying a template needs it free of connections: two files that copy at once take turns.
    await client.query('SELECT pg_advisory_lock(7023)');
    await client.query(`CREATE DATABASE ${name} TEMPLATE ${templateName()}`);
  });
  const owner = new URL(inject('templateUrl'));
  owner.pathname = `/${name}`;
  const urls = roleUrls(owner.href, inject('ownerPassword'));
  const pool = new pg.Pool({ connectionString: owner.href, max: 4 });
  pool.on('error', () => undefined);
  return {
    ownerUrl: owner.href,
    appUrl: urls.app,
    workerUrl: urls.worker,
    owner: async (sql, values) => (await pool.query(sql, values)).rows,
    drop: async () => {
      await pool.end();
      await withClient(server.href, (client) => client.query(`DROP DATABASE ${name} WITH (FORCE)`));
    },
  };
}

async function withClient(url: string, work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}

export interface GraphQLAnswer {
  status: number;
  headers: Headers;
  // What a test asks for decides its shape; the test's own expectations check it.
  // biome-ignore lint/suspicious/noExplicitAny: see above
  data: any;
  errors: { message: string; path?: (string | number)[]; extensions: Record<string, unknown> }[];
}

export interface TestUser {
  name: string;
  token: string;
  /** Sends one GraphQL request over HTTP. */
  ask(query: string, variables?: Record<string, unknown>, headers?: Record<string, string>): Promise<GraphQLAnswer>;
}

export interface TestService {
  api: RunningApi;
  database: TestDatabase;
  model: OfflineModel;
  config: Config;
  /** The settings as a process of the service reads them. */
  environment: Record<string, string>;
  key: DevelopmentKey;
  user(name: string): Promise<TestUser>;
  stop(): Promise<void>;
}

/**
 * The real service over a database of its own: API, worker (unless left out) and the offline model.
 * API and worker share a channel as they do in one process, unless `separate` says that each has its own as they do in
 * two. With `redis: true` live messages go through the real Redis, with `qdrant: true` memories are searched in the real Qdrant.
 */
export async function startTestService(
  options: {
    worker?: boolean;
    redis?: boolean;
    qdrant?: boolean;
    separate?: boolean;
    environment?: Record<string, string>;
  } = {},
): Promise<TestService> {
  await using started = new AsyncDisposableStack();
  const database = await createTestDatabase();
  started.defer(() => database.drop());
  const model = await startOfflineModel();
  started.defer(() => model.stop());
  const key = await createDevelopmentKey();
  const redisUrl = inject('redisUrl');
  if (options.redis === true && redisUrl === null) {
    throw new Error('this test needs Redis: install redis-server or set REDIS_URL');
  }
  const qdrantUrl = inject('qdrantUrl');
  if (options.qdrant === true && qdrantUrl === null) {
    throw new Error('this test needs Qdrant: install its optional package');
  }
  const given: Record<string, string | undefined> = {
    DATABASE_URL: database.appUrl,
    WORKER_DATABASE_URL: database.workerUrl,
    REDIS_URL: options.redis === true ? (redisUrl ?? undefined) : undefined,
    QDRANT_URL: options.qdrant === true ? (qdrantUrl ?? undefined) : undefined,
    MODEL_BASE_URL: model.url,
    MODEL_API_KEY: model.apiKey,
    MODEL_NAME: 'offline-1',
    MODEL_EMBEDDING_NAME: 'offline-embedding-1',
    SECRET_KEYS: `test:${randomBytes(32).toString('base64')}`,
    TOKEN_ISSUER: developmentIssuer,
    TOKEN_AUDIENCE: developmentAudience,
    TOKEN_PUBLIC_KEY: JSON.stringify(key.publicKey),
    PORT: '0',
    POOL_SIZE: '10',
    LOG_LEVEL: 'silent',
    SHUTDOWN_TIMEOUT: '5000',
    // Where API and worker have no channel in common, polling is the worker's wake-up.
    WORKER_POLL_INTERVAL: '50',
    HEARTBEAT_INTERVAL: '200',
    // Limits are tested on purpose, not by accident.
    RATE_LIMIT_REQUESTS: '1000000',
    RATE_LIMIT_STREAMS: '1000000',
    RATE_LIMIT_SEND: '1000000',
    RATE_LIMIT_INGEST: '1000000',
    RATE_LIMIT_SEARCH: '1000000',
    RATE_LIMIT_COSTLY: '1000000',
    SLOW_AFTER_DENIALS: '1000000',
    INTROSPECTION: 'true',
    ...options.environment,
  };
  const environment = Object.fromEntries(
    Object.entries(given).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  );
  const config = readConfig(environment);
  const log = createLog({ level: config.LOG_LEVEL });
  const withWorker = options.worker !== false;
  if (withWorker && options.separate === true) {
    const worker = await startTaskWorker(config, log);
    started.defer(() => worker.stop());
  }
  const api = await (withWorker && options.separate !== true ? startAll(config, log) : startApi(config, log));
  started.defer(() => api.stop());
  const all = started.move();
  return {
    api,
    database,
    model,
    config,
    environment,
    key,
    user: async (name) => createTestUser(api.url, name, await signDevelopmentToken(key, name)),
    stop: () => all.disposeAsync(),
  };
}

/** A user that speaks to the API over HTTP with a token. */
export function createTestUser(url: string, name: string, token: string): TestUser {
  return {
    name,
    token,
    ask: async (query, variables = {}, headers = {}) => {
      const response = await fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${token}`, ...headers },
        body: JSON.stringify({ query, variables }),
        signal: AbortSignal.timeout(20_000),
      });
      const body = (await response.json()) as Partial<Pick<GraphQLAnswer, 'data' | 'errors'>>;
      return { status: response.status, headers: response.headers, data: body.data ?? null, errors: body.errors ?? [] };
    },
  };
}

/** Waits until `probe` gives something else than null, undefined or false. @throws Error after the deadline. */
export async function waitFor<Result>(
  what: string,
  probe: () => Promise<Result | null | undefined | false> | Result | null | undefined | false,
  deadline = 15_000,
): Promise<Result> {
  const end = performance.now() + deadline;
  for (;;) {
    const result = await probe();
    if (result !== null && result !== undefined && result !== false) {
      return result;
    }
    if (performance.now() > end) {
      throw new Error(`waited ${deadline} ms for ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
