import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';
import { type EventReader, type Item, isLogged, readEvents } from './event-reader.ts';

const send = `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { message { id } task { id answerId } } }`;
const reply = 'Paris is the capital of France, and has been for most of a thousand years.';

interface Chat {
  user: TestUser;
  agentId: string;
  sessionId: string;
}

let names = 0;

/** A new user with a session, so that each test has a log of its own. */
async function openChat(service: TestService): Promise<Chat> {
  names += 1;
  const user = await service.user(`reader ${names}`);
  const { data } = await user.ask(`mutation { createSession { session { id } } }`);
  const team = await user.ask(`{ agents(first: 1) { edges { node { id } } } }`);
  return { user, agentId: team.data.agents.edges[0].node.id, sessionId: data.createSession.session.id };
}

async function sendMessage(chat: Chat, content: string): Promise<{ taskId: string; answerId: string }> {
  const { user, sessionId, agentId } = chat;
  const { data, errors } = await user.ask(send, { input: { sessionId, targetAgentId: agentId, content } });
  expect(errors).toEqual([]);
  return { taskId: data.sendMessage.task.id, answerId: data.sendMessage.task.answerId };
}

async function sendAndWait(chat: Chat, content: string): Promise<void> {
  const { taskId } = await sendMessage(chat, content);
  await waitFor('the answer', async () => {
    const { data } = await chat.user.ask(`query ($id: ID!) { task(id: $id) { state } }`, { id: taskId });
    return data.task.state === 'COMPLETED';
  });
}

const describeItem = (item: Item): string =>
  [item.__typename, item.status, item.message?.role].filter((part) => part !== undefined).join(' ');

const exchange = [
  'MessageCreated USER',
  'DirectAgentCall',
  'AgentStatusChanged BUSY',
  'TaskStarted',
  'AgentStatusChanged READY',
  'MessageCreated AGENT',
  'TaskCompleted',
];

describe.each([
  ['one process without Redis', { live: true, options: {} }],
  ['API and worker apart, over Redis', { live: true, options: { redis: true, separate: true } }],
  ['API and worker apart, without Redis', { live: false, options: { separate: true } }],
])('events of %s', (_name, { live, options }) => {
  let service: TestService;

  beforeAll(async () => {
    service = await startTestService({
      ...options,
      // Where messages travel live, they must arrive without a look into the log.
      environment: live ? { HEARTBEAT_INTERVAL: '60000', WORKER_POLL_INTERVAL: '60000' } : {},
    });
  });
  afterAll(() => service.stop());

  it('begin with a heartbeat at once', async () => {
    const { user } = await openChat(service);
    const reader = readEvents(service.api.url, user.token);
    await reader.find('the heartbeat', (item) => item.__typename === 'Heartbeat');
    expect(reader.items).toHaveLength(1);
    reader.close();
  });

  it('tell of a message and its answer in the order of commits', async () => {
    const chat = await openChat(service);
    service.model.setScript([{ match: 'capital of France', reply, tokenDelayMs: 10 }]);
    const reader = readEvents(service.api.url, chat.user.token);
    await reader.find('the heartbeat', (item) => item.__typename === 'Heartbeat');
    const { answerId } = await sendMessage(chat, 'What is the capital of France?');
    await reader.find('the end', (item) => item.__typename === 'TaskCompleted');
    reader.close();

    expect(reader.items.filter(isLogged).map(describeItem)).toEqual(exchange);
    const answer = reader.items.find((item) => item.message?.role === 'AGENT');
    expect(answer).toMatchObject({ session: { id: chat.sessionId }, message: { id: answerId, content: reply } });
    const deltas = reader.items.filter((item) => item.__typename === 'MessageDelta');
    expect(joinDeltas(deltas)).toBe(live ? reply : '');
    expect(new Set(deltas.map((delta) => delta.messageId))).toEqual(new Set(live ? [answerId] : []));
    if (live) {
      expect(deltas.length).toBeGreaterThan(2);
      const places = reader.items.map((item) => item.__typename);
      expect(places.indexOf('MessageDelta')).toBeGreaterThan(places.indexOf('TaskStarted'));
      expect(places.lastIndexOf('MessageDelta')).toBeLessThan(reader.items.indexOf(answer as Item));
    }
  });

  it('come once and all, however often the reader leaves and comes back', async () => {
    const chat = await openChat(service);
    service.model.reset();
    const before = readEvents(service.api.url, chat.user.token);
    const start = await before.find('the heartbeat', (item) => item.__typename === 'Heartbeat');
    before.close();

    const rounds = 4;
    const writing = (async () => {
      for (let round = 0; round < rounds; round += 1) {
        await sendAndWait(chat, `note ${round}`);
      }
    })();
    const seen: Item[] = [];
    let after = start.cursor;
    for (let visit = 1; seen.filter((item) => item.__typename === 'TaskCompleted').length < rounds; visit += 1) {
      const reader = readEvents(service.api.url, chat.user.token, { after });
      const patience = 1 + ((visit * 7) % 5);
      await reader.find(
        'some events',
        () =>
          reader.items.filter(isLogged).length >= patience ||
          reader.items.some((item) => item.__typename === 'TaskCompleted'),
      );
      // What came by now was seen, also what came after the last look.
      reader.close();
      seen.push(...reader.items.filter(isLogged));
      after = reader.items.at(-1)?.cursor ?? after;
    }
    await writing;
    expect(seen.map(describeItem)).toEqual(Array.from({ length: rounds }, () => exchange).flat());
    expect(new Set(seen.map((item) => item.cursor)).size).toBe(seen.length);
  });
});

