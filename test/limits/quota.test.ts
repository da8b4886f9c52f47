import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/adapters/clock.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createDatabase, statement } from '../../src/adapters/postgres.ts';
import { createChannel } from '../../src/adapters/redis.ts';
import { createOperation } from '../../src/operation.ts';
import { checkQuota } from '../../src/services/quota.ts';
import { recordUse } from '../../src/services/usage.ts';
import { costOf, defaultTerms } from '../../src/terms.ts';
import { rowId } from '../isolation/world.ts';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';

let service: TestService;
let names = 0;
const quotas = { AGENTS: 25, SESSIONS: 20, STORED_BYTES: 1_000, CONCURRENT_TASKS: 10, TOKENS_PER_DAY: 5_000 };
const prices = { 'offline-1': { prompt: 2, completion: 10 } };

beforeAll(async () => {
  service = await startTestService({
    worker: false,
    environment: {
      ...Object.fromEntries(Object.entries(quotas).map(([name, limit]) => [`QUOTA_${name}`, String(limit)])),
      MODEL_PRICES: JSON.stringify(prices),
    },
  });
});
afterAll(() => service.stop());

async function newcomer(): Promise<{ user: TestUser; id: string }> {
  names += 1;
  const user = await service.user(`user ${names}`);
  const { data } = await user.ask('{ viewer { id } }');
  return { user, id: rowId(data.viewer.id) };
}

const usage = async (user: TestUser, name: string) => {
  const { data, errors } = await user.ask('{ viewer { usage { quotas { name limit used resetsAt } } } }');
  expect(errors).toEqual([]);
  return data.viewer.usage.quotas.find((quota: { name: string }) => quota.name === name);
};

/** Works on the database as the service does for one user, in a pool of its own. */
async function asUser<Result>(
  userId: string,
  work: (operation: ReturnType<typeof createOperation>) => Promise<Result>,
): Promise<Result> {
  const database = createDatabase({
    url: service.database.appUrl,
    poolSize: 20,
    connectionTimeout: 10_000,
    statementTimeout: 10_000,
    applicationName: 'quota test',
    onError: () => undefined,
  });
  const channel = createChannel({ url: null, log: createLog({ level: 'silent' }) });
  const operation = createOperation(
    { database, channel, clock: systemClock(), terms: { ...defaultTerms, quotas, prices } },
    userId,
  );
  try {
    return await work(operation);
  } finally {
    await operation.close();
    await database.close();
  }
}

describe('of 50 changes at once exactly as many get through as the quota has room for:', () => {
  it('sessions', async () => {
    const { user } = await newcomer();
    const answers = await Promise.all(
      Array.from({ length: 50 }, () => user.ask('mutation { createSession { session { id } } }')),
    );
    expect(answers.filter(({ errors }) => errors.length === 0)).toHaveLength(20);
    const refused = answers.find(({ errors }) => errors.length > 0);
    expect(refused?.errors[0]?.extensions).toEqual({
      code: 'QUOTA_EXCEEDED',
      quota: { name: 'SESSIONS', limit: 20, used: 20, resetsAt: null },
    });
    expect(await usage(user, 'SESSIONS')).toEqual({ name: 'SESSIONS', limit: 20, used: 20, resetsAt: null });
  });

  it('agents', async () => {
    const { user } = await newcomer();
    const before = (await usage(user, 'AGENTS')).used;
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, place) =>
        user.ask(
          `mutation { createAgent(input: { name: "Agent ${place}", instructions: "Answer." }) { agent { id } } }`,
        ),
      ),
    );
    expect(answers.filter(({ errors }) => errors.length === 0)).toHaveLength(25 - before);
    expect((await usage(user, 'AGENTS')).used).toBe(25);
  });

  it('tasks, of several agents and sessions', async () => {
    const { user } = await newcomer();
    const { data } = await user.ask('{ agents(first: 2) { edges { node { id } } } }');
    const agents: string[] = data.agents.edges.map(({ node }: { node: { id: string } }) => node.id);
    const sessions = await Promise.all(
      [1, 2, 3].map(
        async () => (await user.ask('mutation { createSession { session { id } } }')).data.createSession.session.id,
      ),
    );
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, place) =>
        user.ask('mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }', {
          input: { content: 'Hello', sessionId: sessions[place % 3], targetAgentId: agents[place % agents.length] },
        }),
      ),
    );
    expect(answers.filter(({ errors }) => errors.length === 0)).toHaveLength(10);
    expect(await usage(user, 'CONCURRENT_TASKS')).toMatchObject({ used: 10 });
    // What was refused left nothing behind.
    const { data: stored } = await user.ask('{ sessions { edges { node { messages { edges { node { id } } } } } } }');
    const messages = stored.sessions.edges.flatMap(
      (edge: { node: { messages: { edges: unknown[] } } }) => edge.node.messages.edges,
    );
    expect(messages).toHaveLength(10);
  });

  it('stored bytes', async () => {
    const { user, id } = await newcomer();
    const [agent] = await service.database.owner('SELECT id FROM agents WHERE user_id = $1 LIMIT 1', [id]);
    const add = statementOf(String(agent?.['id']));
    await service.database.owner('INSERT INTO memories (user_id, id, agent_id) VALUES ($1, $2, $2)', [
      id,
      agent?.['id'],
    ]);
    const stored = await asUser(id, (operation) =>
      Promise.allSettled(
        Array.from({ length: 50 }, (_, place) =>
          operation.write(async (write) => {
            await write.prisma((client) =>
              client.memoryDocument.create({ data: { ...add, userId: id, path: `${place}`, bytes: 90n } }),
            );
            await checkQuota(write, 'STORED_BYTES');
          }),
        ),
      ),
    );
    expect(stored.filter(({ status }) => status === 'fulfilled')).toHaveLength(11);
    expect(await usage(user, 'STORED_BYTES')).toMatchObject({ used: 990 });
    await service.database.owner('UPDATE memory_documents SET bytes = 10 WHERE user_id = $1', [id]);
    expect(await usage(user, 'STORED_BYTES')).toMatchObject({ used: 110 });
    await service.database.owner('DELETE FROM memory_documents WHERE user_id = $1', [id]);
    expect(await usage(user, 'STORED_BYTES')).toMatchObject({ used: 0 });
  });
});

