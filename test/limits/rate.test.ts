import { randomUUID } from 'node:crypto';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { createLog } from '../../src/adapters/log.ts';
import { startApi } from '../../src/app.ts';
import { readManifest } from '../../src/http-limits.ts';
import { createTestUser, startTestService, type TestService, type TestUser } from '../service.ts';

let service: TestService;
let open = new AsyncDisposableStack();
afterEach(async () => {
  await open.disposeAsync();
  open = new AsyncDisposableStack();
});

const viewer = '{ viewer { id } }';

async function start(environment: Record<string, string>, redis = true): Promise<void> {
  service = await startTestService({ worker: false, redis, environment });
  open.defer(() => service.stop());
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
  const second = await startApi(first.config, createLog({ level: 'silent' }));
  try {
    const alice = await first.user('alice');
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

  it('are told in the log by their number and a hash, and not by who it was', async () => {
    await start({ SLOW_AFTER_DENIALS: '3', TRUST_PROXY: 'true' });
    const lines: string[] = [];
    const log = createLog({ level: 'info', destination: { write: (line) => void lines.push(line) } });
    const told = await startApi(service.config, log);
    try {
      const { token } = await service.user('alice');
      const alice = createTestUser(told.url, 'alice', token);
      const stranger = createTestUser(told.url, 'stranger', 'a.b.c');
      const address = '203.0.113.77';
      await Promise.all(Array.from({ length: 8 }, () => denied(alice)));
      await Promise.all(Array.from({ length: 8 }, () => stranger.ask(viewer, {}, { 'x-forwarded-for': address })));
      const slowed = lines.filter((line) => line.includes('answers are slowed')).map((line) => JSON.parse(line));
      // The first, second and fourth beyond the limit of three.
      expect(slowed.map(({ kind, denied: count }) => `${kind} ${count}`).toSorted()).toEqual([
        'address 4',
        'address 5',
        'address 7',
        'user 4',
        'user 5',
        'user 7',
      ]);
      expect(new Set(slowed.map(({ who }) => who)).size).toBe(2);
      const [row] = await service.database.owner(`SELECT id, issuer FROM users WHERE subject = 'alice'`);
      for (const personal of [String(row?.['id']), String(row?.['issuer']), 'alice', address, token, 'a.b.c']) {
        expect(lines.filter((line) => line.includes(personal))).toEqual([]);
      }
    } finally {
      await told.stop();
    }
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

describe('a manifest that is read', () => {
  const operation = 'query Me { viewer { id } }';
  it.each([
    { form: 'ids with their documents', manifest: { one: operation } },
    {
      form: "that of Apollo's tools",
      manifest: { format: 'apollo-persisted-query-manifest', operations: [{ id: 'one', body: operation }] },
    },
  ])('may have the form of $form', ({ manifest }) => {
    expect([...readManifest(JSON.stringify(manifest))]).toEqual([['one', operation]]);
  });

  it.each(['[', '1', 'null', '{"one": 1}', '{"operations": [{"id": "one"}]}'])('may not be %s', (text) => {
    expect(() => readManifest(text)).toThrow();
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
