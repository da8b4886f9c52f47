import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { columnName } from '../../src/adapters/prisma.ts';
import { createTestDatabase, type TestDatabase } from '../service.ts';
import { compareLines, type DataModel, describeDatabase, describeModel, readDataModel } from './data-model.ts';

let database: TestDatabase;
let owner: pg.Client;
let model: DataModel;

beforeAll(async () => {
  database = await createTestDatabase();
  owner = new pg.Client({ connectionString: database.ownerUrl });
  await owner.connect();
  model = await readDataModel();
});
afterAll(async () => {
  await owner?.end();
  await database?.drop();
});

describe("Prisma's data model and the migrated database", () => {
  it('agree on tables, columns, types, keys and enums', async () => {
    expect(compareLines(describeModel(model), await describeDatabase(owner))).toEqual([]);
  });

  it('name each column as its field, in snake case', () => {
    const odd = model.models.flatMap((table) =>
      table.fields
        .filter((field) => (field.dbName ?? field.name) !== columnName(field.name))
        .map((field) => `${table.name}.${field.name}`),
    );
    expect(odd).toEqual([]);
  });

  it.each([
    [
      'a column has another type',
      'ALTER TABLE agents ALTER COLUMN temperature TYPE real',
      'only in the database: column agents.temperature: real',
    ],
    [
      'a time has another precision',
      'ALTER TABLE agents ALTER COLUMN created_at TYPE timestamptz(6)',
      'only in the model: column agents.created_at: timestamp(3) with time zone required with a default',
    ],
    [
      'a column may be null',
      'ALTER TABLE messages ALTER COLUMN content DROP NOT NULL',
      'only in the database: column messages.content: text',
    ],
    [
      'a column may no longer be null',
      'ALTER TABLE agents ALTER COLUMN model SET NOT NULL',
      'only in the database: column agents.model: text required',
    ],
    [
      'a default is gone',
      'ALTER TABLE lanes ALTER COLUMN max_waiting DROP DEFAULT',
      'only in the database: column lanes.max_waiting: integer required',
    ],
    ['a column is new', 'ALTER TABLE plans ADD COLUMN title text', 'only in the database: column plans.title: text'],
    [
      'a column is gone',
      'ALTER TABLE sessions DROP COLUMN client_address',
      'only in the model: column sessions.client_address: text',
    ],
    [
      'a column has another name',
      'ALTER TABLE tools RENAME COLUMN dangerous TO risky',
      'only in the database: column tools.risky: boolean required with a default',
    ],
    [
      'a table is new',
      'CREATE TABLE notes (user_id uuid PRIMARY KEY)',
      'only in the database: primary key of notes: user_id',
    ],
    [
      'a table is gone',
      'DROP TABLE idempotency_keys',
      'only in the model: primary key of idempotency_keys: user_id, key, path',
    ],
    [
      'a primary key has another order',
      'ALTER TABLE events DROP CONSTRAINT events_pkey, ADD PRIMARY KEY (sequence, user_id)',
      'only in the database: primary key of events: sequence, user_id',
    ],
    [
      'a unique key is gone',
      'ALTER TABLE messages DROP CONSTRAINT messages_user_id_session_id_position_key',
      'only in the model: unique key of messages: user_id, session_id, position',
    ],
    [
      'an enum has a value more',
      `ALTER TYPE message_role ADD VALUE 'TOOL'`,
      'only in the database: enum message_role: USER, AGENT, ORCHESTRATOR, TOOL',
    ],
    [
      'an enum has its values in another order',
      `ALTER TYPE lane_kind RENAME VALUE 'AGENT' TO 'x'; ALTER TYPE lane_kind RENAME VALUE 'MEMORY' TO 'AGENT'; ALTER TYPE lane_kind RENAME VALUE 'x' TO 'MEMORY'`,
      'only in the database: enum lane_kind: MEMORY, ORCHESTRATOR, AGENT',
    ],
  ])('are found to differ when %s', async (_what, sql, difference) => {
    await owner.query('BEGIN');
    try {
      await owner.query(sql);
      expect(compareLines(describeModel(model), await describeDatabase(owner))).toContain(difference);
    } finally {
      await owner.query('ROLLBACK');
    }
  });
});
