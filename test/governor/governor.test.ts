import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import { type OfflineModel, startOfflineModel } from '../../dev/offline-model/server.ts';
import { createBudgetStore } from '../../src/adapters/budget-store.ts';
import { createLanguageModel } from '../../src/adapters/llm.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createMetrics } from '../../src/adapters/metrics.ts';
import { createSharedStore, type SharedStore } from '../../src/adapters/shared-store.ts';
import type { ModelFor } from '../../src/governor/caller.ts';
import { createBudgetEngine, shareConstants } from '../../src/governor/engine.ts';
import { createGovernor, type GovernorOptions } from '../../src/governor/governor.ts';
import type { Limits } from '../../src/governor/share.ts';
import { waitFor } from '../service.ts';

const log = createLog({ level: 'silent' });
const generous: Limits = { requests: 10_000, tokens: 10_000_000, window: 60_000 };
let store: SharedStore;
let model: OfflineModel;

beforeAll(async () => {
  store = createSharedStore({ url: inject('redisUrl') ?? '', log });
  await waitFor('the connection', () => store.ready());
  model = await startOfflineModel();
});
beforeEach(() => model.reset());
afterAll(async () => {
  store.close();
  await model.stop();
});

/** A governor as a process of the service has it, over a budget that others of that name share. */
function governor(
  options: Partial<GovernorOptions> & { limits?: Limits; budget?: string; alone?: boolean; url?: string } = {},
): ModelFor {
  const { limits = generous, budget = randomUUID(), alone = false, url = model.url, ...rest } = options;
  const client = (baseUrl: string, defaultModel: string) => ({
    name: `${baseUrl} ${defaultModel}`,
    model: createLanguageModel({
      baseUrl,
      apiKey: model.apiKey,
      defaultModel,
      defaultEmbeddingModel: 'offline-embedding',
      connectTimeout: 5_000,
      idleTimeout: 5_000,
    }),
    defaultModel,
    defaultEmbeddingModel: 'offline-embedding',
  });
  return createGovernor({
    provider: client(url, 'offline-1'),
    fallback: rest.fallback === undefined ? null : client(model.url, 'fall-back'),
    limitsOf: () => ({ name: '*', limits }),
    engineFor: (name) =>
      createBudgetEngine({
        limits,
        process: randomUUID(),
        now: Date.now,
        store: alone ? null : createBudgetStore(store, `${budget}:${name}`, { ...limits, constants: shareConstants }),
        newEpoch: randomUUID,
      }),
    waitTimeout: 5_000,
    maxWaiting: 100,
    maxWaitingPerUser: 50,
    metrics: createMetrics(),
    log,
    ...(rest.leaveAloneFor === undefined ? {} : { leaveAloneFor: rest.leaveAloneFor }),
    ...(rest.waitTimeout === undefined ? {} : { waitTimeout: rest.waitTimeout }),
    ...(rest.maxWaitingPerUser === undefined ? {} : { maxWaitingPerUser: rest.maxWaitingPerUser }),
  });
}

const say = (models: ModelFor, userId: string, options: { signal?: AbortSignal; background?: boolean } = {}) =>
  models({ userId, priority: options.background === true ? 'BACKGROUND' : 'INTERACTIVE' }).chat(
    {
      model: null,
      temperature: null,
      messages: [{ role: 'user', content: 'Hello' }],
      signal: options.signal ?? new AbortController().signal,
    },
    () => undefined,
  );
const embed = (models: ModelFor, userId: string, signal = new AbortController().signal, text = 'green tea') =>
  models({ userId, priority: 'INTERACTIVE' }).embed({ model: null, texts: [text], signal });

/** Lets one call in about ten seconds through, after a first one. */
const tight: Limits = { requests: 6, tokens: 1_000_000, window: 60_000 };

/**
 * A tight budget whose first turn is taken, by a call that is not held to a short wait: a busy machine may need longer to ask.
 * @returns it, for a governor
 */
async function takeFirstTurn(): Promise<{ budget: string; limits: Limits }> {
  const shared = { budget: randomUUID(), limits: tight };
  expect((await say(governor(shared), 'alice')).content).not.toBe('');
  return shared;
}

