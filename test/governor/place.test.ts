import { expect, it, vi } from 'vitest';
import { createBudgetEngine } from '../../src/governor/engine.ts';
import { takePlace } from '../../src/governor/place.ts';
import type { Limits } from '../../src/governor/share.ts';

const limits: Limits = { requests: 1, tokens: 1_000, window: 60_000 };
const candidate = { userId: 'a', background: false, tokens: 10 };

/** An engine of one process, whose clock the test sets. */
function engineAt(clock: { now: number }) {
  const newEpoch = () => 'e';
  return createBudgetEngine({ limits, process: 'p', now: () => clock.now, store: null, newEpoch });
}

/** Asks once a second. @returns the time of the next grant */
async function nextGrant(engine: ReturnType<typeof engineAt>, clock: { now: number }): Promise<number> {
  const end = clock.now + 5 * limits.window;
  while (clock.now < end && (await engine.acquire([candidate])).granted.length === 0) {
    clock.now += 1_000;
  }
  return clock.now;
}

it.each([
  { age: 14_000, leaves: true },
  { age: 16_000, leaves: false },
])('a call whose grant is $age ms old may leave: $leaves', async ({ age, leaves }) => {
  const clock = { now: 600_000 };
  const engine = engineAt(clock);
  const { slot, grace } = await engine.acquire([candidate]);
  const place = takePlace(engine, { ...candidate, slot, grace, askedAt: performance.now() - age }, limits.window);
  expect(place.leave()).toBe(leaves);
  place.arrived();
});

it('a place that was given back is free at once', async () => {
  const clock = { now: 600_000 };
  const engine = engineAt(clock);
  const { slot, grace } = await engine.acquire([candidate]);
  takePlace(engine, { ...candidate, slot, grace, askedAt: performance.now() }, limits.window).giveBack();
  clock.now += 2_000;
  expect((await nextGrant(engine, clock)) - 600_000).toBeLessThan(10_000);
});

it.each([
  { what: 'at once', age: 100, later: 0 },
  { what: 'ten seconds later', age: 10_000, later: 10_000 },
])('a place is counted for a window from the arrival of its call: $what', async ({ age, later }) => {
  const clock = { now: 600_000 };
  const engine = engineAt(clock);
  const { slot, grace } = await engine.acquire([candidate]);
  const place = takePlace(engine, { ...candidate, slot, grace, askedAt: performance.now() - age }, limits.window);
  place.leave();
  clock.now += later;
  place.arrived();
  place.arrived();
  clock.now += 1_000;
  const free = (await nextGrant(engine, clock)) - 600_000 - later;
  expect(free).toBeGreaterThanOrEqual(limits.window);
});

it.each([
  { age: 900, granted: 'begins', into: 0, moves: false },
  { age: 1_100, granted: 'begins', into: 0, moves: true },
  { age: 400, granted: 'ends', into: 499, moves: false },
  { age: 600, granted: 'ends', into: 499, moves: true },
])('a call that arrives $age ms after a grant as a slot $granted moves: $moves', async ({ age, into, moves }) => {
  const engine = engineAt({ now: 600_000 + into });
  const { slot, grace } = await engine.acquire([candidate]);
  const arrive = vi.spyOn(engine, 'arrive');
  const grant = { ...candidate, slot, grace, askedAt: performance.now() - age };
  takePlace(engine, grant, limits.window).arrived();
  expect(arrive).toHaveBeenCalledTimes(moves ? 1 : 0);
});
