import { spawn } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  createDevelopmentKey,
  type DevelopmentKey,
  developmentAudience,
  developmentIssuer,
  signDevelopmentToken,
} from '../../dev/identity.ts';
import { findFreePort } from '../../dev/process.ts';
import { startRedis } from '../../dev/redis.ts';
import { nodePart, type Part, serverPart } from '../faults/part.ts';
import { isLogged, readEvents } from '../http/event-reader.ts';
import { createTestDatabase, createTestUser, type TestDatabase, type TestUser, waitFor } from '../service.ts';
import { type EventWriter, openWriter, placeOf, readLog, userIdOf } from './log.ts';

interface Node extends Part {
  url: string;
}

const folder = resolve('.retinue', `test-events-${process.pid}`);
const started = new AsyncDisposableStack();
let database: TestDatabase;
let key: DevelopmentKey;
let redis: Part;
let writer: EventWriter;
let nodes: [Node, Node];

beforeAll(async () => {
  await mkdir(folder, { recursive: true });
  started.defer(() => rm(folder, { recursive: true, force: true }));
  database = await createTestDatabase();
  started.defer(() => database.drop());
  key = await createDevelopmentKey();
  const redisPort = await findFreePort(null);
  redis = serverPart(async () => {
    const server = await startRedis({
      folder,
      logFile: join(folder, 'redis.log'),
      preferredPort: redisPort,
      onSpawn: () => undefined,
      log: () => undefined,
    });
    return server.process;
  });
  await redis.start();
  started.defer(() => redis.stop());
  const redisUrl = `redis://127.0.0.1:${redisPort}`;
  const startNode = async (name: string): Promise<Node> => {
    const port = await findFreePort(null);
    const part = nodePart({
      args: ['src/server.ts'],
      environment: {
        DATABASE_URL: database.appUrl,
        WORKER_DATABASE_URL: database.workerUrl,
        REDIS_URL: redisUrl,
        TOKEN_ISSUER: developmentIssuer,
        TOKEN_AUDIENCE: developmentAudience,
        TOKEN_PUBLIC_KEY: JSON.stringify(key.publicKey),
        MODEL_BASE_URL: 'http://127.0.0.1:9/v1',
        MODEL_API_KEY: 'none',
        MODEL_NAME: 'none',
        PORT: String(port),
        POOL_SIZE: '10',
        HEARTBEAT_INTERVAL: '2000',
        EVENT_POLL_INTERVAL: '500',
        RATE_LIMIT_REQUESTS: '100000',
        RATE_LIMIT_STREAMS: '100000',
      },
      logFile: join(folder, `${name}.log`),
      isReady: async () => (await fetch(`http://127.0.0.1:${port}/health/live`)).ok,
    });
    await part.start();
    started.defer(() => part.kill());
    return { ...part, url: `http://127.0.0.1:${port}/graphql` };
  };
  nodes = [await startNode('a'), await startNode('b')];
  writer = openWriter(database, redisUrl);
  started.defer(() => writer.close());
}, 120_000);
afterAll(() => started.disposeAsync(), 60_000);

async function newUser(name: string): Promise<TestUser & { id: string }> {
  const user = createTestUser(nodes[1].url, name, await signDevelopmentToken(key, name));
  await user.ask('{ viewer { id } }');
  return { ...user, id: await userIdOf(database, name) };
}

/** The same numbers in every run. */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

const beginning = Buffer.from('event:0').toString('base64url');

/** Reads a user's log over many connections, each on any node and cut at any moment. @returns places, as they came */
async function wander(
  user: TestUser,
  seed: number,
  reconnects: number,
  last: () => Promise<number | null>,
): Promise<number[]> {
  const random = createRandom(seed);
  const places: number[] = [];
  let after = beginning;
  for (let connection = 1; ; connection += 1) {
    const end = connection > reconnects ? await last() : null;
    if (end !== null && placeOf(after) === end) {
      return places;
    }
    const url = nodes[random() < 0.5 ? 0 : 1].url;
    const reader = readEvents(url, user.token, { after });
    const until = performance.now() + 50 + random() * 350;
    while (performance.now() < until && reader.ended() === null) {
      await sleep(10);
    }
    reader.close();
    expect(reader.errors).toEqual([]);
    for (const item of [...reader.items]) {
      if (isLogged(item)) {
        places.push(placeOf(item.cursor));
      }
      expect(item.__typename).not.toBe('HistoryLost');
      after = item.cursor;
    }
  }
}

