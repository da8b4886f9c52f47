import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EventReader, type Item, readEvents } from '../http/event-reader.ts';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';

let service: TestService;
let alice: TestUser;
let bob: TestUser;
const readers: EventReader[] = [];

beforeAll(async () => {
  service = await startTestService({
    worker: false,
    environment: { STREAMS_PER_USER: '3', STREAMS_PER_NODE: '5', DIFFERENT_STREAMS_PER_USER: '2' },
  });
  [alice, bob] = [await service.user('alice'), await service.user('bob')];
});
afterAll(() => service?.stop());

async function open(user: TestUser, types?: string[]): Promise<Item> {
  const reader = readEvents(service.api.url, user.token, types === undefined ? {} : { types });
  readers.push(reader);
  return reader.find('the greeting', (item) => item.__typename === 'Heartbeat');
}

async function closeAll(): Promise<void> {
  for (const reader of readers.splice(0)) {
    reader.close();
  }
  await waitFor('all to be gone', () => service.api.streamStats().connections === 0);
}

async function refusal(user: TestUser, types: string[] = []) {
  const response = await fetch(service.api.url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: 'text/event-stream',
      authorization: `Bearer ${user.token}`,
    },
    body: JSON.stringify({
      query: 'subscription ($types: [EventType!]) { events(types: $types) { cursor } }',
      variables: { types },
    }),
  });
  const text = await response.text();
  const { errors } = JSON.parse(text.slice(text.indexOf('data: ') + 6, text.indexOf('\n\nevent: complete')));
  return { status: response.status, retryAfter: response.headers.get('retry-after'), ...errors[0].extensions };
}

describe('a stream is refused before it opens', () => {
  it('when its user has as many as may be, and taken when one has left', async () => {
    await Promise.all([open(alice), open(alice), open(alice)]);
    expect(await refusal(alice)).toEqual({
      status: 429,
      code: 'STREAM_LIMIT',
      quota: { name: 'eventStreams', limit: 3, used: 3, resetsAt: null },
      retryAfter: 10,
    });
    readers.pop()?.close();
    await waitFor('one to be gone', () => service.api.streamStats().connections === 2);
    await open(alice);
    expect(service.api.streamStats()).toMatchObject({ connections: 3, topConnections: [3] });
    await closeAll();
  });

  it('when the process has as many as may be, whoever asks', async () => {
    await Promise.all([open(alice), open(alice), open(alice), open(bob), open(bob)]);
    expect(await refusal(bob)).toMatchObject({ status: 503, code: 'SERVICE_BUSY' });
    expect(service.api.streamStats().refused).toBeGreaterThan(1);
    await closeAll();
  });

  it('when its user has as many different ones as may be; equal ones count once', async () => {
    await open(alice, ['TASK_STARTED']);
    await open(alice, ['TASK_FAILED']);
    expect(await refusal(alice, ['MESSAGE_CREATED'])).toMatchObject({
      status: 429,
      code: 'STREAM_LIMIT',
      quota: { name: 'differentEventStreams', limit: 2, used: 2, resetsAt: null },
    });
    await waitFor('the refused one to be gone', () => service.api.streamStats().connections === 2);
    await open(alice, ['TASK_FAILED']);
    await closeAll();
  });
});