const statementOf = (memoryId: string) => ({ memoryId, source: 'test', mediaType: 'text/plain', contentHash: 'none' });

describe('a quota', () => {
  it('of one user is what that row says, and of nobody else', async () => {
    const { user, id } = await newcomer();
    const { user: other } = await newcomer();
    await service.database.owner('INSERT INTO quotas (user_id, sessions) VALUES ($1, 1)', [id]);
    const open = async (who: TestUser) => (await who.ask('mutation { createSession { session { id } } }')).errors;
    expect(await open(user)).toEqual([]);
    expect((await open(user))[0]?.extensions).toMatchObject({ quota: { limit: 1, used: 1 } });
    expect(await open(other)).toEqual([]);
    expect(await open(other)).toEqual([]);
  });

  it.each([
    { change: 'made', sql: 'INSERT INTO quotas (user_id, agents) VALUES ($1, 9)' },
    { change: 'raised', sql: 'UPDATE quotas SET sessions = 9 WHERE user_id = $1' },
    { change: 'removed', sql: 'DELETE FROM quotas WHERE user_id = $1' },
  ])("can't be $change by the user it holds for", async ({ change, sql }) => {
    const { user, id } = await newcomer();
    if (change !== 'made') {
      await service.database.owner('INSERT INTO quotas (user_id, sessions) VALUES ($1, 3)', [id]);
    }
    const before = await Promise.all([usage(user, 'AGENTS'), usage(user, 'SESSIONS')]);
    await asUser(id, async (operation) => {
      const changed = operation.write((write) => write.query(statement(sql), [id]));
      await expect(changed).rejects.toThrow(/permission denied/);
    });
    expect(await Promise.all([usage(user, 'AGENTS'), usage(user, 'SESSIONS')])).toEqual(before);
  });

  it('of tokens refuses new messages until the next day of UTC', async () => {
    const { user, id } = await newcomer();
    const { data } = await user.ask('mutation { createSession { session { id } } }');
    const send = async () =>
      (
        await user.ask('mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }', {
          input: { content: 'Hello', sessionId: data.createSession.session.id },
        })
      ).errors;
    expect(await send()).toEqual([]);
    await asUser(id, (operation) =>
      operation.write((write) =>
        recordUse(write, null, {
          kind: 'EMBEDDING',
          model: 'e',
          promptTokens: 5_000,
          completionTokens: 0,
          durationMilliseconds: 1,
        }),
      ),
    );
    const tomorrow = new Date();
    tomorrow.setUTCHours(24, 0, 0, 0);
    expect((await send())[0]?.extensions).toEqual({
      code: 'QUOTA_EXCEEDED',
      quota: { name: 'TOKENS_PER_DAY', limit: 5_000, used: 5_000, resetsAt: tomorrow.toISOString() },
    });
  });
});

