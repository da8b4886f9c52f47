import { createClient, type ExecutionResult } from 'graphql-sse';
import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { createLog } from '../../src/adapters/log.ts';
import { createChannel } from '../../src/adapters/redis.ts';
import { publishDelta } from '../../src/outbox.ts';
import { encodeId } from '../../src/schema/builder.ts';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';
import { streamPlaces } from './id-cases.ts';
import { createWorld, rowId, type World } from './world.ts';

let service: TestService;

beforeAll(async () => {
  // As in production: API and worker have channels of their own, and all users' live messages pass the same Redis.
  service = await startTestService({ redis: true, separate: true });
  // Words alone: a call of a tool would wait for an approval.
  service.model.setScript([{ match: '', reply: 'So be it.', times: 10_000 }]);
});
afterAll(() => service?.stop());

interface Item {
  __typename: string;
  cursor: string;
  session: { id: string } | null;
  text?: string;
  message?: { content: string } | null;
}

interface Stream {
  items: Item[];
  errors: readonly { message: string; extensions?: Record<string, unknown> }[];
  /** Whether the stream has ended. */
  ended: boolean;
}

const document = `subscription ($after: String, $sessionId: ID) { events(after: $after, sessionId: $sessionId) {
  __typename cursor session { id }
  ... on MessageDelta { text }
  ... on MessageCreated { message { content } }
} }`;

/** Follows a user's events with the client that users have, until the test ends. */
function follow(user: TestUser, variables: { after?: string; sessionId?: string } = {}): Stream & Disposable {
  const client = createClient({
    url: service.api.url,
    headers: { authorization: `Bearer ${user.token}` },
    retryAttempts: 0,
  });
  const stream = { items: [] as Item[], errors: [] as Stream['errors'], ended: false };
  client.subscribe<{ events: Item }>(
    { query: document, variables },
    {
      next: ({ data, errors }: ExecutionResult<{ events: Item }>) => {
        stream.errors = [...stream.errors, ...(errors ?? [])];
        if (data) {
          stream.items.push(data.events);
        }
      },
      error: (error) => {
        stream.errors = [...stream.errors, { message: String(error) }];
        stream.ended = true;
      },
      complete: () => {
        stream.ended = true;
      },
    },
  );
  return Object.assign(stream, { [Symbol.dispose]: () => client.dispose() });
}

const kinds = (stream: Stream) => new Set(stream.items.map((item) => item.__typename));
const begun = (stream: Stream) => waitFor('the stream to begin', () => stream.items.length > 0);

/** Waits for two more heartbeats: each looks into the log, so that whatever was to come has come. */
async function settle(stream: Stream): Promise<void> {
  const beats = () => stream.items.filter((item) => item.__typename === 'Heartbeat').length;
  const seen = beats();
  await waitFor('two heartbeats', () => beats() >= seen + 2);
}

/** Lets an agent answer a message, and waits until the answer was told. */
async function work(user: TestUser, world: World, stream: Stream): Promise<void> {
  const completed = () => stream.items.filter((item) => item.__typename === 'TaskCompleted').length;
  const before = completed();
  const { errors } = await user.ask(
    `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }`,
    {
      input: {
        sessionId: world.ids['Session'],
        targetAgentId: world.ids['Agent'],
        content: `something of ${world.marker}`,
      },
    },
  );
  expect(errors).toEqual([]);
  await waitFor('the task to be told as completed', () => completed() > before);
}

async function newcomer(name: string): Promise<{ user: TestUser; world: World }> {
  const user = await service.user(name);
  // Nobody is there to approve a plan.
  await user.ask('mutation { updateOrchestrator(input: { planApprovalPolicy: NEVER }) { orchestrator { id } } }');
  const world = await createWorld(user.ask, name, service.database.owner);
  await waitFor('what the world began to be done', async () => {
    const open = `SELECT FROM tasks WHERE user_id = $1 AND finished_at IS NULL`;
    return (await service.database.owner(open, [world.userId])).length === 0;
  });
  return { user, world };
}

/** That a stream holds what happened to one user, and nothing of the other. */
function expectOnly(stream: Stream, own: World, other: World): void {
  expect(stream.errors).toEqual([]);
  const sessions = new Set(stream.items.flatMap((item) => (item.session === null ? [] : [item.session.id])));
  expect(sessions).toEqual(new Set([own.ids['Session']]));
  const text = JSON.stringify(stream.items);
  expect(text).toContain(own.marker);
  expect(text).not.toContain(other.marker);
}

