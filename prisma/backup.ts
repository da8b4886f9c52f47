import { createReadStream, createWriteStream } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { createGunzip, createGzip } from 'node:zlib';
import type pg from 'pg';
import { asOwner } from './owner.ts';

// All data of the service in one file of compressed JSON lines: what it is, then each row with its values as Postgres
// writes them, then how many rows there were. Structure and roles are the migrations' and are not in it.

export interface BackupOptions {
  /** A superuser, or another role that row-level security does not hold for. */
  ownerUrl: string;
  file: string;
}

/** Rows by table. */
export type RowCounts = Readonly<Record<string, number>>;

interface Head {
  format: 'retinue-backup-1';
  /** Migrations that the data fits. */
  migrations: string[];
  tables: { name: string; columns: string[] }[];
}

interface Tail {
  rows: RowCounts;
}

type Line = { head: Head } | { table: number; values: (string | null)[] } | { tail: Tail };

const rowsAtOnce = 500;
/** Largest batch of rows that is written at once, in characters. */
const longestBatch = 2_000_000;

/**
 * Writes all rows to a file, as they are at one moment; the service may go on meanwhile.
 * @throws Error when the role would not see all rows
 */
export async function saveBackup({ ownerUrl, file }: BackupOptions): Promise<RowCounts> {
  return asOwner(ownerUrl, async (client) => {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    const head = { format: 'retinue-backup-1' as const, ...(await readShape(client)) };
    const rows: Record<string, number> = {};
    // Under its own name only when it is whole: a process that dies leaves no half a backup that looks like one.
    const unfinished = `${file}.unfinished`;
    try {
      await pipeline(
        Readable.from(writeLines(client, head, rows)),
        createGzip(),
        createWriteStream(unfinished, { mode: 0o600 }),
      );
      await rename(unfinished, file);
    } finally {
      await rm(unfinished, { force: true });
    }
    await client.query('COMMIT');
    return rows;
  });
}

async function* writeLines(client: pg.Client, head: Head, rows: Record<string, number>): AsyncGenerator<string> {
  const line = (content: Line): string => `${JSON.stringify(content)}\n`;
  yield line({ head });
  for (const [table, { name, columns }] of head.tables.entries()) {
    rows[name] = 0;
    const values = columns.map((column) => `${client.escapeIdentifier(column)}::text`).join(', ');
    await client.query(
      `DECLARE rows NO SCROLL CURSOR FOR SELECT ARRAY[${values}] AS values FROM ${client.escapeIdentifier(name)}`,
    );
    for (;;) {
      const batch = await client.query<{ values: (string | null)[] }>(`FETCH ${rowsAtOnce} FROM rows`);
      if (batch.rows.length === 0) {
        break;
      }
      rows[name] += batch.rows.length;
      yield batch.rows.map((row) => line({ table, values: row.values })).join('');
    }
    await client.query('CLOSE rows');
  }
  yield line({ tail: { rows } });
}

/**
 * Puts a backup's rows into a database that was migrated to the same version and holds none, in one transaction.
 * @throws Error when the file is damaged, the versions differ, or there are rows already; nothing is changed then
 */
export async function restoreBackup({ ownerUrl, file }: BackupOptions): Promise<RowCounts> {
  return asOwner(ownerUrl, async (client) => {
    await client.query('BEGIN');
    // Rows come in any order, and triggers have already counted what they count.
    await client.query('SET LOCAL session_replication_role = replica');
    const rows: Record<string, number> = {};
    let insert: ((table: number, values: (string | null)[]) => Promise<void>) | null = null;
    let flush = async (): Promise<void> => undefined;
    let tail: Tail | null = null;
    for await (const text of readLines(file)) {
      const line = JSON.parse(text) as Line;
      if ('head' in line) {
        ({ insert, flush } = createInserter(client, await prepare(client, line.head), rows));
      } else if ('tail' in line) {
        ({ tail } = line);
      } else {
        await insert?.(line.table, line.values);
      }
    }
    await flush();
    if (tail === null || JSON.stringify(tail.rows) !== JSON.stringify(rows)) {
      throw new Error(`${file} is not whole: it was cut off or changed`);
    }
    await client.query('COMMIT');
    return rows;
  });
}

