import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { signDevelopmentToken } from '../../dev/identity.ts';
import { createLog } from '../../src/adapters/log.ts';
import { startApi } from '../../src/app.ts';
import { forgetDeltas, publishDelta } from '../../src/outbox.ts';
import { type EventReader, type Item, isLogged, readEvents } from '../http/event-reader.ts';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';
import { type EventWriter, openWriter, placeOf, readLog, userIdOf } from './log.ts';
import { openRawStream } from './raw-stream.ts';

const plain = 'subscription { events { __typename cursor ... on StreamEnded { reason reconnectAfter } } }';

let service: TestService;
let writer: EventWriter;
let names = 0;

beforeAll(async () => {
  // The writer is a process apart: what it tells travels through Redis.
  service = await startTestService({ worker: false, redis: true, environment: { HEARTBEAT_INTERVAL: '60000' } });
  writer = openWriter(service.database, inject('redisUrl'));
  await waitFor('Redis', () => writer.channel.status() === 'connected');
});
afterAll(async () => {
  await writer?.close();
  await service?.stop();
});

async function newUser(): Promise<TestUser & { id: string }> {
  names += 1;
  const user = await service.user(`reader ${names}`);
  await user.ask('{ viewer { id } }');
  return { ...user, id: await userIdOf(service.database, user.name) };
}

const open = (user: TestUser, wanted: Parameters<typeof readEvents>[2] = {}): EventReader =>
  readEvents(service.api.url, user.token, wanted);
const begun = (reader: EventReader): Promise<Item> =>
  reader.find('the greeting', (item) => item.__typename === 'Heartbeat');
const places = (reader: EventReader): number[] => reader.items.filter(isLogged).map(({ cursor }) => placeOf(cursor));

describe('identical subscriptions', () => {
  it('are executed once for an event, whatever place their readers came from', async () => {
    const user = await newUser();
    await writer.progress(user.id);
    const start = Buffer.from('event:0').toString('base64url');
    const readers = [
      ...Array.from({ length: 20 }, () => open(user)),
      ...Array.from({ length: 20 }, () => open(user, { after: start })),
    ];
    await Promise.all(readers.map(begun));
    await Promise.all(readers.slice(20).map((reader) => waitFor('the past', () => places(reader).length === 1)));
    await writer.progress(user.id);
    await Promise.all(readers.map((reader) => waitFor('an event', () => places(reader).at(-1) === 2)));
    const before = service.api.streamStats();
    expect(before.groups).toBe(1);
    await writer.progress(user.id);
    await Promise.all(readers.map((reader) => waitFor('an event', () => places(reader).at(-1) === 3)));
    const after = service.api.streamStats();
    expect(after.executed - before.executed).toBe(1);
    expect(after.delivered - before.delivered).toBe(40);
    expect(readers.slice(20).map(places)).toEqual(readers.slice(20).map(() => [1, 2, 3]));
    for (const reader of readers) {
      reader.close();
    }
    await waitFor('all to be gone', () => service.api.streamStats().connections === 0);
  });

  it('of two users share nothing', async () => {
    const [alice, bob] = [await newUser(), await newUser()];
    const [hers, his] = [open(alice), open(bob)];
    await Promise.all([begun(hers), begun(his)]);
    expect(service.api.streamStats()).toMatchObject({ users: 2, groups: 2, topConnections: [1, 1] });
    await writer.progress(alice.id);
    await writer.progress(bob.id);
    await writer.progress(alice.id);
    await waitFor('both', () => places(hers).length === 2 && places(his).length === 1);
    hers.close();
    his.close();
  });

  it('end one by one, each with its own token', async () => {
    const user = await newUser();
    const short = readEvents(service.api.url, await signDevelopmentToken(service.key, user.name, '2s'));
    const long = open(user);
    await Promise.all([begun(short), begun(long)]);
    await waitFor('the end of the short one', () => short.ended() === 'complete');
    expect(short.items.at(-1)?.__typename).toBe('StreamEnded');
    await writer.progress(user.id);
    await waitFor('an event', () => places(long).length === 1);
    expect(long.ended()).toBeNull();
    expect(places(short)).toEqual([]);
    long.close();
  });
});

