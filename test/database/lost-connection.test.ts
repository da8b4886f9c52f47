import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, type Database, statement } from '../../src/adapters/postgres.ts';
import { createTestDatabase, type TestDatabase, waitFor } from '../service.ts';

let test: TestDatabase;
let database: Database;

beforeAll(async () => {
  test = await createTestDatabase();
  database = createDatabase({
    url: test.appUrl,
    poolSize: 2,
    connectionTimeout: 5_000,
    statementTimeout: 5_000,
    applicationName: 'lost connection',
    onError: () => undefined,
  });
});
afterAll(async () => {
  await database?.close();
  await test?.drop();
});

const one = statement<{ one: number }>('SELECT 1 AS one');

async function loseConnections(): Promise<void> {
  const pids = await test.owner(
    `SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lost connection'`,
  );
  await waitFor('the connections to end', async () => {
    const left = await test.owner('SELECT FROM pg_stat_activity WHERE pid = ANY ($1::int[])', [
      pids.map((row) => row['pid']),
    ]);
    return left.length === 0;
  });
}

describe('a connection that is lost between two statements of a transaction', () => {
  // Without a listener the loss would end the process: the test runner reports it as an unhandled error.
  it.each(['read', 'write'] as const)('fails the next statement of a %s, and nothing else', async (mode) => {
    const transaction = await database.begin(mode, null);
    await transaction.query(one);
    await loseConnections();
    await expect(transaction.query(one)).rejects.toThrow();
    await expect(transaction.commit()).rejects.toThrow();
    await expect(database.query(one)).resolves.toEqual([{ one: 1 }]);
    expect(database.usage().waiting).toBe(0);
  });

  it('is replaced when it was idle in the pool', async () => {
    await database.query(one);
    await loseConnections();
    await waitFor('the pool to notice', () => database.usage().total === 0);
    await expect(database.query(one)).resolves.toEqual([{ one: 1 }]);
  });
});
