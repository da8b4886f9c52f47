import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { signDevelopmentToken } from '../../dev/identity.ts';
import { createLog } from '../../src/adapters/log.ts';
import { type Channel, createChannel } from '../../src/adapters/redis.ts';
import { type RunningApi, startApi } from '../../src/app.ts';
import { type ProcessParts, startProcessParts } from '../../src/process.ts';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';
import { type EventReader, eventsQuery, type Item, readEvents } from './event-reader.ts';

const log = createLog({ level: 'silent' });
let service: TestService;
let alice: TestUser;
/** An API whose channel counts its listeners. */
let api: RunningApi;
let parts: ProcessParts;
let channel: Channel & { listeners: number };

function countListeners(inner: Channel): Channel & { listeners: number } {
  const counting = {
    ...inner,
    listeners: 0,
    subscribe: async (topic: string, listener: (message: unknown) => void) => {
      const unsubscribe = await inner.subscribe(topic, listener);
      counting.listeners += 1;
      let subscribed = true;
      return () => {
        counting.listeners -= subscribed ? 1 : 0;
        subscribed = false;
        unsubscribe();
      };
    },
  };
  return counting;
}

beforeAll(async () => {
  service = await startTestService({ worker: false, redis: true });
  alice = await service.user('alice');
  await alice.ask('{ viewer { id } }');
  channel = countListeners(createChannel({ url: null, log }));
  parts = await startProcessParts(
    { databaseUrl: service.database.appUrl, redisUrl: null, dependencies: {}, tracing: null, monitor: null },
    log,
  );
  api = await startApi(service.config, log, { ...parts, channel });
});
afterAll(async () => {
  await api.stop();
  await parts.close();
  await service.stop();
});

const firstItem = (reader: EventReader): Promise<Item> => reader.find('the heartbeat', () => reader.items.length > 0);

/** Connections of the API that are in the middle of something, as Postgres sees them. */
async function busyConnections(): Promise<number> {
  const [row] = await service.database.owner(
    `SELECT count(*)::int AS busy FROM pg_stat_activity
     WHERE datname = current_database() AND usename = 'app_user' AND state <> 'idle'`,
  );
  return Number(row?.['busy']);
}

const allFree = async (): Promise<boolean> => channel.listeners === 0 && (await busyConnections()) === 0;

describe('a stream ends', () => {
  it('when its token does', async () => {
    const reader = readEvents(api.url, await signDevelopmentToken(service.key, 'alice', '2s'));
    await firstItem(reader);
    await waitFor('the end', () => reader.ended(), 4_000);
    expect({ ended: reader.ended(), errors: reader.errors }).toEqual({ ended: 'complete', errors: [] });
    await waitFor('everything to be free', allFree);
  });

  it('for all readers when the service stops, which waits for none of them', async () => {
    const stopping = await startApi(service.config, log);
    const readers = Array.from({ length: 10 }, () => readEvents(stopping.url, alice.token));
    await Promise.all(readers.map(firstItem));
    const started = performance.now();
    await stopping.stop();
    expect(performance.now() - started).toBeLessThan(service.config.SHUTDOWN_TIMEOUT / 2);
    await waitFor('all ends', () => readers.every((reader) => reader.ended() !== null));
    expect(new Set(readers.map((reader) => reader.ended()))).toEqual(new Set(['complete']));
  });
});

describe('a reader that leaves frees its listener and its connection', () => {
  it('after it got something', async () => {
    const readers = Array.from({ length: 30 }, () => readEvents(api.url, alice.token));
    await Promise.all(readers.map(firstItem));
    // All of them hear by one.
    expect(channel.listeners).toBe(1);
    for (const reader of readers) {
      reader.close();
    }
    await waitFor('everything to be free', allFree);
  });

  it('before it got anything', async () => {
    const readers = Array.from({ length: 30 }, () => readEvents(api.url, alice.token));
    // Some are still on the way, some about to begin.
    for (const [place, reader] of readers.entries()) {
      setTimeout(() => reader.close(), place);
    }
    await waitFor('all to leave', () => readers.every((reader) => reader.ended() !== null));
    await waitFor('everything to be free', allFree);
    expect(await isAnswering()).toBe(true);
  });

  it('in the middle of a long log', async () => {
    const user = await service.user('archivist');
    await user.ask('{ viewer { id } }');
    const start = readEvents(api.url, user.token);
    const { cursor } = await firstItem(start);
    start.close();
    await service.database.owner(
      `INSERT INTO events (user_id, sequence, type, data)
       SELECT users.id, place, 'agent_status_changed', jsonb_build_object('agentId', agents.id, 'status', 'READY')
       FROM users JOIN LATERAL (SELECT id FROM agents WHERE agents.user_id = users.id LIMIT 1) AS agents ON true,
         generate_series(1, 5000) AS place
       WHERE subject = 'archivist'`,
    );
    await service.database.owner(`UPDATE users SET event_sequence = 5000 WHERE subject = 'archivist'`);
    const readers = Array.from({ length: 5 }, () => readEvents(api.url, user.token, { after: cursor }));
    await Promise.all(readers.map((reader) => reader.find('some events', () => reader.items.length > 20)));
    for (const reader of readers) {
      reader.close();
    }
    await waitFor('everything to be free', allFree);
  });

  it('when it was refused', async () => {
    const reader = readEvents(api.url, alice.token, { after: 'nonsense' });
    await waitFor('the end', () => reader.ended());
    await waitFor('everything to be free', allFree);
  });

  it('over Redis too', async () => {
    const redis = new Redis(inject('redisUrl') ?? '');
    try {
      const [row] = await service.database.owner(`SELECT id FROM users WHERE subject = 'alice'`);
      const topic = `user:${String(row?.['id'])}:live`;
      const subscribers = async (): Promise<number> => Number((await redis.pubsub('NUMSUB', topic))[1]);
      const readers = Array.from({ length: 10 }, () => readEvents(service.api.url, alice.token));
      await Promise.all(readers.map(firstItem));
      expect(await subscribers()).toBe(1);
      for (const reader of readers) {
        reader.close();
      }
      await waitFor('Redis to know of no reader', async () => (await subscribers()) === 0);
    } finally {
      redis.disconnect();
    }
  });
});

async function isAnswering(): Promise<boolean> {
  const response = await fetch(api.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${alice.token}` },
    body: JSON.stringify({ query: '{ viewer { id } }' }),
  });
  return response.ok;
}

describe('a client that only takes plain JSON', () => {
  it('is refused a stream and leaves nothing behind', async () => {
    const response = await fetch(api.url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'application/json',
        authorization: `Bearer ${alice.token}`,
      },
      body: JSON.stringify({ query: eventsQuery }),
    });
    expect(response.status).toBe(406);
    await response.text();
    await waitFor('everything to be free', allFree);
  });
});
