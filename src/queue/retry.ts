import type { ErrorCode } from '../errors.ts';

/** Faults that may pass by themselves. Everything else fails at once: asking again would cost and change nothing. */
const retryableCodes: ReadonlySet<ErrorCode> = new Set([
  'MODEL_UNAVAILABLE',
  'MODEL_RATE_LIMITED',
  'MODEL_BUSY',
  'SERVICE_BUSY',
]);

const firstDelay = 1_000;
const longestDelay = 60_000;
/** A task fails for good with this many failed attempts. */
const mostFailures = 5;
/** A task whose workers died this often while they ran it is taken for the cause; most tasks on a dying worker are not. */
export const mostCrashes = 10;

export interface Failure {
  code: ErrorCode;
  message: string;
  /** Seconds that the other side asked us to wait. */
  retryAfter?: number | undefined;
}

/**
 * How long to wait before the next attempt, in milliseconds; null when there should be none. Exponential with full
 * jitter, and never shorter than the other side asked for
 * (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
 * @param failures how many attempts have failed before this one
 */
export function retryDelay(failure: Failure, failures: number, random: () => number = Math.random): number | null {
  if (!retryableCodes.has(failure.code) || failures + 1 >= mostFailures) {
    return null;
  }
  const ceiling = Math.min(firstDelay * 2 ** failures, longestDelay);
  return Math.max(Math.ceil(random() * ceiling), (failure.retryAfter ?? 0) * 1_000);
}