describe('the record of model use', () => {
  it('is told by day, kind and model, with what it cost', async () => {
    const { user, id } = await newcomer();
    await asUser(id, (operation) =>
      Promise.all(
        Array.from({ length: 10 }, (_, place) =>
          operation.write((write) =>
            recordUse(write, null, {
              kind: place < 4 ? 'EMBEDDING' : 'CHAT',
              model: 'offline-1-2026-11-01',
              promptTokens: 100,
              completionTokens: place < 4 ? 0 : 10,
              durationMilliseconds: 5,
            }),
          ),
        ),
      ),
    );
    const { data } = await user.ask(
      '{ viewer { usage { days(days: 7) { day kind model calls promptTokens completionTokens costUsd } } } }',
    );
    const day = new Date().toISOString().slice(0, 10);
    const model = 'offline-1-2026-11-01';
    expect(data.viewer.usage.days).toEqual([
      { day, model, kind: 'CHAT', calls: 6, promptTokens: 600, completionTokens: 60, costUsd: 0.0018 },
      { day, model, kind: 'EMBEDDING', calls: 4, promptTokens: 400, completionTokens: 0, costUsd: 0.0008 },
    ]);
    const { errors } = await user.ask('{ viewer { usage { days(days: 91) { day } } } }');
    expect(errors[0]?.extensions).toEqual({ code: 'BAD_USER_INPUT', field: 'days' });
  });

  it('counts what was done for an agent that is gone by then', async () => {
    const { user, id } = await newcomer();
    const use = {
      kind: 'EMBEDDING' as const,
      model: 'e',
      promptTokens: 7,
      completionTokens: 0,
      durationMilliseconds: 1,
    };
    await asUser(id, (operation) => operation.write((write) => recordUse(write, randomUUID(), use)));
    expect(await usage(user, 'TOKENS_PER_DAY')).toMatchObject({ used: 7 });
  });

  it('shows what is left of the limits by the minute', async () => {
    const { user } = await newcomer();
    const look = async () =>
      (await user.ask('{ viewer { usage { rateLimits { name limit remaining resetsAt } } } }')).data.viewer.usage
        .rateLimits;
    const first = await look();
    expect(first.map(({ name }: { name: string }) => name)).toEqual([
      'REQUESTS',
      'STREAMS',
      'SEND',
      'INGEST',
      'SEARCH',
      'COSTLY',
    ]);
    expect((await look())[0].remaining).toBe(first[0].remaining - 1);
  });

  it.each([
    ['gpt-x', 3],
    ['gpt-x-2026-11-01', 3],
    ['gpt-x-mini', 0.3],
    ['gpt-xy', 0],
  ])('prices %s by the longest name of the table that it begins with', (model, dollars) => {
    const terms = {
      ...defaultTerms,
      prices: { 'gpt-x': { prompt: 1, completion: 2 }, 'gpt-x-mini': { prompt: 0.1, completion: 0.2 } },
    };
    expect(costOf(terms, { model, promptTokens: 1_000_000, completionTokens: 1_000_000 }) / 1e6).toBeCloseTo(
      dollars,
      9,
    );
  });
});

it('ends a task whose user has no tokens left, with the quota as its reason', async () => {
  const whole = await startTestService({ environment: { QUOTA_TOKENS_PER_DAY: '1' } });
  try {
    const alice = await whole.user('alice');
    const { data } = await alice.ask('mutation { createSession { session { id } } }');
    const { data: team } = await alice.ask('{ agents(first: 1) { edges { node { id } } } }');
    const input = {
      content: 'Hello',
      sessionId: data.createSession.session.id,
      targetAgentId: team.agents.edges[0].node.id,
    };
    // Both are accepted before anything was used; the second runs when the first has used it all.
    whole.model.setBehaviour({ delayMs: 1_000 });
    const [, second] = await Promise.all(
      [1, 2].map(() =>
        alice.ask('mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }', { input }),
      ),
    );
    const ended = await waitFor('the tasks to end', async () => {
      const { data: all } = await alice.ask('{ tasks { edges { node { id state errorCode } } } }');
      const nodes: { state: string; errorCode: string | null }[] = all.tasks.edges.map(
        (edge: { node: object }) => edge.node,
      );
      return nodes.every(({ state }) => state === 'COMPLETED' || state === 'FAILED') && nodes;
    });
    expect(second?.errors ?? []).toEqual([]);
    expect(ended.map(({ state, errorCode }) => `${state} ${errorCode}`).toSorted()).toEqual([
      'COMPLETED null',
      'FAILED QUOTA_EXCEEDED',
    ]);
  } finally {
    await whole.stop();
  }
});
