import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, inject, it } from 'vitest';
import { listen } from '../../dev/listen.ts';
import { createBudgetStore } from '../../src/adapters/budget-store.ts';
import { createLanguageModel, type LanguageModel } from '../../src/adapters/llm.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createMetrics } from '../../src/adapters/metrics.ts';
import { createSharedStore, type SharedStore } from '../../src/adapters/shared-store.ts';
import type { ModelFor } from '../../src/governor/caller.ts';
import { createBudgetEngine, shareConstants } from '../../src/governor/engine.ts';
import { createGovernor } from '../../src/governor/governor.ts';
import type { Limits } from '../../src/governor/share.ts';
import { waitFor } from '../service.ts';

const log = createLog({ level: 'silent' });
const limits: Limits = { requests: 200, tokens: 1_000_000, window: 4_000 };
let store: SharedStore;
let origin: string;
let arrivals: number[] = [];

// A provider that only notes when calls reach it, begins to answer at once and takes its time to end.
const provider = createServer(async (_request, response) => {
  arrivals.push(performance.now());
  response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
  await sleep(100);
  const choices = [{ index: 0, delta: { content: 'done' }, finish_reason: 'stop' }];
  const usage = { prompt_tokens: 5, completion_tokens: 5, total_tokens: 10 };
  response.end(`data: ${JSON.stringify({ id: 'c', created: 0, model: 'm', choices, usage })}\n\ndata: [DONE]\n\n`);
});

beforeAll(async () => {
  store = createSharedStore({ url: inject('redisUrl') ?? '', log });
  await waitFor('the connection', () => store.ready());
  ({ origin } = await listen(provider));
});
afterAll(() => {
  store.close();
  provider.close();
  provider.closeAllConnections();
});

/** A process's governor; what it lets go leaves only after `delay`, as when the process stands still. */
function governor(budget: string, delay: () => number): ModelFor {
  const direct = createLanguageModel({
    baseUrl: `${origin}/v1`,
    apiKey: 'none',
    defaultModel: 'm',
    defaultEmbeddingModel: 'm',
    connectTimeout: 5_000,
    idleTimeout: 5_000,
  });
  const late: LanguageModel = {
    ...direct,
    chat: async (request, onText) => {
      await sleep(delay());
      return direct.chat(request, onText);
    },
  };
  return createGovernor({
    provider: { name: 'p', model: late, defaultModel: 'm', defaultEmbeddingModel: 'm' },
    fallback: null,
    limitsOf: () => ({ name: '*', limits }),
    engineFor: () =>
      createBudgetEngine({
        limits,
        process: randomUUID(),
        now: Date.now,
        store: createBudgetStore(store, budget, { ...limits, constants: shareConstants }),
        newEpoch: randomUUID,
      }),
    waitTimeout: 10_000,
    maxWaiting: 1_000,
    maxWaitingPerUser: 1_000,
    metrics: createMetrics(),
    log,
  });
}

function fullestWindow(times: readonly number[]): number {
  return Math.max(0, ...times.map((from) => times.filter((at) => at >= from && at < from + limits.window).length));
}

it('never lets a provider see more than its limit in a window, though processes stall between grant and sending', async () => {
  arrivals = [];
  const budget = randomUUID();
  const begun = performance.now();
  // What is let go in the last 0.7 of every 2.3 seconds leaves at their end.
  const stalled = (): number => {
    const place = (performance.now() - begun) % 2_300;
    return place > 1_600 ? 2_300 - place : 0;
  };
  const processes = [governor(budget, stalled), governor(budget, () => 0)];
  const stop = new AbortController();
  const calling = processes.flatMap((models, place) =>
    Array.from({ length: 60 }, async (_, user) => {
      const model = models({ userId: `user ${place} ${user % 6}`, priority: 'INTERACTIVE' });
      while (!stop.signal.aborted) {
        const { signal } = stop;
        const messages = [{ role: 'user' as const, content: 'Hello' }];
        await model.chat({ model: null, temperature: null, messages, signal }, () => undefined).catch(() => undefined);
      }
    }),
  );
  await waitFor('three windows of calls', () => performance.now() - begun > 3 * limits.window, 20_000);
  stop.abort(new Error('enough'));
  await Promise.all(calling);
  expect(fullestWindow(arrivals)).toBeLessThanOrEqual(limits.requests);
  expect(arrivals.length).toBeGreaterThan(limits.requests * 3 * 0.7);
});
