import { randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { basename } from 'node:path';
import pg from 'pg';
import { afterEach, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import { migrate } from '../../prisma/migrate.ts';
import { auditCatalog } from '../isolation/catalog.ts';
import { createEmptyDatabase, type EmptyDatabase } from './empty-database.ts';
import { fillTables, readTableShapes } from './rows.ts';
import { snapshotSchema } from './snapshot.ts';

let names: string[];

beforeAll(async () => {
  const files = await readdir(new URL('../../prisma/migrations', import.meta.url));
  names = files.map((file) => basename(file, '.sql')).sort();
});

async function countRows(client: pg.Client): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const { name } of await readTableShapes(client)) {
    const { rows } = await client.query<{ count: number }>(`SELECT count(*)::int AS count FROM ${name}`);
    counts.set(name, rows[0]?.count ?? 0);
  }
  return counts;
}

describe('migrations', () => {
  let database: EmptyDatabase;

  beforeEach(async () => {
    database = await createEmptyDatabase();
  });
  afterEach(() => database.drop());

  const up = (count?: number) =>
    migrate({ ownerUrl: database.url, direction: 'up', ...(count === undefined ? {} : { count }) });
  const down = (count?: number) =>
    migrate({ ownerUrl: database.url, direction: 'down', ...(count === undefined ? {} : { count }) });

  it('go up one by one, and each down and up again over tables that hold data', async () => {
    const states = [await snapshotSchema(database.client)];
    for (const name of names) {
      expect(await up(1)).toEqual([name]);
      states.push(await snapshotSchema(database.client));
    }
    await fillTables(database.client, 'alice');
    await fillTables(database.client, 'bob');
    for (let place = names.length; place > 0; place -= 1) {
      const filled = await countRows(database.client);
      expect(await down(1)).toEqual([names[place - 1]]);
      expect(await snapshotSchema(database.client), `below ${names[place - 1]}`).toEqual(states[place - 1]);
      const kept = await countRows(database.client);
      for (const [table, count] of kept) {
        expect(count, `rows of ${table} below ${names[place - 1]}`).toBe(filled.get(table));
      }
      expect(await up(1)).toEqual([names[place - 1]]);
      expect(await snapshotSchema(database.client), `with ${names[place - 1]} again`).toEqual(states[place]);
      await down(1);
    }
  });

  it('leave nothing of ours behind when all are taken back', async () => {
    const empty = await snapshotSchema(database.client);
    expect(await up()).toEqual(names);
    await fillTables(database.client, 'alice');
    expect(await down()).toEqual(names.toReversed());
    expect(await snapshotSchema(database.client)).toEqual(empty);
    expect((await database.client.query('SELECT FROM schema_migrations')).rowCount).toBe(0);
  });

  it('run once when several processes start them at once', async () => {
    const ran = await Promise.all([up(), up(), up()]);
    expect(ran.flat().sort()).toEqual(names);
    expect(await up()).toEqual([]);
    expect(await auditCatalog(database.client)).toEqual([]);
  });

  it('give users and agents that were there before the task engine their places in it', async () => {
    await up(3);
    const alice = await fillTables(database.client, 'alice');
    await up();
    const tenants = await database.client.query('SELECT user_id AS id FROM tenants');
    expect(tenants.rows).toEqual([{ id: alice }]);
    const lanes = await database.client.query(
      `SELECT user_id, agent_id, max_running FROM lanes WHERE kind = 'AGENT' ORDER BY id`,
    );
    const agents = await database.client.query(
      'SELECT user_id, id AS agent_id, max_concurrent_tasks AS max_running FROM agents ORDER BY id',
    );
    expect(lanes.rows).toEqual(agents.rows);
    const led = await database.client.query(
      `SELECT user_id, orchestrator_id AS id FROM lanes WHERE kind = 'ORCHESTRATOR' ORDER BY id`,
    );
    const orchestrators = await database.client.query('SELECT user_id, id FROM orchestrators ORDER BY id');
    expect(led.rows).toEqual(orchestrators.rows);
  });

  it('change nothing when one of them fails half-way', async () => {
    await up(1);
    const before = await snapshotSchema(database.client);
    await database.client.query(`CREATE TYPE tool_kind AS ENUM ('IN_THE_WAY')`);
    await expect(up()).rejects.toThrow(/tool_kind/);
    await database.client.query('DROP TYPE tool_kind');
    expect(await snapshotSchema(database.client)).toEqual(before);
  });
});

describe('a hosted database, whose owner is no superuser', () => {
  const owner = { role: `owner_${randomBytes(4).toString('hex')}`, password: randomBytes(12).toString('hex') };
  let admin: pg.Client;
  let database: EmptyDatabase;

  beforeEach(async () => {
    admin = new pg.Client({ connectionString: inject('templateUrl').replace(/\/[^/]*$/, '/postgres') });
    await admin.connect();
    await admin.query(`CREATE ROLE ${owner.role} LOGIN CREATEROLE PASSWORD '${owner.password}'`);
    // Roles belong to the cluster and are there already: their maker has this right over them.
    await admin.query(
      `GRANT app_user, app_worker, app_queue, app_identity, app_memory TO ${owner.role} WITH ADMIN TRUE, INHERIT FALSE`,
    );
    database = await createEmptyDatabase(owner);
  });
  afterEach(async () => {
    await database.drop();
    await admin.query(`DROP OWNED BY ${owner.role} CASCADE; DROP ROLE ${owner.role}`);
    await admin.end();
  });

  it('goes up and down, and keeps users apart', async () => {
    const empty = await snapshotSchema(database.client);
    await migrate({ ownerUrl: database.url, direction: 'up', count: 3 });
    await database.client.query('SET ROLE app_user');
    const { rows } = await database.client.query(`SELECT user_id AS id FROM app.sign_in('issuer', 'alice')`);
    expect((await database.client.query('SELECT FROM users')).rowCount).toBe(0);
    await database.client.query(`SELECT set_config('app.user_id', $1, false)`, [rows[0].id]);
    await database.client.query(`INSERT INTO agents (user_id, name, instructions) VALUES ($1, 'Ada', '')`, [
      rows[0].id,
    ]);
    await database.client.query('RESET ROLE');
    await migrate({ ownerUrl: database.url, direction: 'up' });
    expect(await auditCatalog(database.client)).toEqual([]);
    await database.client.query('SET ROLE app_user');
    expect((await database.client.query('SELECT user_id AS id FROM lanes')).rows).toEqual(rows);
    await database.client.query('RESET ROLE');
    await migrate({ ownerUrl: database.url, direction: 'down' });
    expect(await snapshotSchema(database.client)).toEqual(empty);
  });
});
