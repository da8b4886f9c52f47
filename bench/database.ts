import { mkdir } from 'node:fs/promises';
import pg from 'pg';
import { roleUrls } from '../dev/local.ts';
import { type Stack, startStack } from '../dev/stack.ts';
import { allowLogin, migrate } from '../prisma/migrate.ts';

/** A database with the whole schema and no rows, for one benchmark. */
export interface BenchDatabase {
  readonly ownerUrl: string;
  readonly appUrl: string;
  readonly workerUrl: string;
  /** Runs SQL as the superuser, past every policy: to seed and to look at statistics. */
  owner<Row extends pg.QueryResultRow>(sql: string, values?: unknown[]): Promise<Row[]>;
  close(): Promise<void>;
}

/** The embedded stack with Postgres' own settings, room for many connections, and the extension that counts statements. */
export async function startBenchStack(dataFolder: string, parts: { redis: boolean; qdrant: boolean }): Promise<Stack> {
  await mkdir(dataFolder, { recursive: true });
  return await startStack({
    dataFolder,
    ...parts,
    reuse: false,
    postgresSettings: { shared_preload_libraries: 'pg_stat_statements', max_connections: '300' },
  });
}

/** Where the stack's Redis answers. @throws Error with the stack's own reason when it has none */
export function redisUrlOf({ redisUrl, notices }: Stack): string {
  if (redisUrl === null) {
    throw new Error(`this benchmark needs Redis: ${notices.join(' ')}`);
  }
  return redisUrl;
}

/** Makes a database anew, with nothing in it. @returns its URL as the superuser */
export async function createEmptyDatabase(stack: Stack, name: string): Promise<string> {
  const server = new pg.Client({ connectionString: stack.postgres.ownerUrl, connectionTimeoutMillis: 10_000 });
  await server.connect();
  try {
    await server.query(`DROP DATABASE IF EXISTS ${server.escapeIdentifier(name)} WITH (FORCE)`);
    await server.query(`CREATE DATABASE ${server.escapeIdentifier(name)}`);
  } finally {
    await server.end();
  }
  const url = new URL(stack.postgres.ownerUrl);
  url.pathname = `/${name}`;
  return url.href;
}

/** Makes the benchmark's database anew. */
export async function createBenchDatabase(stack: Stack, bench: string): Promise<BenchDatabase> {
  const url = await createEmptyDatabase(stack, `bench_${bench}`);
  await migrate({ ownerUrl: url, direction: 'up' });
  const urls = roleUrls(url, stack.postgres.ownerPassword);
  await allowLogin(url, urls.app);
  await allowLogin(url, urls.worker);
  const pool = new pg.Pool({ connectionString: url, max: 2, connectionTimeoutMillis: 10_000 });
  pool.on('error', () => undefined);
  await pool.query('CREATE EXTENSION pg_stat_statements');
  return {
    ownerUrl: url,
    appUrl: urls.app,
    workerUrl: urls.worker,
    owner: async (sql, values) => (await pool.query(sql, values)).rows,
    close: () => pool.end(),
  };
}
