import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  arrive,
  type Candidate,
  createShareState,
  decide,
  type Limits,
  leave,
  pause,
  type ShareState,
  settle,
  unseenPart,
} from '../../src/governor/share.ts';

const limits: Limits = { requests: 600, tokens: 60_000, window: 60_000 };
const call = (userId: string, tokens = 100, background = false): Candidate => ({ userId, tokens, background });

/** Lets users with endless work go for a while. @returns tokens served, by user, and each grant with its time */
function run(
  state: ShareState,
  options: {
    from: number;
    milliseconds: number;
    calls: (userId: string) => Candidate[];
    onGrant?: (userId: string) => void;
    users: string[];
    limits?: Limits;
  },
): { served: Map<string, number>; grants: { at: number; tokens: number; userId: string; background: boolean }[] } {
  const served = new Map<string, number>(options.users.map((user) => [user, 0]));
  const grants: { at: number; tokens: number; userId: string; background: boolean }[] = [];
  for (let now = options.from; now < options.from + options.milliseconds; ) {
    const candidates = options.users.flatMap(options.calls);
    const { granted, wait } = decide(state, options.limits ?? limits, now, 'p', candidates);
    for (const place of granted) {
      const { userId, tokens, background } = candidates[place] as Candidate;
      served.set(userId, (served.get(userId) ?? 0) + tokens);
      grants.push({ at: now, tokens, userId, background });
      options.onGrant?.(userId);
    }
    now += Math.max(1, wait);
  }
  return { served, grants };
}

function jain(values: number[]): number {
  const sum = values.reduce((all, value) => all + value, 0);
  return sum ** 2 / (values.length * values.reduce((all, value) => all + value ** 2, 0));
}

/** The most that any stretch of one window holds. */
function fullestWindow(grants: { at: number; tokens: number }[], window: number): { requests: number; tokens: number } {
  const most = { requests: 0, tokens: 0 };
  let first = 0;
  let tokens = 0;
  for (const [place, grant] of grants.entries()) {
    tokens += grant.tokens;
    while ((grants[first]?.at ?? 0) <= grant.at - window) {
      tokens -= grants[first]?.tokens ?? 0;
      first += 1;
    }
    most.tokens = Math.max(most.tokens, tokens);
    most.requests = Math.max(most.requests, place - first + 1);
  }
  return most;
}

