import type { Log } from '../adapters/log.ts';
import type { Metrics } from '../adapters/metrics.ts';
import { isPassingFault } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import { createOperation, type Operation, type OperationResources, type WriteOperation } from '../operation.ts';
import type { Failure } from '../queue/retry.ts';
import { type Claim, StaleAttemptError } from '../queue/task.ts';

/** The reason of a signal that ends a run without a trace in its task: another attempt continues. */
export class RunAbandonedError extends Error {
  constructor(why: 'worker is stopping' | 'attempt was taken away') {
    super(`the ${why}`);
    this.name = 'RunAbandonedError';
  }
}

/** An attempt under way. */
export interface AttemptRun {
  /** Acts as the task's user. */
  readonly operation: Operation;
  /** Names the attempt in each line; the work may make it tell more. */
  log: Log;
  /** A signal that fires when that many milliseconds are over, or when the attempt is abandoned. Ask for it once. */
  signalFor(remaining: number): AbortSignal;
}

/** Stores that an attempt failed. */
export type FailAttempt = (operation: WriteOperation, claim: Claim, failure: Failure) => Promise<unknown>;

/** Does the work of one attempt; what it throws becomes the attempt's failure. Nothing is thrown. */
export async function runAttempt(
  resources: OperationResources & { log: Log; metrics: Metrics },
  claim: Claim,
  abandoned: AbortSignal,
  fail: FailAttempt,
  work: (run: AttemptRun) => Promise<void>,
): Promise<void> {
  const { taskId, attempt, kind } = claim;
  const operation = createOperation(resources, claim.userId);
  const deadline = new AbortController();
  const started = performance.now();
  let outcome: 'ended' | 'failed' | 'abandoned' = 'ended';
  let timer: NodeJS.Timeout | undefined;
  const run: AttemptRun = {
    operation,
    log: resources.log.child({ taskId, attempt }),
    signalFor: (remaining) => {
      timer = setTimeout(
        () => deadline.abort(new DomainError('TASK_TIMED_OUT', 'The task took too long.')),
        Math.min(remaining, 2 ** 31 - 1),
      );
      return AbortSignal.any([abandoned, deadline.signal]);
    },
  };
  try {
    await work(run);
  } catch (error) {
    const store = (failure: Failure) => operation.write((write) => fail(write, claim, failure));
    outcome = await endFailedRun(run.log, error, abandoned, deadline.signal, store);
  } finally {
    clearTimeout(timer);
    resources.metrics.attempts.observe({ kind, outcome }, (performance.now() - started) / 1_000);
    await operation.close();
  }
}

async function endFailedRun(
  log: Log,
  error: unknown,
  abandoned: AbortSignal,
  deadline: AbortSignal,
  store: (failure: Failure) => Promise<unknown>,
): Promise<'failed' | 'abandoned'> {
  if (abandoned.aborted || error instanceof StaleAttemptError) {
    log.info('attempt ended without effect: another one has the task, or it was cancelled');
    return 'abandoned';
  }
  const cause: unknown = deadline.aborted ? deadline.reason : error;
  const failure = toFailure(cause);
  if (failure.code === 'INTERNAL') {
    log.error({ err: cause }, 'task attempt failed unexpectedly');
  } else {
    log.warn({ code: failure.code }, 'task attempt failed');
  }
  try {
    await store(failure);
  } catch (second) {
    // The task still stands as this worker's. Its next signs of life find it forgotten and give it another attempt.
    if (!(second instanceof StaleAttemptError)) {
      log.error({ err: second }, 'task failure could not be stored');
    }
  }
  return 'failed';
}

function toFailure(cause: unknown): Failure {
  if (cause instanceof DomainError) {
    return { code: cause.code, message: cause.message, retryAfter: cause.retryAfter };
  }
  return isPassingFault(cause)
    ? { code: 'SERVICE_BUSY', message: 'The database was not there for a moment.' }
    : { code: 'INTERNAL', message: 'The task failed on an unexpected fault.' };
}