describe('a governed model', () => {
  it('answers as the model itself does', async () => {
    const models = governor();
    expect((await say(models, 'alice')).content).not.toBe('');
    expect((await embed(models, 'alice')).vectors).toHaveLength(1);
  });

  it.each([{ alone: false }, { alone: true }])(
    'takes a call out of the line at once when it is cancelled ($alone)',
    async ({ alone }) => {
      const models = governor({ limits: tight, alone });
      await say(models, 'alice');
      const cancel = new AbortController();
      const waiting = say(models, 'alice', { signal: cancel.signal });
      const begun = performance.now();
      setTimeout(() => cancel.abort(new Error('enough')), 50);
      await expect(waiting).rejects.toThrow('enough');
      expect(performance.now() - begun).toBeLessThan(1_000);
    },
  );

  it('tells a call that waited too long to come again, and asks the model nothing', async () => {
    const models = governor({ ...(await takeFirstTurn()), waitTimeout: 200 });
    const before = model.requests();
    await expect(say(models, 'alice')).rejects.toMatchObject({ code: 'MODEL_BUSY', retryAfter: 5 });
    expect(model.requests()).toEqual(before);
  });

  it('lets a user have so many calls in the line and no more, and others still get in', async () => {
    const models = governor({ ...(await takeFirstTurn()), maxWaitingPerUser: 3, waitTimeout: 300 });
    const outcomes = await Promise.allSettled([
      ...Array.from({ length: 5 }, () => say(models, 'alice')),
      say(models, 'bob'),
    ]);
    const messages = outcomes.map((outcome) =>
      outcome.status === 'rejected' ? String(outcome.reason.message) : 'answered',
    );
    expect(messages.filter((message) => message.startsWith('Too many'))).toHaveLength(2);
    expect(messages[5]).not.toMatch(/^Too many/);
  });

  it('keeps to the time that a refusing provider names, in all processes, and then goes on', async () => {
    const budget = randomUUID();
    const one = governor({ budget });
    const other = governor({ budget });
    await Promise.all([say(one, 'alice'), say(other, 'bob')]);
    model.setBehaviour({ failNext: { status: 429, count: 1, retryAfterSeconds: 1 } });
    const begun = performance.now();
    const first = say(one, 'alice');
    await waitFor('the refusal', () => model.recentRequests().at(-1)?.status === 429);
    await Promise.all([first, say(other, 'bob')]);
    expect(performance.now() - begun).toBeGreaterThan(950);
    expect(model.recentRequests().filter(({ status }) => status === 429)).toHaveLength(1);
  });

  it('hands on a refusal for longer than a call may wait', async () => {
    const models = governor();
    model.setBehaviour({ failNext: { status: 429, count: 1, retryAfterSeconds: 30 } });
    await expect(say(models, 'alice')).rejects.toMatchObject({ code: 'MODEL_RATE_LIMITED', retryAfter: 30 });
  });

  it('leaves a failing provider alone after five faults in a row', async () => {
    const models = governor();
    model.setBehaviour({ failNext: { status: 500, count: 100 } });
    for (let fault = 0; fault < 5; fault += 1) {
      await expect(say(models, 'alice')).rejects.toMatchObject({ code: 'MODEL_UNAVAILABLE' });
    }
    const before = model.recentRequests().length;
    await expect(say(models, 'bob')).rejects.toMatchObject({ code: 'MODEL_UNAVAILABLE', retryAfter: 10 });
    expect(model.recentRequests()).toHaveLength(before);
  });

  it('tries a provider that it left alone again, and goes on with it once it answers', async () => {
    const models = governor({ leaveAloneFor: 300 });
    model.setBehaviour({ failNext: { status: 500, count: 5 } });
    for (let fault = 0; fault < 5; fault += 1) {
      await expect(say(models, 'alice')).rejects.toMatchObject({ code: 'MODEL_UNAVAILABLE' });
    }
    const asked = model.recentRequests().length;
    await expect(say(models, 'alice')).rejects.toMatchObject({ code: 'MODEL_UNAVAILABLE', retryAfter: 1 });
    expect(model.recentRequests()).toHaveLength(asked);
    const answer = await waitFor('the provider to be tried again', () => say(models, 'alice').catch(() => null));
    expect(answer.content).not.toBe('');
    expect((await say(models, 'alice')).content).not.toBe('');
  });

  it('lets nobody wait for the one call that tries whether the provider is back', async () => {
    const models = governor({ leaveAloneFor: 100 });
    model.setBehaviour({ failNext: { status: 500, count: 5 }, delayMs: 300 });
    await Promise.allSettled(Array.from({ length: 5 }, () => say(models, 'alice')));
    await expect(say(models, 'alice')).rejects.toMatchObject({ code: 'MODEL_UNAVAILABLE' });
    const asked = model.recentRequests().length;
    const [first, second] = await waitFor('the next try', async () => {
      const both = await Promise.allSettled([say(models, 'alice'), say(models, 'bob')]);
      return both.some(({ status }) => status === 'fulfilled') && both;
    });
    expect(first?.status).toBe('fulfilled');
    expect(second).toMatchObject({ reason: { code: 'MODEL_UNAVAILABLE', retryAfter: 1 } });
    expect(model.recentRequests()).toHaveLength(asked + 1);
  });

  it('lets the fall-back model answer when the first fails', async () => {
    const models = governor({ fallback: null, url: 'http://127.0.0.1:9/v1' });
    expect((await say(models, 'alice')).content).not.toBe('');
    const asked = model.recentRequests().at(-1)?.body as { model: string };
    expect(asked.model).toBe('fall-back');
    await expect(embed(models, 'alice')).rejects.toMatchObject({ code: 'MODEL_UNAVAILABLE' });
  });

  it('lets the fall-back model answer when the first refuses for longer than a call may wait', async () => {
    const models = governor({ fallback: null });
    model.setBehaviour({ failNext: { status: 429, count: 1, retryAfterSeconds: 30 } });
    expect((await say(models, 'alice')).content).not.toBe('');
    expect(model.recentRequests().at(-1)).toMatchObject({ body: { model: 'fall-back' } });
  });

  it('lets the fall-back model answer when the first has no turn in time', async () => {
    const models = governor({ ...(await takeFirstTurn()), fallback: null, waitTimeout: 200 });
    expect((await say(models, 'alice')).content).not.toBe('');
    expect(model.recentRequests().at(-1)).toMatchObject({ body: { model: 'fall-back' } });
  });

  it('asks once for equal embeddings of one user that are under way at once, and never shares between users', async () => {
    model.setBehaviour({ delayMs: 100 });
    const models = governor();
    const before = model.recentRequests().length;
    const answers = await Promise.all([
      ...Array.from({ length: 5 }, () => embed(models, 'alice')),
      embed(models, 'bob'),
    ]);
    expect(model.recentRequests().length - before).toBe(2);
    expect(new Set(answers.map(({ vectors }) => JSON.stringify(vectors))).size).toBe(1);
    // Each call's tokens count once, for whom it was made.
    expect(answers.map(({ promptTokens }) => promptTokens > 0)).toEqual([true, false, false, false, false, true]);
  });

  it('knows the embedding of a text that the same user has asked for before, and of nobody else', async () => {
    const models = governor();
    const first = await embed(models, 'alice');
    const asked = model.recentRequests().length;
    expect(await embed(models, 'alice')).toEqual({ ...first, promptTokens: 0, isKept: true });
    expect(model.recentRequests()).toHaveLength(asked);
    expect(await embed(models, 'bob')).toEqual(first);
    expect(model.recentRequests()).toHaveLength(asked + 1);
  });

  it('ends shared embeddings only when all who wait for them went away', async () => {
    model.setBehaviour({ delayMs: 200 });
    const models = governor();
    const [first, second] = [new AbortController(), new AbortController()];
    const one = embed(models, 'alice', first.signal);
    const two = embed(models, 'alice', second.signal);
    first.abort(new Error('gone'));
    await expect(one).rejects.toThrow('gone');
    expect((await two).vectors).toHaveLength(1);
    const three = embed(models, 'alice', second.signal, 'black tea');
    second.abort(new Error('gone too'));
    await expect(three).rejects.toThrow('gone too');
  });
});
