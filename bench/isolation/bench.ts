import { readFile } from 'node:fs/promises';
import pg from 'pg';
import type { Stack } from '../../dev/stack.ts';
import { migrate } from '../../prisma/migrate.ts';
import { createEmptyDatabase, startBenchStack } from '../database.ts';
import { type Bench, inTurns, Recorder } from '../harness.ts';

const shared = 'shared tables, policies';
const schemas = 'a schema per user';
const databases = 'a database per user';

/** How many users each model gets in a round. Each has nothing but an empty place. */
const users = 100;
/** A database is so dear that fewer tell as much. */
const databaseUsers = 10;

const making = { metric: 'making a user', unit: 'ms' };
const space = { metric: 'space of a user without any data', unit: 'kB' };
const migrating = { metric: 'adding a column', unit: 'ms/user' };
const memory = { metric: `memory of a connection that served ${users} users`, unit: 'MB' };

/** Tables that a request of a user touches. */
const touched = ['agents', 'sessions', 'messages', 'tasks', 'events'];

/** What users cost that have no data yet, under three ways to keep them apart. */
export const isolation: Bench = {
  name: 'isolation',
  summary: 'users kept apart by policies, by schemas or by databases: what each user costs before there is any data',
  rounds: 3,
  run: async ({ rounds, dataFolder, log }) => {
    const stack = await startBenchStack(dataFolder, { redis: false, qdrant: false });
    try {
      const recorder = new Recorder();
      const models = [
        [shared, measureShared],
        [schemas, measureSchemas],
        [databases, measureDatabases],
      ] as const;
      await inTurns(rounds, models, async ([who, measure], round) => {
        log(`round ${round}: ${who}`);
        for (const [{ metric, unit }, value] of await measure(stack)) {
          recorder.add(who, metric, unit, value);
        }
      });
      const times = recorder.median(schemas, memory.metric) / recorder.median(shared, memory.metric);
      return {
        series: recorder.series(),
        checks: [
          {
            id: 'connection_memory',
            goal: 'a connection over shared tables takes less than half of one over schemas',
            value: times,
            unit: 'times as much over schemas',
            ok: times > 2,
          },
        ],
      };
    } finally {
      await stack.stop();
    }
  },
};

type Figures = [what: { metric: string; unit: string }, value: number][];

async function measureShared(stack: Stack): Promise<Figures> {
  await using database = await openDatabase(stack, 'bench_isolation_shared');
  const { client } = database;
  const before = await sizeOf(client);
  const made = await timed(async () => {
    for (let user = 0; user < users; user += 1) {
      await client.query('SELECT app.sign_in($1, $2)', ['bench', String(user)]);
    }
  });
  const size = (await sizeOf(client)) - before;
  const altered = await timed(() => client.query('ALTER TABLE sessions ADD COLUMN bench text'));
  const { rows } = await client.query<{ id: string }>('SELECT id FROM users');
  const used = await memoryAfter(database.url, async (connection) => {
    for (const { id } of rows) {
      await connection.query(`SELECT set_config('app.user_id', $1, false)`, [id]);
      await touch(connection, 'public');
    }
  });
  return [
    [making, made / users],
    [space, size / users / 1_000],
    [migrating, altered / users],
    [memory, used],
  ];
}

async function measureSchemas(stack: Stack): Promise<Figures> {
  await using database = await openDatabase(stack, 'bench_isolation_schemas');
  const { client } = database;
  const { rows } = await client.query<{ name: string }>(
    `SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations'`,
  );
  const before = await sizeOf(client);
  const made = await timed(async () => {
    for (let user = 0; user < users; user += 1) {
      const copies = rows.map(({ name }) => `CREATE TABLE user_${user}.${name} (LIKE public.${name} INCLUDING ALL)`);
      await client.query([`CREATE SCHEMA user_${user}`, ...copies].join('; '));
    }
  });
  const size = (await sizeOf(client)) - before;
  const altered = await timed(async () => {
    for (let user = 0; user < users; user += 1) {
      await client.query(`ALTER TABLE user_${user}.sessions ADD COLUMN bench text`);
    }
  });
  const used = await memoryAfter(database.url, async (connection) => {
    for (let user = 0; user < users; user += 1) {
      await touch(connection, `user_${user}`);
    }
  });
  return [
    [making, made / users],
    [space, size / users / 1_000],
    [migrating, altered / users],
    [memory, used],
  ];
}

/** A connection serves one database only, so there is no memory to compare: every user needs connections of their own. */
async function measureDatabases(stack: Stack): Promise<Figures> {
  const template = 'bench_isolation_template';
  await (await openDatabase(stack, template))[Symbol.asyncDispose]();
  const server = await connect(stack.postgres.ownerUrl);
  const names = Array.from({ length: databaseUsers }, (_, user) => `bench_isolation_user_${user}`);
  try {
    await dropAll(server, names);
    const made = await timed(async () => {
      for (const name of names) {
        await server.query(`CREATE DATABASE ${name} TEMPLATE ${template}`);
      }
    });
    const { rows } = await server.query<{ size: number }>('SELECT pg_database_size($1)::float8 AS size', [names[0]]);
    const altered = await timed(async () => {
      for (const name of names) {
        const url = new URL(stack.postgres.ownerUrl);
        url.pathname = `/${name}`;
        const client = await connect(url.href);
        await client.query('ALTER TABLE sessions ADD COLUMN bench text');
        await client.end();
      }
    });
    return [
      [making, made / databaseUsers],
      [space, (rows[0]?.size ?? Number.NaN) / 1_000],
      [migrating, altered / databaseUsers],
    ];
  } finally {
    await dropAll(server, names);
    await server.end();
  }
}

async function dropAll(server: pg.Client, names: readonly string[]): Promise<void> {
  for (const name of names) {
    await server.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
  }
}

async function openDatabase(stack: Stack, name: string): Promise<{ client: pg.Client; url: string } & AsyncDisposable> {
  const url = await createEmptyDatabase(stack, name);
  await migrate({ ownerUrl: url, direction: 'up' });
  const client = await connect(url);
  return { client, url, [Symbol.asyncDispose]: () => client.end() };
}

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 });
  await client.connect();
  return client;
}

async function touch(connection: pg.Client, schema: string): Promise<void> {
  for (const table of touched) {
    await connection.query(`SELECT count(*) FROM ${schema}.${table}`);
  }
}

/** Bytes of the whole database on disk. */
async function sizeOf(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ size: number }>('SELECT pg_database_size(current_database())::float8 AS size');
  return rows[0]?.size ?? Number.NaN;
}

/** What the server's process of a fresh connection holds for itself after some work, in MB. Linux only. */
async function memoryAfter(url: string, work: (connection: pg.Client) => Promise<void>): Promise<number> {
  const connection = await connect(url);
  try {
    await work(connection);
    const { rows } = await connection.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    const status = await readFile(`/proc/${rows[0]?.pid}/status`, 'utf8');
    return Number(/^RssAnon:\s+(\d+) kB$/m.exec(status)?.[1]) / 1_000;
  } finally {
    await connection.end();
  }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const before = performance.now();
  await work();
  return performance.now() - before;
}
