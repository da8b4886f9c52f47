import { describe, expect, it } from 'vitest';
import { measureInQuiet } from '../../bench/quiet.ts';

/** A machine whose host takes so many of the thousand ticks that each measurement lasts. */
function machineWith(taken: readonly number[]) {
  let readings = 0;
  return async () => {
    const measured = Math.ceil(readings / 2);
    readings += 1;
    return { all: measured * 1_000, taken: taken.slice(0, measured).reduce((sum, ticks) => sum + ticks, 0) };
  };
}

describe('a measurement on a machine with neighbours', () => {
  it.each([
    { when: 'is kept when the host took nothing', taken: [0, 0], kept: 1, setAside: [] },
    { when: 'is kept when the host took a hundredth', taken: [10, 0], kept: 1, setAside: [] },
    { when: 'is made again until the host took no more', taken: [200, 11, 3, 0], kept: 3, setAside: [2, 1] },
  ])('$when', async ({ taken, kept, setAside }) => {
    let made = 0;
    const measured = await measureInQuiet(async () => (made += 1), { readTime: machineWith(taken) });
    expect(measured).toEqual({ result: kept, taken: (taken[kept - 1] ?? 0) / 1_000, setAside });
  });

  it('is the one with the least taken when patience ends before there is quiet', async () => {
    let made = 0;
    const readTime = machineWith([50, 20, 30, 0]);
    const measured = await measureInQuiet(async () => (made += 1), { readTime, now: () => made * 20_000 });
    expect(measured).toEqual({ result: 2, taken: 0.02, setAside: [3, 1] });
  });

  it('reads what this machine says', async () => {
    const { result, taken } = await measureInQuiet(async () => 'done');
    expect(result).toBe('done');
    expect(taken).toBeGreaterThanOrEqual(0);
    expect(taken).toBeLessThanOrEqual(1);
  });
});
