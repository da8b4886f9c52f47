import { randomUUID } from 'node:crypto';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { startTestService, type TestService, type TestUser } from '../service.ts';

let service: TestService;
afterEach(() => service.stop());

const viewer = '{ viewer { id } }';

async function start(environment: Record<string, string>, redis = true): Promise<void> {
  service = await startTestService({ worker: false, redis, environment });
}

describe.each([{ redis: true }, { redis: false }])('the limit of requests (Redis: $redis)', ({ redis }) => {
  it('refuses what is beyond it, says when to come again, and touches no other user', async () => {
    await start({ RATE_LIMIT_REQUESTS: '5' }, redis);
    const alice = await service.user('alice');
    const bob = await service.user('bob');
    const answers = await Promise.all(Array.from({ length: 8 }, () => alice.ask(viewer)));
    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 200, 200, 200, 200, 429, 429, 429]);
    const refused = answers.find(({ status }) => status === 429);
    expect(refused?.errors[0]?.extensions).toEqual({ code: 'RATE_LIMITED', retryAfter: expect.any(Number) });
    const header = (name: string) => Number(refused?.headers.get(name));
    expect(refused?.headers.get('ratelimit-policy')).toBe('5;w=60');
    expect(header('ratelimit-limit')).toBe(5);
    expect(header('ratelimit-remaining')).toBe(0);
    expect(header('retry-after')).toBeGreaterThan(0);
    expect(header('retry-after')).toBeLessThanOrEqual(60);
    const other = await bob.ask(viewer);
    expect(other.status).toBe(200);
    expect(other.headers.get('ratelimit-remaining')).toBe('4');
  });
});

it('counts event streams by themselves, and a query that is answered as one as a request', async () => {
  await start({ RATE_LIMIT_REQUESTS: '2', RATE_LIMIT_STREAMS: '4' });
  const alice = await service.user('alice');
  const stream = async (query: string) => {
    const response = await fetch(service.api.url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'text/event-stream',
        authorization: `Bearer ${alice.token}`,
      },
      body: JSON.stringify({ query }),
    });
    const reader = response.body?.getReader();
    const { value } = (await reader?.read()) ?? {};
    const text = Buffer.from(value ?? []).toString();
    await reader?.cancel();
    return { status: response.status, text };
  };
  for (const turn of [1, 2, 3]) {
    expect(await stream(viewer), `query ${turn}`).toMatchObject({ status: 200 });
  }
  expect((await stream('subscription { events { __typename } }')).status).toBe(200);
  expect((await stream('subscription { events { __typename } }')).text).toContain('RATE_LIMITED');
  expect((await alice.ask(viewer)).status).toBe(429);
});

it('counts a user over all processes', async () => {
  await start({ RATE_LIMIT_REQUESTS: '6' });
  const first = service;
  const { startApi } = await import('../../src/app.ts');
  const { createLog } = await import('../../src/adapters/log.ts');
  const second = await startApi(first.config, createLog({ level: 'silent' }));
  try {
    const alice = await first.user('alice');
    const { createTestUser } = await import('../service.ts');
    const elsewhere: TestUser = createTestUser(second.url, 'alice', alice.token);
    const answers = [];
    for (let turn = 0; turn < 4; turn += 1) {
      answers.push(await alice.ask(viewer), await elsewhere.ask(viewer));
    }
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 200, 429, 429]);
  } finally {
    await second.stop();
  }
});

it('has a limit of its own for messages, which names itself and lets other fields through', async () => {
  await start({ RATE_LIMIT_SEND: '2' });
  const alice = await service.user('alice');
  const { data } = await alice.ask(
    'mutation { createSession { session { id } } createAgent(input: { name: "A", instructions: "Answer." }) { agent { id } } }',
  );
  const input = {
    sessionId: data.createSession.session.id,
    targetAgentId: data.createAgent.agent.id,
    content: 'Hello',
  };
  const send = () =>
    alice.ask(
      'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } createSession { session { id } } }',
      { input },
    );
  expect((await send()).errors).toEqual([]);
  expect((await send()).errors).toEqual([]);
  const third = await send();
  expect(third.data.sendMessage).toBeNull();
  expect(third.data.createSession.session.id).toEqual(expect.any(String));
  expect(third.errors[0]).toMatchObject({
    message: 'You may send 2 messages a minute.',
    path: ['sendMessage'],
    extensions: { code: 'RATE_LIMITED', retryAfter: expect.any(Number) },
  });
  expect(third.headers.get('retry-after')).not.toBeNull();
});

