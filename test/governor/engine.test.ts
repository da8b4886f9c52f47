import { randomUUID } from 'node:crypto';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, inject, it } from 'vitest';
import { type RedisServer, startRedis } from '../../dev/redis.ts';
import { createBudgetStore } from '../../src/adapters/budget-store.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createSharedStore, type SharedStore } from '../../src/adapters/shared-store.ts';
import { type BudgetEngine, createBudgetEngine, shareConstants } from '../../src/governor/engine.ts';
import type { Limits } from '../../src/governor/share.ts';
import { waitFor } from '../service.ts';

const log = createLog({ level: 'silent' });
const limits: Limits = { requests: 200, tokens: 20_000, window: 4_000 };
let open: AsyncDisposableStack = new AsyncDisposableStack();
afterEach(async () => {
  await open.disposeAsync();
  open = new AsyncDisposableStack();
});

async function connect(url: string): Promise<SharedStore> {
  const store = createSharedStore({ url, log });
  open.defer(() => store.close());
  await waitFor('the connection', () => store.ready());
  return store;
}

/** A process's engine over a budget that others of that name share, with a connection of its own. */
async function process(url: string, budget: string, onStoreLost: () => void = () => undefined): Promise<BudgetEngine> {
  const store = await connect(url);
  return createBudgetEngine({
    limits,
    process: randomUUID(),
    now: Date.now,
    store: createBudgetStore(store, budget, { ...limits, constants: shareConstants }),
    newEpoch: randomUUID,
    onStoreLost,
  });
}

/** Takes all that an engine gives, until told to stop. @returns the times of the grants */
async function drain(engine: BudgetEngine, userId: string, signal: AbortSignal): Promise<number[]> {
  const times: number[] = [];
  while (!signal.aborted) {
    const { granted, wait } = await engine.acquire([{ userId, background: false, tokens: 100 }]);
    times.push(...granted.map(() => performance.now()));
    await sleep(Math.max(1, wait));
  }
  return times;
}

function most(times: number[], window: number): number {
  const sorted = times.toSorted((a, b) => a - b);
  return Math.max(0, ...sorted.map((from) => sorted.filter((time) => time >= from && time < from + window).length));
}

async function startOwnRedis(port: number | null = null): Promise<RedisServer> {
  const folder = await mkdtemp(join(tmpdir(), 'redis-'));
  return startRedis({
    folder,
    logFile: join(folder, 'log'),
    preferredPort: port,
    onSpawn: () => undefined,
    log: () => undefined,
  });
}

describe('two processes', () => {
  it('keep one budget together, and get equal parts of it', async () => {
    const budget = randomUUID();
    const url = inject('redisUrl') ?? '';
    const engines = [await process(url, budget), await process(url, budget)];
    const stop = new AbortController();
    const draining = engines.map((engine, place) => drain(engine, `user ${place}`, stop.signal));
    await sleep(9_000);
    stop.abort();
    const [one = [], other = []] = await Promise.all(draining);
    expect(most([...one, ...other], limits.window)).toBeLessThanOrEqual(limits.requests);
    expect(one.length + other.length).toBeGreaterThan(limits.requests * 2 * 0.8);
    expect(Math.abs(one.length - other.length) / (one.length + other.length)).toBeLessThan(0.2);
  });

  it('go on with half of the budget each while Redis is away, and together again when it is back without its data', async () => {
    const redis = await startOwnRedis();
    open.defer(() => redis.process.stop());
    const budget = randomUUID();
    let lost = 0;
    const onLost = (): void => {
      lost += 1;
    };
    const engines = [await process(redis.url, budget, onLost), await process(redis.url, budget, onLost)];
    const stop = new AbortController();
    const draining = engines.map((engine, place) => drain(engine, `user ${place}`, stop.signal));
    await sleep(3_000);
    await redis.process.stop();
    const killed = performance.now();
    await waitFor('both to notice', () => lost === 2);
    await sleep(3_000);
    const back = await startOwnRedis(redis.port);
    open.defer(() => back.process.stop());
    const restarted = performance.now();
    await sleep(5_000);
    stop.abort();
    const times = (await Promise.all(draining)).flat();
    const between = (from: number, to: number): number => times.filter((time) => time >= from && time < to).length;
    expect(most(times, limits.window)).toBeLessThanOrEqual(limits.requests);
    expect(between(killed + 500, restarted)).toBeGreaterThan(30);
    expect(between(restarted + 2_500, restarted + 5_000)).toBeGreaterThan(60);
  });
});

it('pauses all processes when one of them is told to', async () => {
  const budget = randomUUID();
  const url = inject('redisUrl') ?? '';
  const [one, other] = [await process(url, budget), await process(url, budget)];
  const ask = (engine: BudgetEngine) => engine.acquire([{ userId: 'a', background: false, tokens: 1 }]);
  expect((await ask(one)).granted).toEqual([0]);
  expect((await ask(other)).granted).toEqual([0]);
  one.pause(700);
  const paused = performance.now();
  await waitFor('the pause', async () => (await ask(other)).granted.length === 0);
  await waitFor('its end', async () => (await ask(other)).granted.length > 0);
  expect(performance.now() - paused).toBeGreaterThan(600);
});

it('tells Redis, when it is back, of calls that arrived while it was away', async () => {
  const granted = 1_000_000_000;
  let now = granted;
  let isAway = false;
  const one: Limits = { ...limits, requests: 1 };
  const store = await connect(inject('redisUrl') ?? '');
  const shared = createBudgetStore(store, randomUUID(), { ...one, constants: shareConstants }, () => now);
  const engine = createBudgetEngine({
    limits: one,
    process: randomUUID(),
    now: () => now,
    store: { ...shared, ready: () => !isAway && shared.ready() },
    newEpoch: randomUUID,
  });
  const ask = () => engine.acquire([{ userId: 'a', background: false, tokens: 10 }]);
  const { slot } = await ask();
  isAway = true;
  now += 1_000;
  expect(await engine.arrive({ slot, tokens: 10 })).toBeGreaterThan(slot);
  isAway = false;
  const arrived = now;
  while (now < granted + 4 * one.window && (await ask()).granted.length === 0) {
    now += 50;
  }
  expect(now - arrived).toBeGreaterThanOrEqual(one.window);
  expect(now - arrived).toBeLessThan(3 * one.window);
});
