import { statement } from '../adapters/postgres.ts';
import { type WriteOperation, writeTogether } from '../operation.ts';
import { type Claim, heldTask, StaleAttemptError } from '../queue/task.ts';
import type { Arguments } from './arguments.ts';

/** How a call of a tool came out: it ran well, it ran and failed, its user declined it, or it can't be made. */
export type CallOutcome = 'DONE' | 'FAILED' | 'DECLINED' | 'REFUSED';

export interface CallResult {
  outcome: CallOutcome;
  /** What the model is told. */
  content: string;
}

/** What stands in the journal of a task about one call of a tool. */
export interface CallOutput {
  callId: string;
  toolName: string;
  /** What it was called with, as it was approved; null for a call that was never made. */
  arguments: Arguments | null;
  /** The approval that it was made by. */
  approvalId: string | null;
  /** It runs elsewhere, and making it again asks for its result. */
  isAway: boolean;
  /** Null from the mark that is set before the call until its result is stored. */
  result: CallResult | null;
}

export interface CallStep {
  position: number;
  output: CallOutput;
}

/** Something to write into the journal. */
export interface CallEntry extends CallStep {
  startedAt: Date;
}

/** The name of a call within its task: models repeat their own. */
export function callIdAt(position: number): string {
  return `call_${position}`;
}

/** The place among the steps of a task that such a name stands for; 0 for another. */
export function positionOfCall(callId: string): number {
  return Number(/^call_(\d{1,6})$/.exec(callId)?.[1] ?? 0);
}

const save = statement<{ id: string }>(`
  WITH held AS (${heldTask}), saved AS (
    INSERT INTO task_steps (user_id, task_id, position, kind, attempt, output, started_at, finished_at)
    SELECT $1, held.id, entry.position, 'TOOL', $3, entry.output, entry.started_at,
      CASE WHEN entry.ended THEN clock_timestamp() END
    FROM held, unnest($4::integer[], $5::jsonb[], $6::timestamptz[], $7::boolean[])
      AS entry (position, output, started_at, ended)
    ON CONFLICT (user_id, task_id, position) DO UPDATE
      SET attempt = excluded.attempt, output = excluded.output, finished_at = excluded.finished_at
  )
  SELECT id FROM held`);
const tellProgress = statement<{ progress: number; sessionId: string | null }>(`
  UPDATE tasks SET progress = greatest(progress, $3), progress_note = $4 WHERE user_id = $1 AND id = $2
  RETURNING progress, session_id AS "sessionId"`);

/**
 * Writes calls into the journal: marks of those that are about to be made, and results. A mark without a result tells
 * whoever continues the task that the call may have had its effect. It is all that its transaction does.
 * @param told what watchers are told, if anything
 * @throws StaleAttemptError
 */
export async function saveCalls(
  operation: WriteOperation,
  claim: Claim,
  entries: readonly CallEntry[],
  told: { progress: number; note: string } | null = null,
): Promise<void> {
  const values = [
    operation.userId,
    claim.taskId,
    claim.attempt,
    entries.map((entry) => entry.position),
    entries.map((entry) => JSON.stringify(entry.output)),
    entries.map((entry) => entry.startedAt),
    entries.map((entry) => entry.output.result !== null),
  ];
  if (told === null) {
    // Of an attempt that is no longer the newest it writes nothing, so that its commit may travel with it.
    checkHeld(await operation.queryAndCommit(save, values));
    return;
  }
  await writeTogether(
    operation,
    async (write) => checkHeld(await write.query(save, values)),
    (write) => tellCalls(write, claim.taskId, told),
  );
}

function checkHeld([held]: readonly { id: string }[]): void {
  if (held === undefined) {
    throw new StaleAttemptError();
  }
}

async function tellCalls(
  operation: WriteOperation,
  taskId: string,
  { progress: reached, note }: { progress: number; note: string },
): Promise<void> {
  for (const { progress, sessionId } of await operation.query(tellProgress, [
    operation.userId,
    taskId,
    reached,
    note,
  ])) {
    operation.emit({ type: 'task_progress', sessionId, taskId, progress, note });
  }
}
