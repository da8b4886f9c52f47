import DataLoader from 'dataloader';
import type { Database } from '../adapters/postgres.ts';
import type { Operation } from '../operation.ts';
import { type Attempt, completeAttempts } from '../queue/claim.ts';
import { type Claim, endAttempt } from '../queue/task.ts';
import { failJob, openAttempt } from '../services/attempt.ts';
import { runAttempt } from './run-attempt.ts';
import type { RunResources } from './run-task.ts';

/** One attempt at a job, as its handler sees it. */
export interface Job {
  resources: RunResources;
  /** Acts as the job's user. */
  operation: Operation;
  claim: Claim;
  /** Fires when the attempt must end: cancelled, taken away, out of time, or the worker stops. */
  signal: AbortSignal;
}

/**
 * Does work that no user watches: a job tells nobody that it starts, goes on or is done, so that many can start and end
 * in one statement. It may be run again after a crash at any point, its end included: it must not matter. Whatever it
 * throws is the attempt's failure, told and retried like that of any task.
 */
export type JobHandler = (job: Job) => Promise<void>;

/** Ends attempts that are done. @returns false for one that must be ended by itself */
export type CompleteJob = (claim: Claim) => Promise<boolean>;

/** Most attempts that one statement ends; none of them waits for a lock. */
const largestBatch = 200;

/** Ends a worker's jobs in batches: all that were done while the batch before was on its way. */
export function createJobCompletion(database: Database, workerId: string): CompleteJob {
  let previous: Promise<unknown> = Promise.resolve();
  const complete = async (attempts: readonly Attempt[]): Promise<boolean[]> => {
    const work = completeAttempts(database, workerId, attempts);
    previous = work.catch(() => undefined);
    const left = await work;
    return attempts.map(({ taskId }) => !left.has(taskId));
  };
  const loader = new DataLoader<Attempt, boolean>(complete, {
    cache: false,
    maxBatchSize: largestBatch,
    batchScheduleFn: (dispatch) => void previous.then(() => setImmediate(dispatch)),
  });
  return (claim) => loader.load(claim);
}

/** Runs one claimed job to its end, as its user. Nothing is thrown. */
export async function runJob(
  resources: RunResources,
  handler: JobHandler,
  complete: CompleteJob,
  claim: Claim,
  abandoned: AbortSignal,
): Promise<void> {
  await runAttempt(resources, claim, abandoned, failJob, async ({ operation, log, signalFor }) => {
    // Only what was tried before may have crashed too often or be out of time.
    const { remaining } =
      claim.attempt === 1
        ? { remaining: resources.taskTimeout }
        : await operation.write((write) => openAttempt(write, claim, resources.taskTimeout));
    await handler({ resources: { ...resources, log }, operation, claim, signal: signalFor(remaining) });
    if (!(await complete(claim))) {
      await operation.write((write) => endAttempt(write, claim, { state: 'COMPLETED' }));
    }
  });
}