describe('the budget', () => {
  it('lets an idle model answer a burst at once', () => {
    const state = createShareState(limits, 0);
    decide(state, limits, 60_000, 'p', []);
    const burst = Array.from({ length: 100 }, () => call('alice'));
    expect(decide(state, limits, 120_000, 'p', burst).granted).toHaveLength(100);
  });

  it('is not exceeded in any window, and nearly used up, whatever the load', () => {
    fc.assert(
      fc.property(
        fc.record({
          requests: fc.integer({ min: 5, max: 300 }),
          tokensPerRequest: fc.integer({ min: 10, max: 500 }),
          sizes: fc.array(fc.integer({ min: 1, max: 800 }), { minLength: 1, maxLength: 5 }),
          idle: fc.integer({ min: 0, max: 90_000 }),
        }),
        ({ requests, tokensPerRequest, sizes, idle }) => {
          const own: Limits = { requests, tokens: requests * tokensPerRequest, window: 60_000 };
          const usable = sizes.map((size) => Math.min(size, own.tokens));
          const state = createShareState(own, 0);
          // What waits stays as it is until its turn: each user's calls have the sizes in turn.
          const given = new Map<string, number>();
          const calls = (user: string): Candidate[] => [call(user, usable[(given.get(user) ?? 0) % usable.length])];
          const onGrant = (user: string): void => void given.set(user, (given.get(user) ?? 0) + 1);
          const { grants } = run(state, {
            from: idle,
            milliseconds: 240_000,
            calls,
            onGrant,
            users: ['a', 'b'],
            limits: own,
          });
          const most = fullestWindow(grants, own.window);
          expect(most.requests).toBeLessThanOrEqual(own.requests);
          expect(most.tokens).toBeLessThanOrEqual(own.tokens);
          // From the second minute on; a call that is a large part of the budget leaves a remainder.
          const settled = grants.filter(({ at }) => at >= idle + 60_000);
          const share = Math.max(
            settled.length / (own.requests * 3),
            settled.reduce((sum, { tokens }) => sum + tokens, 0) / (own.tokens * 3),
          );
          const largest = Math.max(...usable) / own.tokens + 1 / own.requests;
          expect(share).toBeGreaterThan(0.95 - 2 * largest);
        },
      ),
      {
        numRuns: 40,
        // Both run out at about the same time.
        examples: [[{ requests: 185, tokensPerRequest: 350, sizes: [101, 168, 663, 599, 167], idle: 36_500 }]],
      },
    );
  });

  it('is not exceeded where the provider counts, whenever calls leave, arrive and are answered', () => {
    const most = limits.window * unseenPart;
    const late = fc.array(fc.integer({ min: 0, max: most }), { minLength: 1, maxLength: 7 });
    const stall = fc.record({ from: fc.integer({ min: 0, max: 300_000 }), lasts: fc.integer({ min: 0, max: most }) });
    const stalls = fc.array(stall, { minLength: 2, maxLength: 8 });
    fc.assert(
      fc.property(fc.record({ stalls, ways: late, answers: late }), ({ stalls, ways, answers }) => {
        const state = createShareState(limits, 0);
        const delay = (of: number[], place: number): number => of[place % of.length] ?? 0;
        const arrivals: { at: number; tokens: number }[] = [];
        let open: { slot: number; tokens: number; stays: number; seenAt: number }[] = [];
        for (let now = 0; now < 300_000; now += 50) {
          for (const call of open.filter(({ seenAt }) => seenAt <= now)) {
            if (call.seenAt > call.stays) {
              arrive(state, limits, now, call);
            }
          }
          open = open.filter(({ seenAt }) => seenAt > now);
          const four = [call('a'), call('a'), call('b'), call('b')];
          const { granted, slot, grace } = decide(state, limits, now, 'p', four);
          for (const place of granted) {
            const count = arrivals.length + place;
            const stall = stalls.find(({ from, lasts }) => from <= now && now < from + lasts);
            const left = stall === undefined ? now : stall.from + stall.lasts;
            const at = left + (count % 2 === 0 ? 0 : delay(ways, count));
            arrivals.push({ at, tokens: 100 });
            const seenAt = Math.max(at, Math.min(at + delay(answers, count), left + most));
            open.push({ slot, tokens: 100, stays: now + grace, seenAt });
          }
        }
        const inOrder = arrivals.toSorted((one, other) => one.at - other.at);
        const fullest = fullestWindow(inOrder, limits.window);
        expect(fullest.requests).toBeLessThanOrEqual(limits.requests);
        expect(fullest.tokens).toBeLessThanOrEqual(limits.tokens);
      }),
      { numRuns: 30 },
    );
  });

  it('counts a call that was long on its way for a window from its arrival, and once', () => {
    const state = createShareState(limits, 0);
    const { slot } = decide(state, limits, 60_000, 'p', [call('a')]);
    const moved = arrive(state, limits, 75_000, { slot, tokens: 100 });
    settle(state, limits, 80_000, { slot: moved, userId: 'a', requests: 0, tokens: -60 });
    const countedAt = (now: number) => {
      decide(state, limits, now, 'p', []);
      return [...state.slots.values()].filter(({ requests }) => requests > 0);
    };
    expect(countedAt(135_000)).toEqual([{ requests: 1, tokens: 40 }]);
    expect(countedAt(136_500)).toEqual([]);
  });

  it('does not meet a full window after a burst, but spreads what is left', () => {
    const state = createShareState(limits, 0);
    decide(state, limits, 120_000, 'p', []);
    const { grants } = run(state, {
      from: 240_000,
      milliseconds: 180_000,
      calls: (user) => [call(user)],
      users: ['a'],
    });
    const gaps = grants.slice(1).map(({ at }, place) => at - (grants[place]?.at ?? 0));
    expect(Math.max(...gaps)).toBeLessThan(1_000);
  });

  it('gives back what a call did not use, and takes what it used more', () => {
    const state = createShareState({ ...limits, tokens: 2_000 }, 0);
    const own = { ...limits, tokens: 2_000 };
    decide(state, own, 60_000, 'p', []);
    const first = decide(state, own, 120_000, 'p', [call('a', 1_000)]);
    expect(first.granted).toEqual([0]);
    expect(decide(state, own, 120_001, 'p', [call('a', 900)]).granted).toEqual([]);
    settle(state, own, 120_002, { slot: first.slot, userId: 'a', requests: 0, tokens: -950 });
    expect(decide(state, own, 120_003, 'p', [call('a', 900)]).granted).toEqual([0]);
    settle(state, own, 120_004, { slot: first.slot, userId: 'a', requests: 0, tokens: 1_200 });
    expect(decide(state, own, 125_000, 'p', [call('a', 1)]).granted).toEqual([]);
  });

  it('lets nobody go during a pause, and no burst after it', () => {
    const state = createShareState(limits, 0);
    decide(state, limits, 60_000, 'p', []);
    pause(state, limits, 130_000);
    expect(decide(state, limits, 120_000, 'p', [call('a')])).toMatchObject({ granted: [], wait: 100 });
    const burst = Array.from({ length: 200 }, () => call('a'));
    const after = decide(state, limits, 130_001, 'p', burst).granted.length;
    expect(after).toBeGreaterThan(0);
    expect(after).toBeLessThanOrEqual(31);
  });

  it('lets a call through that is greater than the whole budget, when nothing else is under way', () => {
    const state = createShareState(limits, 0);
    decide(state, limits, 60_000, 'p', []);
    expect(decide(state, limits, 200_000, 'p', [call('a', 1_000_000)]).granted).toEqual([0]);
  });
});