describe('a stream on the wire', () => {
  it('carries ids by which an EventSource resumes without an argument', async () => {
    const user = await newUser();
    for (let times = 0; times < 3; times += 1) {
      await writer.progress(user.id);
    }
    const second = Buffer.from('event:2').toString('base64url');
    const third = Buffer.from('event:3').toString('base64url');
    const stream = openRawStream(service.api.url, user.token, plain, { headers: { 'last-event-id': second } });
    await stream.has(`id: ${third}\n`);
    expect(stream.text()).not.toContain(`id: ${Buffer.from('event:1').toString('base64url')}\n`);
    stream.close();
  });

  it('is not chunked for HTTP/1.0, which proxies still speak', async () => {
    const user = await newUser();
    const stream = openRawStream(service.api.url, user.token, plain, { version: '1.0' });
    await stream.has('Heartbeat');
    await writer.progress(user.id);
    await stream.has('TaskProgress');
    const [head, body] = stream.text().split('\r\n\r\n');
    expect(head).not.toMatch(/transfer-encoding/i);
    expect(body).toMatch(/^:\n\nevent: next\ndata: \{"data":\{"events":\{"__typename":"Heartbeat"/);
    stream.close();
  });

  it('leaves its connection to the next request when its token ends', async () => {
    const user = await newUser();
    const stream = openRawStream(service.api.url, await signDevelopmentToken(service.key, user.name, '2s'), plain);
    await stream.has('event: complete\ndata:\n\n\r\n0\r\n\r\n');
    expect(stream.text()).toContain('"reason":"TOKEN_EXPIRED","reconnectAfter":null');
    stream.socket.write(`GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    await stream.has('{"status":"live"}');
    stream.close();
  });

  it('ends at a shutdown with the place and the time to come back', async () => {
    const user = await newUser();
    const other = await startApi(service.config, createLog({ level: 'silent' }));
    const stream = openRawStream(other.url, user.token, plain);
    await stream.has('Heartbeat');
    await other.stop();
    await waitFor('the end', () => stream.isClosed());
    expect(stream.text()).toMatch(/retry: \d+\n\n/);
    expect(stream.text()).toMatch(/"StreamEnded","cursor":"[\w-]+","reason":"SHUTDOWN","reconnectAfter":\d+/);
    expect(stream.text()).toContain('event: complete\ndata:\n\n');
  });
});

describe('an answer in the making', () => {
  const writing = { sessionId: uuidv7(), messageId: uuidv7(), taskId: uuidv7(), attempt: 1, step: 0 };
  const joined = (reader: EventReader): string =>
    reader.items
      .filter((item) => item.__typename === 'MessageDelta')
      .reduce((text, { offset = 0, text: piece = '' }) => {
        expect(offset === 0 || offset === text.length).toBe(true);
        return text.slice(0, offset) + piece;
      }, '');

  /** A task that runs, so that its answer is believed to be in the making. */
  async function addRunningTask(userId: string, taskId: string): Promise<void> {
    await service.database.owner(
      `WITH lane AS (SELECT id, agent_id FROM lanes WHERE user_id = $1 LIMIT 1)
       INSERT INTO tasks (user_id, id, kind, lane_id, agent_id, state, attempt, worker_id)
       SELECT $1, $2, 'AGENT_RUN', lane.id, lane.agent_id, 'RUNNING', 1, uuidv7() FROM lane`,
      [userId, taskId],
    );
  }

  it('is given to a newcomer as far as it has come, on a process that heard nothing of it, then goes on', async () => {
    const user = await newUser();
    await addRunningTask(user.id, writing.taskId);
    const send = (offset: number, text: string) => publishDelta(writer.channel, user.id, { ...writing, offset, text });
    send(0, 'Paris ');
    send(6, 'is the ');
    const first = open(user, { types: ['MESSAGE_DELTA'] });
    await waitFor('the text so far', () => joined(first) === 'Paris is the ');
    send(13, 'capital');
    await waitFor('the next piece', () => joined(first) === 'Paris is the capital');
    const second = open(user, { types: ['MESSAGE_DELTA'] });
    await waitFor('the text so far', () => joined(second) === 'Paris is the capital');
    send(20, ' of France.');
    await waitFor('the end', () => [first, second].every((reader) => joined(reader).endsWith('France.')));
    expect(service.api.streamStats().groups).toBe(1);
    // Another attempt begins anew, and what the first one still says is nobody's.
    publishDelta(writer.channel, user.id, { ...writing, attempt: 2, offset: 0, text: 'Rome' });
    send(31, ' Really.');
    await waitFor('the second attempt', () => [first, second].every((reader) => joined(reader) === 'Rome'));
    forgetDeltas(writer.channel, user.id, writing.messageId);
    first.close();
    second.close();
  });

  it('whose writer is gone is not begun', async () => {
    const user = await newUser();
    publishDelta(writer.channel, user.id, {
      ...writing,
      taskId: uuidv7(),
      messageId: uuidv7(),
      offset: 0,
      text: 'lost',
    });
    await writer.progress(user.id);
    const reader = open(user, { after: Buffer.from('event:0').toString('base64url') });
    await waitFor('the event', () => places(reader).length === 1);
    expect(joined(reader)).toBe('');
    reader.close();
  });
});

describe('an event', () => {
  it('that is too large is refused with its change', async () => {
    const user = await newUser();
    await expect(writer.progress(user.id, 'x'.repeat(10_000))).rejects.toThrow(/task_progress has \d+ bytes/);
    expect(await readLog(service.database, user.id)).toEqual([]);
  });
});