/** Lines as they were written: `node:readline` would also break them at U+2028, which texts may hold. */
async function* readLines(file: string): AsyncGenerator<string> {
  const source = createReadStream(file);
  const text = createGunzip();
  source.on('error', (error) => text.destroy(error));
  source.pipe(text);
  text.setEncoding('utf8');
  let rest = '';
  for await (const chunk of text as AsyncIterable<string>) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    yield* lines;
  }
  if (rest !== '') {
    throw new Error(`${file} is not whole: its last line has no end`);
  }
}

/** Checks that the database can take the backup. @returns its tables, each with the types of its columns */
async function prepare(client: pg.Client, head: Head): Promise<{ name: string; columns: string[]; types: string[] }[]> {
  const here = await readShape(client);
  if (
    head.format !== 'retinue-backup-1' ||
    JSON.stringify(here) !== JSON.stringify({ migrations: head.migrations, tables: head.tables })
  ) {
    throw new Error(
      `The backup fits a database with these migrations: ${head.migrations.join(', ')}. Migrate an empty one to there first.`,
    );
  }
  for (const { name } of head.tables) {
    const found = await client.query(`SELECT FROM ${client.escapeIdentifier(name)} LIMIT 1`);
    if (found.rowCount !== 0) {
      throw new Error(`The database already holds rows of ${name}: restore into an empty one.`);
    }
  }
  const { rows } = await client.query<{ name: string; types: string[] }>(`
    SELECT attrelid::regclass::text AS name, array_agg(format_type(atttypid, atttypmod) ORDER BY attnum) AS types
    FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attgenerated = ''
      AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    GROUP BY attrelid`);
  const types = new Map(rows.map((row) => [row.name, row.types]));
  return head.tables.map((table) => ({ ...table, types: types.get(table.name) ?? [] }));
}

function createInserter(
  client: pg.Client,
  tables: { name: string; columns: string[]; types: string[] }[],
  rows: Record<string, number>,
): { insert: (table: number, values: (string | null)[]) => Promise<void>; flush: () => Promise<void> } {
  let batch: string[] = [];
  let length = 0;
  let current = -1;
  for (const { name } of tables) {
    rows[name] = 0;
  }
  const flush = async (): Promise<void> => {
    const table = tables[current];
    if (table === undefined || batch.length === 0) {
      return;
    }
    const names = table.columns.map((column) => client.escapeIdentifier(column)).join(', ');
    const values = table.types.map((type, place) => `(line ->> ${place})::${type}`).join(', ');
    await client.query(
      `INSERT INTO ${client.escapeIdentifier(table.name)} (${names})
       SELECT ${values} FROM jsonb_array_elements($1::jsonb) AS line`,
      [`[${batch.join(',')}]`],
    );
    rows[table.name] = (rows[table.name] ?? 0) + batch.length;
    batch = [];
    length = 0;
  };
  return {
    insert: async (table, values) => {
      if (table !== current || batch.length >= rowsAtOnce || length > longestBatch) {
        await flush();
        current = table;
      }
      const text = JSON.stringify(values);
      batch.push(text);
      length += text.length;
    },
    flush,
  };
}

async function readShape(client: pg.Client): Promise<Pick<Head, 'migrations' | 'tables'>> {
  const migrations = await client.query<{ name: string }>('SELECT name FROM schema_migrations ORDER BY name');
  const { rows } = await client.query<Head['tables'][number]>(`
    SELECT relname AS name, array_agg(attname::text ORDER BY attnum) AS columns
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'schema_migrations'
    GROUP BY relname ORDER BY relname`);
  return { migrations: migrations.rows.map(({ name }) => name), tables: rows };
}

/** Command line: `backup.ts save|restore FILE`, with OWNER_DATABASE_URL. */
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [verb, file] = process.argv.slice(2);
  const { OWNER_DATABASE_URL: ownerUrl } = process.env;
  if (ownerUrl === undefined || file === undefined || (verb !== 'save' && verb !== 'restore')) {
    throw new Error('usage: OWNER_DATABASE_URL=… npm run backup -- FILE, or npm run restore -- FILE');
  }
  const rows = await (verb === 'save' ? saveBackup : restoreBackup)({ ownerUrl, file });
  const sum = Object.values(rows).reduce((total, count) => total + count, 0);
  process.stdout.write(`${sum} rows of ${Object.keys(rows).length} tables ${verb === 'save' ? 'saved' : 'restored'}\n`);
}