describe('the turns', () => {
  it('give users who always wait equal shares, whatever the size of their calls and however many they have', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ size: fc.integer({ min: 20, max: 400 }), line: fc.integer({ min: 1, max: 8 }) }), {
          minLength: 2,
          maxLength: 12,
        }),
        (kinds) => {
          const state = createShareState(limits, 0);
          const users = kinds.map((_, place) => `u${place}`);
          const calls = (user: string): Candidate[] => {
            const { size, line } = kinds[Number(user.slice(1))] ?? { size: 1, line: 1 };
            return Array.from({ length: line }, () => call(user, size));
          };
          // What was saved up goes to whoever asks: nobody waits yet.
          run(state, { from: 0, milliseconds: 30_000, calls, users });
          const { served } = run(state, { from: 30_000, milliseconds: 180_000, calls, users });
          // A short call is charged its share of the requests: what is equal is the charge.
          const charges = kinds.map(({ size }, place) => ((served.get(`u${place}`) ?? 0) / size) * Math.max(size, 100));
          expect(Math.max(...charges) - Math.min(...charges)).toBeLessThanOrEqual(2 * 400);
        },
      ),
      { numRuns: 30 },
    );
  });

  it('serve a user who comes anew at once, before one who filled the line, with neither debt nor savings', () => {
    const state = createShareState(limits, 0);
    const flood = Array.from({ length: 50 }, () => call('flooder'));
    run(state, { from: 0, milliseconds: 120_000, calls: () => flood, users: ['flooder'] });
    const { grants } = run(state, {
      from: 120_000,
      milliseconds: 4_000,
      calls: (user) => (user === 'light' ? [call('light')] : flood),
      users: ['flooder', 'light'],
    });
    expect(grants[0]?.userId).toBe('light');
    expect(
      jain(['light', 'flooder'].map((user) => grants.filter(({ userId }) => userId === user).length)),
    ).toBeGreaterThan(0.98);
  });

  it('put interactive work before background work, which still gets its tenth', () => {
    const state = createShareState(limits, 0);
    const { grants } = run(state, {
      from: 0,
      milliseconds: 120_000,
      calls: (user) => [call(user, 100, user === 'ingest')],
      users: ['chat', 'ingest'],
    });
    const share = grants.filter(({ background }) => background).length / grants.length;
    expect(share).toBeGreaterThan(0.08);
    expect(share).toBeLessThan(0.13);
  });

  it('wait for a user of another process who is behind, but not for long when that process is gone', () => {
    const state = createShareState(limits, 0);
    run(state, { from: 0, milliseconds: 60_000, calls: (user) => [call(user)], users: ['a'] });
    // `b` waits in another process, and there is no room yet.
    while (decide(state, limits, 60_000, 'other', [call('b')]).granted.length > 0) {
      // Drains what had been saved up.
    }
    let now = 60_000;
    let last: number[] = [];
    while (last.length === 0 && now < 62_000) {
      now += 15;
      last = decide(
        state,
        limits,
        now,
        'p',
        Array.from({ length: 10 }, () => call('a')),
      ).granted;
    }
    expect(now).toBeLessThan(61_000);
  });

  it('do not wait for a user who left', () => {
    const state = createShareState(limits, 0);
    run(state, { from: 0, milliseconds: 120_000, calls: (user) => [call(user)], users: ['a'] });
    decide(state, limits, 120_000, 'other', [call('b'), call('b'), call('b')]);
    leave(state, 'other', { userId: 'b', background: false });
    expect([...state.waiting.keys()]).toEqual(expect.not.arrayContaining(['I|b|other']));
  });

  it('keep nothing of users who went away', () => {
    const state = createShareState(limits, 0);
    for (let user = 0; user < 2_000; user += 1) {
      decide(state, limits, user * 200, 'p', [call(`u${user}`)]);
    }
    decide(state, limits, 500_000, 'p', [call('last')]);
    decide(state, limits, 600_000, 'p', [call('last')]);
    expect(state.tags.size).toBeLessThan(10);
    expect(state.waiting.size).toBe(0);
  });
});