describe('many denied attempts', () => {
  /** A little less than the longest wait that there is, in milliseconds. */
  const longest = 1_950;
  const foreign = Buffer.from(`Agent:${randomUUID()}`).toString('base64url');
  const denied = (user: TestUser) =>
    user.ask('mutation ($id: ID!) { deleteAgent(id: $id) { deletedAgentId } }', { id: foreign });
  const time = async (work: () => Promise<unknown>): Promise<number> => {
    const begun = performance.now();
    await work();
    return performance.now() - begun;
  };

  it('are slowed a little more each time, and nothing else is', async () => {
    await start({ SLOW_AFTER_DENIALS: '3' });
    const alice = await service.user('alice');
    const bob = await service.user('bob');
    await Promise.all(Array.from({ length: 50 }, () => denied(alice)));
    expect(await time(() => denied(alice))).toBeGreaterThan(longest);
    expect(await time(() => alice.ask(viewer))).toBeLessThan(longest);
    expect(await time(() => denied(bob))).toBeLessThan(longest);
  });

  it('without a valid token count for the address, whose good requests go on', async () => {
    await start({ SLOW_AFTER_DENIALS: '3', TRUST_PROXY: 'true' });
    const alice = await service.user('alice');
    const from = (address: string, token: string) =>
      alice.ask(viewer, {}, { authorization: `Bearer ${token}`, 'x-forwarded-for': address });
    const address = `203.0.113.${Math.floor(Math.random() * 250)}-${randomUUID()}`;
    const refused = await Promise.all(Array.from({ length: 50 }, () => from(address, 'a.b.c')));
    expect(new Set(refused.map(({ status }) => status))).toEqual(new Set([401]));
    expect(await time(() => from(address, 'a.b.c'))).toBeGreaterThan(longest);
    expect(await time(() => from(randomUUID(), 'a.b.c'))).toBeLessThan(longest);
    expect((await from(address, alice.token)).status).toBe(200);
  });
});

describe('a manifest of operations', () => {
  const id = 'a'.repeat(64);
  async function manifest(only: boolean): Promise<TestUser> {
    const path = join(await mkdtemp(join(tmpdir(), 'manifest-')), 'operations.json');
    await writeFile(path, JSON.stringify({ [id]: 'query Me { viewer { id } }' }));
    await start({ PERSISTED_OPERATIONS: path, PERSISTED_OPERATIONS_ONLY: String(only) });
    return service.user('alice');
  }
  const byId = async (user: TestUser, sha256Hash: string, query?: string) => {
    const response = await fetch(service.api.url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${user.token}` },
      body: JSON.stringify({ query, extensions: { persistedQuery: { version: 1, sha256Hash } } }),
    });
    return (await response.json()) as { data?: unknown; errors?: { extensions: unknown }[] };
  };

  it('runs what it lists, by id, and nothing else where it says so', async () => {
    const alice = await manifest(true);
    expect((await byId(alice, id)).data).toEqual({ viewer: { id: expect.any(String) } });
    const refused = { code: 'OPERATION_NOT_IN_MANIFEST' };
    expect((await byId(alice, 'b'.repeat(64))).errors?.[0]?.extensions).toEqual(refused);
    expect((await byId(alice, id, '{ viewer { createdAt } }')).errors?.[0]?.extensions).toEqual(refused);
    expect((await alice.ask(viewer)).errors[0]?.extensions).toEqual(refused);
  });

  it('leaves documents as they were where they are allowed beside it', async () => {
    const alice = await manifest(false);
    expect((await byId(alice, id)).errors).toBeUndefined();
    expect((await alice.ask(viewer)).errors).toEqual([]);
  });
});
