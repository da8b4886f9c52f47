import { connect, createServer, type Socket } from 'node:net';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { listen } from '../../dev/listen.ts';
import { createDatabase, createProbe, statement } from '../../src/adapters/postgres.ts';
import { createTestDatabase, type TestDatabase, waitFor } from '../service.ts';

let test: TestDatabase;
/** The database's address behind a server that hands on all but the end of a connection by Postgres. */
let url: string;
let ended: Socket[] = [];

const proxy = createServer({ allowHalfOpen: true }, (client) => {
  const { hostname, port } = new URL(test.appUrl);
  const server = connect({ host: hostname, port: Number(port) });
  client.pipe(server);
  server.pipe(client, { end: false });
  server.on('error', () => client.destroy());
  client.on('error', () => server.destroy());
  server.on('end', () => ended.push(client));
});

beforeAll(async () => {
  test = await createTestDatabase();
  const address = new URL(test.appUrl);
  address.port = String((await listen(proxy)).port);
  url = address.href;
});
beforeEach(() => {
  ended = [];
});
afterAll(async () => {
  proxy.close();
  await test?.drop();
});

it('waits until the server has ended the connections of a database that is closed', async () => {
  const database = createDatabase({
    url,
    poolSize: 3,
    connectionTimeout: 5_000,
    statementTimeout: 5_000,
    applicationName: 'closed database',
    onError: () => undefined,
  });
  const one = statement('SELECT 1 AS one');
  await Promise.all([database.query(one), database.query(one), database.query(one)]);
  await expectToWait(database.close(), 3);
});

it('waits until the server has ended the connection of a probe that is closed', async () => {
  const probe = createProbe(url, 5_000);
  await probe.ask();
  await expectToWait(probe.close(), 1);
});

async function expectToWait(closing: Promise<void>, connections: number): Promise<void> {
  let isClosed = false;
  const closed = closing.then(() => {
    isClosed = true;
  });
  await waitFor('Postgres to end them', () => ended.length === connections);
  expect(isClosed).toBe(false);
  for (const client of ended) {
    client.end();
  }
  await closed;
}
