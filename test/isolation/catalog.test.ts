import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dumpRows, fillTables, readTableShapes, type TableShape } from '../database/rows.ts';
import { createTestDatabase, type TestDatabase } from '../service.ts';
import { auditCatalog } from './catalog.ts';
import { catalogFaults } from './catalog-faults.ts';

let database: TestDatabase;
let owner: pg.Client;
let tables: TableShape[];
let alice: string;
let bob: string;
let before: string[];

beforeAll(async () => {
  database = await createTestDatabase();
  owner = new pg.Client({ connectionString: database.ownerUrl });
  await owner.connect();
  tables = await readTableShapes(owner);
  alice = await fillTables(owner, 'alice');
  bob = await fillTables(owner, 'bob');
  before = await dumpRows(owner, tables, [alice, bob]);
});
afterAll(async () => {
  await owner?.end();
  await database?.drop();
});

/** Runs work as a role of the service that acts for one user, and takes back whatever it did. */
async function as<Result>(url: string, userId: string, work: (client: pg.Client) => Promise<Result>): Promise<Result> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query('BEGIN');
    await client.query(`SELECT set_config('app.user_id', $1, true)`, [userId]);
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Runs one statement that may be refused, without harm to the transaction around it. */
async function attempt(
  client: pg.Client,
  sql: string,
  values: unknown[] = [],
): Promise<{ code?: string; rows: unknown[] }> {
  await client.query('SAVEPOINT attempt');
  try {
    const { rows } = await client.query(sql, values);
    return { rows };
  } catch (error) {
    return { code: error instanceof pg.DatabaseError ? String(error.code) : String(error), rows: [] };
  } finally {
    await client.query('ROLLBACK TO SAVEPOINT attempt');
  }
}

const refused = '42501';

describe('the catalog of a freshly migrated database', () => {
  it('keeps users apart in every table', async () => {
    expect(await auditCatalog(owner)).toEqual([]);
  });

  it.each(catalogFaults)('is found at fault when %s', async (_what, sql, finding) => {
    await owner.query('BEGIN');
    try {
      await owner.query(sql);
      const expected = typeof finding === 'string' ? finding : expect.stringMatching(finding);
      expect(await auditCatalog(owner)).toContainEqual(expected);
    } finally {
      await owner.query('ROLLBACK');
    }
  });
});

describe.each(['app_user', 'app_worker'])('as %s', (role) => {
  const url = () => (role === 'app_user' ? database.appUrl : database.workerUrl);
  const userTables = () => tables.filter((table) => table.userColumn !== null);

  it('has rows of both users to look for in every table', async () => {
    for (const { name, userColumn } of userTables()) {
      const { rows } = await owner.query(`SELECT DISTINCT ${userColumn} AS id FROM ${name}`);
      expect(new Set(rows.map((row) => row.id)), name).toEqual(new Set([alice, bob]));
    }
  });

  it('sees no row of any table while no user is set', async () => {
    const client = new pg.Client({ connectionString: url() });
    await client.connect();
    try {
      for (const { name } of userTables()) {
        expect((await client.query(`SELECT FROM ${name}`)).rowCount, name).toBe(0);
      }
    } finally {
      await client.end();
    }
  });

  it('sees all rows of its own user and none of another', async () => {
    await as(url(), alice, async (client) => {
      for (const { name, userColumn } of userTables()) {
        const { rows } = await client.query(`SELECT DISTINCT ${userColumn} AS id FROM ${name}`);
        expect(rows, name).toEqual([{ id: alice }]);
      }
    });
  });

  it('changes no row of another user', async () => {
    await as(url(), alice, async (client) => {
      for (const { name, userColumn } of userTables()) {
        const [column] = await grantedColumns(client, name, 'UPDATE');
        if (column !== undefined) {
          const { rows } = await attempt(
            client,
            `UPDATE ${name} SET ${column} = ${column} RETURNING ${userColumn} AS id`,
          );
          expect(new Set(rows.map((row) => (row as { id: string }).id)), name).toEqual(new Set([alice]));
        }
      }
    });
  });

  it('hands no row over to another user', async () => {
    await as(url(), alice, async (client) => {
      for (const { name, userColumn } of userTables()) {
        const { code } = await attempt(client, `UPDATE ${name} SET ${userColumn} = $1`, [bob]);
        expect(code, name).toBe(refused);
      }
    });
  });

  it('deletes no row of another user', async () => {
    await as(url(), alice, async (client) => {
      for (const { name, userColumn } of userTables()) {
        const { code, rows } = await attempt(client, `DELETE FROM ${name} WHERE ${userColumn} = $1 RETURNING 1`, [bob]);
        expect({ name, code: code ?? 'no rows', rows }).toEqual({
          name,
          code: expect.stringMatching(/^(42501|no rows)$/),
          rows: [],
        });
      }
    });
  });

  it('adds no row to another user', async () => {
    for (const { name, userColumn } of userTables()) {
      const copy = await owner.query(`SELECT to_jsonb(t) AS row FROM ${name} AS t WHERE ${userColumn} = $1 LIMIT 1`, [
        bob,
      ]);
      await as(url(), alice, async (client) => {
        const columns = (await grantedColumns(client, name, 'INSERT')).join(', ') || userColumn;
        const { code } = await attempt(
          client,
          `INSERT INTO ${name} (${columns}) SELECT ${columns} FROM jsonb_populate_record(NULL::${name}, $1)`,
          [JSON.stringify(copy.rows[0].row)],
        );
        expect(code, name).toBe(refused);
      });
    }
  });

  it('refers to no row of another user', async () => {
    const [theirs] = (await owner.query('SELECT id FROM agents WHERE user_id = $1 LIMIT 1', [bob])).rows;
    await as(url(), alice, async (client) => {
      const { code } = await attempt(client, 'UPDATE messages SET agent_id = $1', [theirs.id]);
      expect(code).toBe('23503');
    });
  });

  it('empties no table and reads neither the migrations nor the workers', async () => {
    await as(url(), alice, async (client) => {
      for (const { name } of userTables()) {
        expect((await attempt(client, `TRUNCATE ${name} CASCADE`)).code, name).toBe(refused);
      }
      expect((await attempt(client, 'SELECT FROM schema_migrations')).code).toBe(refused);
      expect((await attempt(client, 'SELECT FROM workers')).code).toBe(refused);
    });
  });
});

it('has changed nothing by all these attempts', async () => {
  expect(await dumpRows(owner, tables, [alice, bob])).toEqual(before);
});

async function grantedColumns(client: pg.Client, table: string, privilege: string): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT attname AS name FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
      AND has_column_privilege($1::regclass, attnum, $2) ORDER BY attnum`,
    [table, privilege],
  );
  return rows.map((row) => row.name);
}
