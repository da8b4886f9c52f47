import { Socket } from 'node:net';
import { afterEach, expect, it, vi } from 'vitest';
import { createDatabase, statement } from '../../src/adapters/postgres.ts';
import { createTestDatabase } from '../service.ts';

afterEach(() => vi.restoreAllMocks());

it('sends what is asked in one turn in one packet, the begin and the commit with it', async () => {
  await using undo = new AsyncDisposableStack();
  const test = await createTestDatabase();
  undo.defer(() => test.drop());
  const database = createDatabase({
    url: test.appUrl,
    poolSize: 1,
    connectionTimeout: 5_000,
    statementTimeout: 5_000,
    applicationName: 'packets',
    onError: () => undefined,
  });
  undo.defer(() => database.close());
  await database.query(statement('SELECT 0 AS number'));

  // The socket still does its work; its writes are only counted.
  const writes = [vi.spyOn(Socket.prototype, '_write'), vi.spyOn(Socket.prototype, '_writev')];
  const transaction = await database.begin('read', null);
  const answers = [1, 2, 3].map((number) => transaction.query(statement(`SELECT ${number} AS number`)));
  await transaction.commit();
  expect(await Promise.all(answers)).toEqual([[{ number: 1 }], [{ number: 2 }], [{ number: 3 }]]);
  expect(writes.map((write) => write.mock.calls.length)).toEqual([0, 1]);
});