describe('readers on any node', () => {
  it('get exactly the log over 200 reconnects, while Redis restarts and a node is killed', async () => {
    const users = await Promise.all(['one', 'two'].map(newUser));
    let isWriting = true;
    const writing = users.map(async (user) => {
      while (isWriting) {
        await writer.progress(user.id);
        await sleep(15);
      }
    });
    const last = (user: { id: string }) => async () =>
      isWriting ? null : ((await readLog(database, user.id)).at(-1) ?? 0);
    const reading = users.flatMap((user, place) =>
      Array.from({ length: 5 }, (_, number) => wander(user, place * 100 + number + 1, 20, last(user))),
    );
    // What the faults below leave undone would go unseen when a reader fails first.
    const all = Promise.all(reading);
    all.catch(() => undefined);
    await sleep(1_500);
    await redis.stop();
    await sleep(1_500);
    await redis.start();
    await sleep(1_500);
    await nodes[0].kill();
    await sleep(500);
    await nodes[0].start();
    await sleep(1_500);
    isWriting = false;
    await Promise.all(writing);
    const read = await all;
    for (const [number, places] of read.entries()) {
      const log = await readLog(database, users[Math.floor(number / 5)]?.id ?? '');
      expect(log.length).toBeGreaterThan(100);
      expect(places).toEqual(log);
    }
  }, 180_000);

  it('hear at once of what another process writes, also of what was written while Redis was away', async () => {
    const user = await newUser('three');
    const readers = nodes.map((node) => readEvents(node.url, user.token));
    await Promise.all(readers.map((reader) => reader.find('the greeting', () => reader.items.length > 0)));
    await redis.stop();
    await writer.progress(user.id);
    await redis.start();
    await writer.progress(user.id);
    await Promise.all(
      readers.map((reader) => waitFor('both events', () => reader.items.filter(isLogged).length === 2)),
    );
    expect(readers.map((reader) => reader.items.filter(isLogged).map(({ cursor }) => placeOf(cursor)))).toEqual([
      [1, 2],
      [1, 2],
    ]);
    for (const reader of readers) {
      reader.close();
    }
  }, 60_000);
});

describe('a reader that is stopped', () => {
  it('holds up nobody, is ended, and gets the rest when it goes on', async () => {
    const user = await newUser('stopped');
    const { data } = await user.ask('mutation { createSession { session { id } } }');
    const team = await user.ask('{ agents(first: 1) { edges { node { id } } } }');
    const { errors } = await user.ask(
      'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { message { id } } }',
      {
        input: {
          sessionId: data.createSession.session.id,
          targetAgentId: team.data.agents.edges[0].node.id,
          content: 'x'.repeat(100_000),
        },
      },
    );
    expect(errors).toEqual([]);
    const [row] = await database.owner('SELECT id, session_id FROM messages WHERE user_id = $1', [user.id]);
    const child = spawn(process.execPath, ['test/events/reader-process.ts', nodes[0].url, user.token], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      let output = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        output += text;
      });
      await waitFor('the child to read', () => output.includes('MessageCreated 1'), 30_000);
      child.kill('SIGSTOP');
      // More than the systems on both sides take in between: what is left waits in the service.
      const other = readEvents(nodes[0].url, user.token, { after: beginning });
      for (let times = 0; times < 150; times += 1) {
        await writer.write(user.id, async (operation) =>
          operation.emit({
            type: 'message_created',
            sessionId: String(row?.['session_id']),
            messageId: String(row?.['id']),
          }),
        );
      }
      const log = await readLog(database, user.id);
      await waitFor('the other reader', () => other.items.filter(isLogged).length === log.length, 60_000);
      other.close();
      expect(output).not.toContain(`MessageCreated ${log.at(-1)}`);
      child.kill('SIGCONT');
      await waitFor('the child', () => output.includes(`MessageCreated ${log.at(-1)}\n`), 60_000);
      const lines = output.split('\n').filter((line) => /^(MessageCreated|DirectAgentCall) /.test(line));
      expect(lines.map((line) => Number(line.split(' ')[1]))).toEqual(log);
      expect(output).toContain('ended');
    } finally {
      child.kill('SIGCONT');
      child.kill('SIGKILL');
    }
  }, 180_000);
});