function joinDeltas(deltas: Item[]): string {
  let text = '';
  for (const delta of deltas) {
    text = text.slice(0, delta.offset) + delta.text;
  }
  return text;
}

describe('a reader', () => {
  let service: TestService;
  let chat: Chat;
  /** The whole log of the chat's user. */
  let log: Item[];
  let beginning: string;

  beforeAll(async () => {
    service = await startTestService();
    chat = await openChat(service);
    const reader = readEvents(service.api.url, chat.user.token);
    beginning = (await reader.find('the heartbeat', (item) => item.__typename === 'Heartbeat')).cursor;
    for (const content of ['one', 'two', 'three']) {
      await sendAndWait(chat, content);
    }
    await reader.find(
      'three answers',
      () => reader.items.filter((item) => item.__typename === 'TaskCompleted').length === 3,
    );
    reader.close();
    log = reader.items.filter(isLogged);
  });
  afterAll(() => service.stop());

  const open = (wanted: Parameters<typeof readEvents>[2] = {}, token = chat.user.token): EventReader =>
    readEvents(service.api.url, token, wanted);
  const heartbeats = (reader: EventReader): number =>
    reader.items.filter((item) => item.__typename === 'Heartbeat').length;
  /** Waits until the reader has all that there is: two heartbeats follow. */
  const settle = (reader: EventReader): Promise<Item> => reader.find('heartbeats', () => heartbeats(reader) >= 3);

  it('gets exactly what it missed, from any place of the log', async () => {
    const cuts = [beginning, ...log.map((item) => item.cursor)];
    const missed = await Promise.all(
      cuts.map(async (after) => {
        const reader = open({ after });
        await settle(reader);
        reader.close();
        return reader.items.filter(isLogged);
      }),
    );
    expect(missed.map((items) => items.map((item) => item.cursor))).toEqual(
      cuts.map((_, place) => log.slice(place).map((item) => item.cursor)),
    );
  });

  it('without a cursor gets nothing of the past', async () => {
    const reader = open();
    await settle(reader);
    reader.close();
    expect(reader.items.filter(isLogged)).toEqual([]);
    expect(reader.items[0]?.cursor).toBe(log.at(-1)?.cursor);
  });

  it('of one session gets its events only', async () => {
    const { data } = await chat.user.ask(`mutation { createSession { session { id } } }`);
    const other = { ...chat, sessionId: data.createSession.session.id as string };
    const reader = open({ sessionId: other.sessionId });
    await reader.find('the heartbeat', (item) => item.__typename === 'Heartbeat');
    await Promise.all([sendAndWait(chat, 'here'), sendAndWait(other, 'there')]);
    await reader.find('the end', (item) => item.__typename === 'TaskCompleted');
    await settle(reader);
    reader.close();
    const kinds = reader.items.filter(isLogged).map(describeItem);
    expect(kinds).toEqual(exchange.filter((kind) => !kind.startsWith('AgentStatusChanged')));
    const sessions = reader.items.filter((item) => item.__typename !== 'Heartbeat').map((item) => item.session?.id);
    expect(new Set(sessions)).toEqual(new Set([other.sessionId]));
  });

  it('of some kinds gets those only, and heartbeats', async () => {
    const reader = open({ after: beginning, types: ['MESSAGE_CREATED', 'TASK_STARTED'] });
    await settle(reader);
    reader.close();
    const wanted = log.filter((item) => ['MessageCreated', 'TaskStarted'].includes(item.__typename));
    expect(reader.items.filter(isLogged).slice(0, wanted.length)).toEqual(wanted);
    expect(new Set(reader.items.map((item) => item.__typename))).toEqual(
      new Set(['Heartbeat', 'MessageCreated', 'TaskStarted']),
    );
  });

  it('of deltas only gets the pieces of an answer', async () => {
    const reader = open({ types: ['MESSAGE_DELTA'] });
    await reader.find('the heartbeat', (item) => item.__typename === 'Heartbeat');
    service.model.setScript([{ match: 'pieces', reply, tokenDelayMs: 5 }]);
    await sendAndWait(chat, 'pieces');
    await waitFor(
      'all pieces',
      () => joinDeltas(reader.items.filter((item) => item.__typename === 'MessageDelta')) === reply,
    );
    reader.close();
    expect(reader.items.filter(isLogged)).toEqual([]);
  });

  it.each([
    ['no cursor', { after: 'nonsense' }, 'BAD_CURSOR', 'after'],
    ['an empty cursor', { after: '' }, 'BAD_CURSOR', 'after'],
    ['a cursor of a list', { after: Buffer.from('["agents","x"]').toString('base64url') }, 'BAD_CURSOR', 'after'],
    ['a cursor before the beginning', { after: Buffer.from('event:-1').toString('base64url') }, 'BAD_CURSOR', 'after'],
    ['a cursor ahead of the log', { after: Buffer.from('event:999999').toString('base64url') }, 'BAD_CURSOR', 'after'],
    ['an id that is no session', { sessionId: 'nonsense' }, 'BAD_USER_INPUT', 'sessionId'],
    ['a kind that does not exist', { types: ['NEWS'] }, 'BAD_USER_INPUT', 'types[0]'],
  ])('with %s gets a coded error as the first result', async (_case, wanted, code, field) => {
    const reader = open(wanted);
    await waitFor('the end', () => reader.ended());
    expect(reader.ended()).toBe('complete');
    expect(reader.items).toEqual([]);
    expect(reader.errors.map((error) => error.extensions)).toEqual([{ code, field }]);
  });

  it('gets nothing of another user, not even of their session', async () => {
    const stranger = await openChat(service);
    const readers = [open({}, stranger.user.token), open({ sessionId: chat.sessionId }, stranger.user.token)];
    await Promise.all(readers.map((reader) => reader.find('the heartbeat', (item) => item.__typename === 'Heartbeat')));
    await sendAndWait(chat, 'private');
    await Promise.all(readers.map(settle));
    for (const reader of readers) {
      reader.close();
      expect(new Set(reader.items.map((item) => item.__typename))).toEqual(new Set(['Heartbeat']));
    }
  });

  it('whose cursor is older than the log is told what it lost, then gets the rest', async () => {
    const reader = await openChat(service).then(async (late) => {
      const first = open({}, late.user.token);
      const start = await first.find('the heartbeat', (item) => item.__typename === 'Heartbeat');
      first.close();
      await sendAndWait(late, 'old');
      await sendAndWait(late, 'new');
      await service.database.owner(`UPDATE users SET events_trimmed_through = 7 WHERE subject = $1`, [late.user.name]);
      await service.database.owner(
        `DELETE FROM events USING users WHERE users.id = events.user_id AND subject = $1 AND sequence <= 7`,
        [late.user.name],
      );
      return open({ after: start.cursor }, late.user.token);
    });
    await settle(reader);
    reader.close();
    const [lost, heartbeat, ...rest] = reader.items;
    expect(lost?.__typename).toBe('HistoryLost');
    expect(heartbeat).toMatchObject({ __typename: 'Heartbeat', cursor: lost?.cursor });
    expect(rest.filter(isLogged).map(describeItem)).toEqual(exchange);
  });

  it('may ask by GET, as an EventSource does', async () => {
    const query = encodeURIComponent('subscription { events { __typename } }');
    const abort = new AbortController();
    const response = await fetch(`${service.api.url}?query=${query}`, {
      headers: { accept: 'text/event-stream', authorization: `Bearer ${chat.user.token}` },
      signal: abort.signal,
    });
    expect(response.headers.get('content-type')).toContain('text/event-stream');
    const decoder = new TextDecoder();
    let text = '';
    for await (const part of response.body ?? []) {
      text += decoder.decode(part as Uint8Array, { stream: true });
      if (text.includes('Heartbeat')) {
        break;
      }
    }
    abort.abort();
    expect(text).toContain('event: next\ndata: {"data":{"events":{"__typename":"Heartbeat"}}}');
  });
});
