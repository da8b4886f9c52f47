import { statement } from '../adapters/postgres.ts';
import type { ErrorCode } from '../errors.ts';
import type { WriteOperation } from '../operation.ts';
import { lockLane } from './lane.ts';
import { wakeWorkers } from './wake.ts';

export interface NewAgentTask {
  agentId: string;
  sessionId: string;
  messageId: string;
  /** The message's place in its session: tasks of one session run in this order. */
  sessionOrder: number;
}

/** A task as its worker holds it: only as long as the attempt is the newest may it write. */
export interface Claim {
  userId: string;
  taskId: string;
  attempt: number;
}

/** What a finished change of state tells its caller. */
export interface Transition {
  taskId: string;
  agentId: string | null;
  sessionId: string | null;
  answerId: string;
  /** Tasks of the lane that still run. */
  running: number;
}

/** Thrown when a worker's attempt is no longer the newest: someone cancelled, deleted or rescued the task. */
export class StaleAttemptError extends Error {
  constructor() {
    super('the attempt is no longer the newest of its task');
    this.name = 'StaleAttemptError';
  }
}

const insert = statement<{ id: string }>(`
  INSERT INTO tasks (user_id, kind, lane_id, agent_id, session_id, message_id, session_order)
  VALUES ($1, 'AGENT_RUN', $2, $2, $3, $4, $5) RETURNING id`);
const laneOf = statement<{ laneId: string | null }>(
  `SELECT lane_id AS "laneId" FROM tasks WHERE user_id = $1 AND id = $2 AND attempt = $3 AND state = 'RUNNING'`,
);
const change = statement<Omit<Transition, 'running'>>(`
  UPDATE tasks SET state = $4::task_state, worker_id = NULL, error_code = $5, error_message = $6,
    due_at = coalesce($7::timestamptz, due_at), progress = CASE WHEN $4 = 'COMPLETED' THEN 1 ELSE progress END,
    finished_at = CASE WHEN $4 = 'RETRYING' THEN NULL ELSE now() END
  WHERE user_id = $1 AND id = $2 AND attempt = $3 AND state = 'RUNNING'
  RETURNING id AS "taskId", agent_id AS "agentId", session_id AS "sessionId", answer_id AS "answerId"`);
const runningIn = statement<{ running: number }>(`SELECT running FROM lanes WHERE user_id = $1 AND id = $2`);

/** Adds a task to a lane that the caller has reserved, in the caller's transaction. */
export async function enqueueAgentTask(operation: WriteOperation, task: NewAgentTask): Promise<string> {
  const [row] = await operation.query(insert, [
    operation.userId,
    task.agentId,
    task.sessionId,
    task.messageId,
    task.sessionOrder,
  ]);
  if (row === undefined) {
    throw new Error('the task was not stored');
  }
  operation.afterCommit(wakeWorkers);
  return row.id;
}

export type Outcome =
  | { state: 'COMPLETED' }
  | { state: 'FAILED'; code: ErrorCode; message: string }
  | { state: 'RETRYING'; code: ErrorCode; message: string; dueAt: Date };

/**
 * Ends an attempt: lane, task and counts change in the caller's transaction.
 * @throws StaleAttemptError when the attempt may no longer write; nothing is changed then.
 */
export async function finishAttempt(operation: WriteOperation, claim: Claim, outcome: Outcome): Promise<Transition> {
  const key = [operation.userId, claim.taskId, claim.attempt];
  const [held] = await operation.query(laneOf, key);
  if (held === undefined || held.laneId === null) {
    throw new StaleAttemptError();
  }
  await lockLane(operation, held.laneId);
  const failure = outcome.state === 'COMPLETED' ? null : outcome;
  const dueAt = outcome.state === 'RETRYING' ? outcome.dueAt : null;
  const [task] = await operation.query(change, [
    ...key,
    outcome.state,
    failure?.code ?? null,
    failure?.message ?? null,
    dueAt,
  ]);
  if (task === undefined) {
    throw new StaleAttemptError();
  }
  const [lane] = await operation.query(runningIn, [operation.userId, held.laneId]);
  return { ...task, running: lane?.running ?? 0 };
}