describe('events', () => {
  it("reach their own user alone, while both users' agents work", async () => {
    const [alice, bob] = [await newcomer('alice'), await newcomer('bob')];
    using hers = follow(alice.user);
    using his = follow(bob.user);
    await Promise.all([begun(hers), begun(his)]);
    await Promise.all([work(alice.user, alice.world, hers), work(bob.user, bob.world, his)]);
    await work(alice.user, alice.world, hers);
    await Promise.all([settle(hers), settle(his)]);
    expect(kinds(his)).toEqual(kinds(hers));
    expect([...kinds(his)]).toEqual(expect.arrayContaining(['MessageCreated', 'MessageDelta', 'TaskCompleted']));
    expectOnly(hers, alice.world, bob.world);
    expectOnly(his, bob.world, alice.world);
  });

  it(`of another user's session are those of a made-up one: none (${streamPlaces[1]})`, async () => {
    const [alice, bob] = [await newcomer('alice again'), await newcomer('bob again')];
    using hers = follow(alice.user);
    using foreign = follow(bob.user, { sessionId: alice.world.ids['Session'] ?? '' });
    using invented = follow(bob.user, { sessionId: encodeId('Session', uuidv7()) });
    using his = follow(bob.user, { sessionId: bob.world.ids['Session'] ?? '' });
    await Promise.all([hers, foreign, invented, his].map(begun));
    await Promise.all([work(alice.user, alice.world, hers), work(bob.user, bob.world, his)]);
    await Promise.all([foreign, invented].map(settle));
    for (const stream of [foreign, invented]) {
      expect({ kinds: kinds(stream), errors: stream.errors, ended: stream.ended }).toEqual({
        kinds: new Set(['Heartbeat']),
        errors: [],
        ended: false,
      });
    }
    expect(foreign.items.at(-1)?.session).toBeNull();
    expect(foreign.items.at(-1)?.cursor).toBe(invented.items.at(-1)?.cursor);
    expectOnly(his, bob.world, alice.world);
  });

  it(`behind another user's cursor are the reader's own (${streamPlaces[0]})`, async () => {
    const [alice, bob] = [await newcomer('alice once more'), await newcomer('bob once more')];
    using hers = follow(alice.user);
    using his = follow(bob.user);
    await Promise.all([begun(hers), begun(his)]);
    const cursor = hers.items[0]?.cursor ?? '';
    await Promise.all([work(alice.user, alice.world, hers), work(bob.user, bob.world, his)]);
    // Her log may be some events ahead of his.
    await work(bob.user, bob.world, his);
    using replayed = follow(bob.user, { after: cursor });
    await waitFor('the replay', () => replayed.items.some((item) => item.__typename === 'TaskCompleted'));
    await settle(replayed);
    expectOnly(replayed, bob.world, alice.world);
  });

  it("tell by no error how far another user's log has come", async () => {
    const [alice, bob] = [await newcomer('busy alice'), await newcomer('quiet bob')];
    using hers = follow(alice.user);
    await begun(hers);
    for (let times = 0; times < 3; times += 1) {
      await work(alice.user, alice.world, hers);
    }
    await settle(hers);
    const last = hers.items.at(-1)?.cursor ?? '';
    using foreign = follow(bob.user, { after: last });
    using invented = follow(bob.user, { after: Buffer.from('event:99999').toString('base64url') });
    await waitFor('both refusals', () => foreign.errors.length > 0 && invented.errors.length > 0);
    expect(foreign.errors).toEqual(invented.errors);
    expect(foreign.errors[0]?.extensions).toMatchObject({ code: 'BAD_CURSOR', field: 'after' });
    expect([...foreign.items, ...invented.items]).toEqual([]);
  });

  it("would be found to carry another user's words, if a live channel mixed users up", async () => {
    const [alice, bob] = [await newcomer('loud alice'), await newcomer('mixed up bob')];
    using his = follow(bob.user);
    await begun(his);
    await work(bob.user, bob.world, his);
    expectOnly(his, bob.world, alice.world);
    const channel = createChannel({ url: inject('redisUrl'), log: createLog({ level: 'silent' }) });
    try {
      await waitFor('Redis', () => channel.status() === 'connected');
      publishDelta(channel, bob.world.userId, {
        sessionId: rowId(alice.world.ids['Session'] ?? ''),
        messageId: uuidv7(),
        taskId: uuidv7(),
        attempt: 1,
        step: 0,
        offset: 0,
        text: `secret of ${alice.world.marker}`,
      });
      await waitFor('the stray text', () => his.items.some((item) => item.text?.includes(alice.world.marker) === true));
    } finally {
      await channel.close();
    }
    expect(() => expectOnly(his, bob.world, alice.world)).toThrow(/loud alice/);
  });

  it('of something that is no session are refused as input', async () => {
    const [alice, bob] = [await newcomer('alice at last'), await newcomer('bob at last')];
    for (const { world } of [alice, bob]) {
      for (const [noun, sessionId] of Object.entries(world.ids).filter(([name]) => name !== 'Session')) {
        using stream = follow(bob.user, { sessionId });
        await waitFor('the refusal', () => stream.errors.length > 0);
        expect(stream.errors[0]?.extensions, noun).toEqual({ code: 'BAD_USER_INPUT', field: 'sessionId' });
      }
    }
  });
});
