import { statement } from '../adapters/postgres.ts';
import type { MemoryJobKind } from '../generated/prisma/enums.ts';
import type { MemoryJobModel } from '../generated/prisma/models.ts';
import type { BatchLoad, ReadOperation, WriteOperation } from '../operation.ts';
import { type Claim, endAttempt, enqueueTask, resumeTask } from '../queue/task.ts';
import { tables } from './table.ts';

/** What a job has done, to be added to its report. */
export type JobCounts = Partial<
  Record<'added' | 'changed' | 'unchanged' | 'removed' | 'indexed' | 'unindexed' | 'embedded' | 'reused', number>
>;

/** Which documents to prune; all that is given is pruned. */
export interface PruneCriteria {
  /** Not changed since then. */
  before?: string;
  /** The oldest ones, until the rest has at most as many bytes. */
  maxBytes?: number;
  /** Only of this source; alone it means the whole source. */
  source?: string;
}

const findQueued = statement<{ id: string }>(`
  SELECT id FROM tasks WHERE user_id = $1 AND lane_id = $2 AND kind = $3 AND state = 'QUEUED' LIMIT 1`);
const insert = statement(`INSERT INTO memory_jobs (user_id, task_id, memory_id, kind) VALUES ($1, $2, $3, $4)`);
const addCounts = statement(`
  UPDATE memory_jobs SET added = added + $3, changed = changed + $4, unchanged = unchanged + $5, removed = removed + $6,
    indexed = indexed + $7, unindexed = unindexed + $8, embedded = embedded + $9, reused = reused + $10
  WHERE user_id = $1 AND task_id = $2`);
const forgetDeadline = statement(`UPDATE tasks SET deadline_at = NULL WHERE user_id = $1 AND id = $2`);
const forgiveFailure = statement(
  `UPDATE tasks SET failures = greatest(failures - 1, 0), deadline_at = NULL WHERE user_id = $1 AND id = $2`,
);
const select = statement<MemoryJobModel & Record<string, unknown>>(
  `SELECT ${tables.memoryJob.columns} FROM memory_jobs WHERE user_id = $1 AND task_id = ANY ($2::uuid[])`,
);

const loadJobs: BatchLoad<string, MemoryJobModel | null> = async (operation, taskIds) => {
  const rows = await operation.query(select, [operation.userId, taskIds]);
  const byTask = new Map(rows.map((row) => [row.taskId, row]));
  return taskIds.map((id) => byTask.get(id) ?? null);
};

/** The job that a task of the caller's does; null for tasks that work on no memory. */
export function memoryJobByTask(operation: ReadOperation, taskId: string): Promise<MemoryJobModel | null> {
  return operation.load(loadJobs, taskId);
}

/**
 * Queues work on a memory whose lane the caller has locked. Work that only says "bring the index in line" joins a task
 * that waits already, so that a thousand small writes in a row wait as one.
 * @returns the task that does it
 */
export async function startMemoryJob(
  operation: WriteOperation,
  job: { agentId: string; laneId: string; kind: MemoryJobKind; criteria?: PruneCriteria },
  counts: JobCounts,
): Promise<string> {
  let [task] = job.kind === 'PRUNE' ? [] : await operation.query(findQueued, [operation.userId, job.laneId, job.kind]);
  if (task === undefined) {
    const { id } = await enqueueTask(operation, {
      kind: job.kind,
      laneId: job.laneId,
      agentId: job.agentId,
      sessionId: null,
      messageId: null,
      sessionOrder: null,
      input: { ...job.criteria },
    });
    task = { id };
    await operation.query(insert, [operation.userId, id, job.agentId, job.kind]);
  }
  await countJob(operation, task.id, counts);
  return task.id;
}

/** Adds to a job's report. */
export async function countJob(operation: WriteOperation, taskId: string, counts: JobCounts): Promise<void> {
  const { added = 0, changed = 0, unchanged = 0, removed = 0 } = counts;
  const { indexed = 0, unindexed = 0, embedded = 0, reused = 0 } = counts;
  const values = [added, changed, unchanged, removed, indexed, unindexed, embedded, reused];
  await operation.query(addCounts, [operation.userId, taskId, ...values]);
}

/**
 * Puts a task that has had its share of a worker's time behind others that wait. It is no failure, and its time limit
 * begins anew: that is for work that hangs, not for work that is long.
 * @throws StaleAttemptError
 */
export async function passTurn(operation: WriteOperation, claim: Claim): Promise<void> {
  await endAttempt(operation, claim, { state: 'WAITING' });
  await resumeTask(operation, claim.taskId);
  await operation.query(forgetDeadline, [operation.userId, claim.taskId]);
}

/**
 * Lets a task wait until the index may be back. However often that happens, it does not count as a failure of the task.
 * @param delay how long, in milliseconds
 * @throws StaleAttemptError
 */
export async function waitForIndex(operation: WriteOperation, claim: Claim, delay: number): Promise<void> {
  await endAttempt(operation, claim, {
    state: 'RETRYING',
    code: 'MEMORY_INDEX_UNAVAILABLE',
    message: 'The index of the memory is away. The work goes on when it is back.',
    dueAt: new Date(operation.clock.now().getTime() + delay),
  });
  await operation.query(forgiveFailure, [operation.userId, claim.taskId]);
}
