import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { restoreBackup, saveBackup } from '../../prisma/backup.ts';
import { migrate } from '../../prisma/migrate.ts';
import { createLog } from '../../src/adapters/log.ts';
import { startAll } from '../../src/app.ts';
import { auditCatalog } from '../isolation/catalog.ts';
import { createTestUser, startTestService, type TestService, type TestUser, waitFor } from '../service.ts';
import { createEmptyDatabase, type EmptyDatabase } from './empty-database.ts';
import { dumpRows, fillTables, readTableShapes } from './rows.ts';

const text = 'Zeilen\nund "Zeichen" \\ \u{1F600} \u2028 {1,2} NULL';
let folder: string;
let file: string;
let service: TestService;
let alice: TestUser;
let taskId: string;
let userIds: string[];
const databases: EmptyDatabase[] = [];

async function emptyDatabase(count?: number): Promise<EmptyDatabase> {
  const database = await createEmptyDatabase();
  databases.push(database);
  await migrate({ ownerUrl: database.url, direction: 'up', ...(count === undefined ? {} : { count }) });
  return database;
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'backup-'));
  file = join(folder, 'backup.gz');
  service = await startTestService({ worker: false });
  alice = await service.user('alice');
  const team = await alice.ask('{ agents(first: 1) { edges { node { id } } } }');
  const session = await alice.ask('mutation { createSession { session { id } } }');
  const sent = await alice.ask('mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }', {
    input: {
      sessionId: session.data.createSession.session.id,
      targetAgentId: team.data.agents.edges[0].node.id,
      content: text,
    },
  });
  taskId = sent.data.sendMessage.task.id;
  // Rows of every table, with every type of column, beside those that the service made itself.
  const source = {
    query: async (sql: string, values?: unknown[]) => ({ rows: await service.database.owner(sql, values) }),
  };
  await fillTables(source as never, 'bob');
  userIds = (await service.database.owner('SELECT id FROM users')).map(({ id }) => String(id));
  await saveBackup({ ownerUrl: service.database.ownerUrl, file });
});
afterAll(async () => {
  await service.stop();
  for (const database of databases) {
    await database.drop();
  }
  await rm(folder, { recursive: true });
});

describe('a backup', () => {
  it('brings back every row of every table as it was, and the service goes on with it', async () => {
    const restored = await emptyDatabase();
    await restoreBackup({ ownerUrl: restored.url, file });
    const tables = await readTableShapes(restored.client);
    const source = {
      query: async (sql: string, values?: unknown[]) => ({ rows: await service.database.owner(sql, values) }),
    };
    const before = await dumpRows(source as never, tables, userIds);
    expect(before.length).toBeGreaterThan(tables.length);
    expect(await dumpRows(restored.client, tables, userIds)).toEqual(before);
    expect(await auditCatalog(restored.client)).toEqual([]);

    const urlOf = (url: string): string => {
      const moved = new URL(url);
      moved.pathname = new URL(restored.url).pathname;
      return moved.href;
    };
    const again = await startAll(
      {
        ...service.config,
        DATABASE_URL: urlOf(service.config.DATABASE_URL),
        WORKER_DATABASE_URL: urlOf(service.config.WORKER_DATABASE_URL),
      },
      createLog({ level: 'silent' }),
    );
    try {
      const user = createTestUser(again.url, 'alice', alice.token);
      const task = await waitFor('the task that was queued to be done', async () => {
        const { data } = await user.ask(
          'query ($id: ID!) { node(id: $id) { ... on Task { state session { messages(first: 5) { edges { node { role content } } } } } } }',
          { id: taskId },
        );
        return data.node.state === 'COMPLETED' ? data.node : null;
      });
      const messages = task.session.messages.edges.map(({ node }: { node: { role: string } }) => node);
      expect(messages).toEqual([{ role: 'USER', content: text }, expect.objectContaining({ role: 'AGENT' })]);
    } finally {
      await again.stop();
    }
  });

  it('is taken from one moment: what is written meanwhile is in it whole or not at all', async () => {
    const copy = join(folder, 'meanwhile.gz');
    const writing = Promise.all(
      Array.from({ length: 20 }, () => alice.ask('mutation { createSession { session { id } } }')),
    );
    const rows = await saveBackup({ ownerUrl: service.database.ownerUrl, file: copy });
    await writing;
    const restored = await emptyDatabase();
    expect(await restoreBackup({ ownerUrl: restored.url, file: copy })).toEqual(rows);
    // References were not checked while rows came in: they hold all the same.
    const { rows: broken } = await restored.client.query(
      `SELECT events.sequence FROM events LEFT JOIN users ON users.id = events.user_id
       WHERE users.id IS NULL OR users.subject = 'alice' AND events.sequence > users.event_sequence`,
    );
    expect(broken).toEqual([]);
  });

  it.each<[what: string, spoil: (content: string) => string]>([
    ['cut off in the middle', (content) => content.split('\n').slice(0, -5).join('\n')],
    ['short of a row', (content) => content.split('\n').toSpliced(3, 1).join('\n')],
  ])('is refused, and changes nothing, when it is %s', async (_what, spoil) => {
    const spoilt = join(folder, 'spoilt.gz');
    await writeFile(spoilt, gzipSync(spoil(gunzipSync(await readFile(file)).toString('utf8'))));
    const database = await emptyDatabase();
    await expect(restoreBackup({ ownerUrl: database.url, file: spoilt })).rejects.toThrow(/not whole/);
    expect((await database.client.query('SELECT FROM users')).rowCount).toBe(0);
  });

  it('is refused by a database of another version, by one that holds rows, and by a role that sees none', async () => {
    const older = await emptyDatabase(3);
    await expect(restoreBackup({ ownerUrl: older.url, file })).rejects.toThrow(/these migrations: 0001_/);
    await expect(restoreBackup({ ownerUrl: service.database.ownerUrl, file })).rejects.toThrow(/already holds rows/);
    for (const run of [saveBackup, restoreBackup]) {
      await expect(run({ ownerUrl: service.database.appUrl, file })).rejects.toThrow(/BYPASSRLS/);
    }
  });
});
