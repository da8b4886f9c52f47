import type { ErrorCode } from '../errors.ts';

/** Faults that may pass by themselves. Everything else fails at once: asking again would cost and change nothing. */
const retryableCodes: ReadonlySet<ErrorCode> = new Set(['MODEL_UNAVAILABLE', 'MODEL_RATE_LIMITED', 'SERVICE_BUSY']);

const firstDelay = 1_000;
const longestDelay = 60_000;

export interface Failure {
  code: ErrorCode;
  /** Seconds that the other side asked us to wait. */
  retryAfter?: number | undefined;
}

/**
 * How long to wait before the next attempt, in milliseconds; null when there should be none. Exponential with full
 * jitter, and never shorter than the other side asked for
 * (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
 */
export function retryDelay(
  failure: Failure,
  attempt: number,
  maxAttempts: number,
  random: () => number = Math.random,
): number | null {
  if (!retryableCodes.has(failure.code) || attempt >= maxAttempts) {
    return null;
  }
  const ceiling = Math.min(firstDelay * 2 ** (attempt - 1), longestDelay);
  return Math.max(Math.ceil(random() * ceiling), (failure.retryAfter ?? 0) * 1_000);
}
