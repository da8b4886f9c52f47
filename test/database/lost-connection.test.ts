import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, type Database, statement } from '../../src/adapters/postgres.ts';
import { createTestDatabase, type TestDatabase, waitFor } from '../service.ts';
import { loseConnections } from './lose-connections.ts';

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

describe('a connection that is lost between two statements of a transaction', () => {
  // Without a listener the loss would end the process: the test runner reports it as an unhandled error.
  it.each(['read', 'write'] as const)('fails the next statement of a %s, and nothing else', async (mode) => {
    const transaction = await database.begin(mode, null);
    await transaction.query(one);
    await loseConnections(test, 'lost connection');
    await expect(transaction.query(one)).rejects.toThrow();
    await expect(transaction.commit()).rejects.toThrow();
    await expect(database.query(one)).resolves.toEqual([{ one: 1 }]);
    expect(database.usage().waiting).toBe(0);
  });

  it('is replaced when it was idle in the pool', async () => {
    await database.query(one);
    await loseConnections(test, 'lost connection');
    await waitFor('the pool to notice', () => database.usage().total === 0);
    await expect(database.query(one)).resolves.toEqual([{ one: 1 }]);
  });
});

describe('a reserved connection', () => {
  it('is there while all others are taken', async () => {
    const reserved = database.reserve();
    await reserved.query(one);
    const transaction = await database.begin('read', null);
    await transaction.query(one);
    const waiting = database.query(one);
    await waitFor('the pool to have none left', () => database.usage().waiting === 1);
    await expect(reserved.query(one)).resolves.toEqual([{ one: 1 }]);
    await transaction.commit();
    await waiting;
    reserved.close();
    expect(database.usage().waiting).toBe(0);
  });

  it('is replaced when it was lost while it had nothing to do', async () => {
    const reserved = database.reserve();
    await reserved.query(one);
    await loseConnections(test, 'lost connection');
    await waitFor('the loss to be noticed', () => database.usage().total === 0);
    await expect(reserved.query(one)).resolves.toEqual([{ one: 1 }]);
    reserved.close();
  });

  it('is replaced after a fault, and refuses statements once it was given back', async () => {
    const reserved = database.reserve();
    await expect(reserved.query(statement('SELECT 1 / 0 AS one'))).rejects.toMatchObject({ code: '22012' });
    await expect(reserved.query(one)).resolves.toEqual([{ one: 1 }]);
    reserved.close();
    await expect(reserved.query(one)).rejects.toThrow('given back');
    await waitFor('the pool to have it back', () => database.usage().total === database.usage().idle);
  });
});
