import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { type BudgetStore, createBudgetStore } from '../../src/adapters/budget-store.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createSharedStore, type SharedStore } from '../../src/adapters/shared-store.ts';
import { shareConstants } from '../../src/governor/engine.ts';
import {
  addUse,
  arrive,
  type Candidate,
  createShareState,
  decide,
  type Limits,
  leave,
  pause,
  settle,
  waitingKey,
} from '../../src/governor/share.ts';
import { waitFor } from '../service.ts';

let store: SharedStore;

beforeAll(async () => {
  store = createSharedStore({ url: inject('redisUrl') ?? '', log: createLog({ level: 'silent' }) });
  await waitFor('the connection', () => store.ready());
});
afterAll(() => store.close());

function open(limits: Limits, clock: () => number): BudgetStore {
  return createBudgetStore(store, randomUUID(), { ...limits, constants: shareConstants }, clock);
}

const candidate = fc.record({
  userId: fc.constantFrom('a', 'b', 'c'),
  background: fc.boolean(),
  tokens: fc.integer({ min: 1, max: 3_000 }),
});
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('ask' as const),
      process: fc.constantFrom('p', 'q'),
      candidates: fc.array(candidate, { maxLength: 6 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('settle' as const),
      userId: fc.constantFrom('a', 'b', 'c'),
      tokens: fc.integer({ min: -1_000, max: 1_000 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('arrive' as const),
      ago: fc.integer({ min: -1, max: 140 }),
      tokens: fc.integer({ min: 0, max: 1_000 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('pause' as const), milliseconds: fc.integer({ min: 0, max: 3_000 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('leave' as const), process: fc.constantFrom('p', 'q'), who: candidate }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('restore' as const),
      ago: fc.integer({ min: 0, max: 140 }),
      tokens: fc.integer({ min: 0, max: 500 }),
    }),
  },
);

type Step = typeof step extends fc.Arbitrary<infer Value> ? Value : never;

/** Takes the same steps in Redis and within the process, each so long after the one before, and accepts no difference. */
async function compare(limits: Limits, steps: readonly [later: number, step: Step][]): Promise<void> {
  let now = 1_000_000;
  const shared = open(limits, () => now);
  let epoch = '';
  epoch = (await shared.acquire({ process: 'p', epoch, newEpoch: 'e', candidates: [] })).epoch;
  const own = createShareState(limits, now);
  let slot = 0;
  for (const [later, what] of steps) {
    now += later;
    if (what.do === 'ask') {
      const candidates: Candidate[] = what.candidates;
      const expected = decide(own, limits, now, what.process, candidates);
      const got = await shared.acquire({ process: what.process, epoch, newEpoch: 'x', candidates });
      slot = expected.slot;
      expect({ granted: got.granted, slot: got.slot, wait: got.wait.toFixed(6) }).toEqual({
        granted: expected.granted,
        slot: expected.slot,
        wait: expected.wait.toFixed(6),
      });
    } else if (what.do === 'settle') {
      const correction = { slot, userId: what.userId, requests: 0, tokens: what.tokens };
      settle(own, limits, now, correction);
      await shared.settle(correction);
    } else if (what.do === 'arrive') {
      const place = { slot: slot - what.ago, tokens: what.tokens };
      expect(await shared.arrive(place)).toBe(arrive(own, limits, now, place));
    } else if (what.do === 'pause') {
      pause(own, limits, now + what.milliseconds);
      await shared.pause(what.milliseconds);
    } else if (what.do === 'leave') {
      leave(own, what.process, what.who);
      await shared.leave(waitingKey(what.who, what.process));
    } else {
      addUse(own, slot - what.ago, { requests: 1, tokens: what.tokens });
      await shared.restore([[slot - what.ago, 1, what.tokens]]);
    }
  }
}

/** Steps of a history, each so many milliseconds after the one before. */
function history(later: fc.Arbitrary<number>, arbitrary: fc.Arbitrary<Step> = step): fc.Arbitrary<[number, Step][]> {
  return fc.array(fc.tuple(later, arbitrary), { minLength: 5, maxLength: 40 });
}

describe('the budget that processes share', () => {
  it.each([
    { pace: 'steps follow each other closely', later: fc.nat({ max: 90 }), most: 60 },
    { pace: 'steps fill a window or two', later: fc.nat({ max: 900 }), most: 60 },
    { pace: 'windows go by without any', later: fc.nat({ max: 30_000 }), most: 60 },
    { pace: 'there is much more than is asked for', later: fc.nat({ max: 900 }), most: 10_000 },
  ])('decides as the one within a process does, whatever happens: $pace', async ({ later, most }) => {
    const limits = fc.record({
      requests: fc.integer({ min: 2, max: most }),
      tokens: fc.integer({ min: 500, max: 333 * most }),
      window: fc.constant(12_000),
    });
    await fc.assert(fc.asyncProperty(limits, history(later), compare), { numRuns: 60 });
  });

  it('forgets nothing and frees nothing when the clock goes back by less than a window', async () => {
    const limits = fc.record({
      requests: fc.integer({ min: 2, max: 60 }),
      tokens: fc.integer({ min: 500, max: 20_000 }),
      window: fc.constant(12_000),
    });
    const later = fc.integer({ min: -250, max: 900 });
    const stepOfDecisions = step.filter((what) => what.do !== 'arrive' && what.do !== 'restore');
    await fc.assert(fc.asyncProperty(limits, history(later, stepOfDecisions), compare), { numRuns: 60 });
  });

  it('counts all that was used from now on when the clock goes back by more than a window', async () => {
    const limits: Limits = { requests: 4, tokens: 1_000, window: 12_000 };
    let now = 1_000_000;
    const shared = open(limits, () => now);
    const ask = async () => {
      const candidates = [{ userId: 'a', background: false, tokens: 10 }];
      return (await shared.acquire({ process: 'p', epoch: 'e', newEpoch: 'e', candidates })).granted.length;
    };
    expect(await ask()).toBe(1);
    now += 6_000;
    expect(await ask()).toBe(1);
    now -= 60_000;
    const back = now;
    let granted = 0;
    for (; now < back + limits.window; now += 50) {
      granted += await ask();
    }
    expect(granted).toBe(2);
    for (; now < back + 2 * limits.window; now += 50) {
      granted += await ask();
    }
    expect(granted).toBeGreaterThan(4);
  });

  it('grants nothing to a process that knows another state, so that it first tells what it let go', async () => {
    const shared = open({ requests: 10, tokens: 1_000, window: 60_000 }, Date.now);
    const ask = (epoch: string) =>
      shared.acquire({
        process: 'p',
        epoch,
        newEpoch: 'new',
        candidates: [{ userId: 'a', background: false, tokens: 1 }],
      });
    expect(await ask('old')).toMatchObject({ epoch: 'new', granted: [] });
    expect(await ask('new')).toMatchObject({ epoch: 'new', granted: [0], processes: 1 });
  });

  it('leaves no key for good', async () => {
    const name = randomUUID();
    const terms = { requests: 10, tokens: 1_000, window: 60_000, constants: shareConstants };
    const shared = createBudgetStore(store, name, terms);
    const candidates = [{ userId: 'a', background: false, tokens: 900 }];
    for (const epoch of ['', 'e', 'e']) {
      await shared.acquire({ process: 'p', epoch, newEpoch: 'e', candidates });
    }
    const keys = await store.redis.keys(`retinue:{budget:${name}}:*`);
    expect(keys.length).toBeGreaterThanOrEqual(3);
    for (const key of keys) {
      expect(await store.redis.pttl(key)).toBeGreaterThan(0);
    }
  });
});
