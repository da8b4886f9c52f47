import DataLoader from 'dataloader';
import type { Statements } from '../adapters/postgres.ts';
import type { Operation } from '../operation.ts';
import { completeAttempts } from '../queue/claim.ts';
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

/** Most attempts that one statement ends. */
const largestBatch = 200;

/**
 * Ends a worker's jobs in batches: all that were done while the batch before was on its way. The batch of all users waits
 * for no lock. What it leaves is ended by user, each of whom waits for its own locks only.
 * @param ends for the former, which is never long under way
 */
export function createJobCompletion(database: Statements, ends: Statements, workerId: string): CompleteJob {
  const completeAtOnce = createBatches((claims) => completeAttempts(ends, workerId, claims));
  const byUser = new Map<string, { complete: CompleteJob; open: number }>();
  const completeWaiting = async (claim: Claim): Promise<boolean> => {
    const { userId } = claim;
    const batches = byUser.get(userId) ?? {
      complete: createBatches((claims) => completeAttempts(database, workerId, claims, userId)),
      open: 0,
    };
    byUser.set(userId, batches);
    batches.open += 1;
    try {
      return await batches.complete(claim);
    } finally {
      batches.open -= 1;
      if (batches.open === 0) {
        byUser.delete(userId);
      }
    }
  };
  return async (claim) => (await completeAtOnce(claim)) || (await completeWaiting(claim));
}

/** Gathers what is to be ended while the batch before is on its way. @param complete tells which tasks it left */
function createBatches(complete: (claims: readonly Claim[]) => Promise<ReadonlySet<string>>): CompleteJob {
  let previous: Promise<unknown> = Promise.resolve();
  const loader = new DataLoader<Claim, boolean>(
    async (claims) => {
      const work = complete(claims);
      previous = work.catch(() => undefined);
      const left = await work;
      return claims.map(({ taskId }) => !left.has(taskId));
    },
    {
      cache: false,
      maxBatchSize: largestBatch,
      batchScheduleFn: (dispatch) => void previous.then(() => setImmediate(dispatch)),
    },
  );
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
        ? { remaining: operation.read.terms.taskTimeout }
        : await operation.write((write) => openAttempt(write, claim));
    await handler({ resources: { ...resources, log }, operation, claim, signal: signalFor(remaining) });
    if (!(await complete(claim))) {
      await operation.write((write) => endAttempt(write, claim, { state: 'COMPLETED' }));
    }
  });
}
