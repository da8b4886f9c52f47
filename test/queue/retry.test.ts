import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ErrorCode, errorCodes } from '../../src/errors.ts';
import { retryDelay } from '../../src/queue/retry.ts';

const retryable: ErrorCode[] = ['MODEL_UNAVAILABLE', 'MODEL_RATE_LIMITED', 'MODEL_BUSY', 'SERVICE_BUSY'];
const allCodes = Object.keys(errorCodes) as ErrorCode[];
const failure = (code: ErrorCode, retryAfter?: number) => ({ code, message: '', retryAfter });

describe('the delay before the next attempt', () => {
  it.each([
    { failures: 0, random: 0.999999, delay: 1_000 },
    { failures: 1, random: 0.999999, delay: 2_000 },
    { failures: 2, random: 0.999999, delay: 4_000 },
    { failures: 3, random: 0.999999, delay: 8_000 },
    { failures: 3, random: 0.5, delay: 4_000 },
    { failures: 3, random: 0, delay: 0 },
  ])(
    'doubles its ceiling with each failure: $delay ms after $failures with a draw of $random',
    ({ failures, random, delay }) => {
      expect(retryDelay(failure('MODEL_UNAVAILABLE'), failures, () => random)).toBe(delay);
    },
  );

  it.each([
    { retryAfter: 30, failures: 0, delay: 30_000 },
    { retryAfter: 120, failures: 3, delay: 120_000 },
    { retryAfter: 1, failures: 3, delay: 7_200 },
    { retryAfter: 0, failures: 1, delay: 1_800 },
  ])('is at least the $retryAfter s that the other side asked for', ({ retryAfter, failures, delay }) => {
    expect(retryDelay(failure('MODEL_RATE_LIMITED', retryAfter), failures, () => 0.9)).toBe(delay);
  });

  it.each(allCodes.map((code) => [code, retryable.includes(code)]))('exists for %s: %s', (code, exists) => {
    expect(retryDelay(failure(code as ErrorCode), 0) !== null).toBe(exists);
  });

  it('ends with the fifth failure', () => {
    const delays = [0, 1, 2, 3, 4, 5, 100].map((failures) => retryDelay(failure('SERVICE_BUSY'), failures) !== null);
    expect(delays).toEqual([true, true, true, true, false, false, false]);
  });

  it('lies within its bounds, whatever happened', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...retryable),
        fc.nat(20),
        fc.option(fc.nat(3_600), { nil: undefined }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (code, failures, retryAfter, random) => {
          const delay = retryDelay(failure(code, retryAfter), failures, () => random);
          if (failures >= 4) {
            return delay === null;
          }
          const least = (retryAfter ?? 0) * 1_000;
          const most = Math.max(1_000 * 2 ** failures, least);
          return delay !== null && Number.isInteger(delay) && delay >= least && delay <= most;
        },
      ),
    );
  });
});
