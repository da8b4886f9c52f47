import { v7 as uuidv7 } from 'uuid';
import { statement } from '../adapters/postgres.ts';
import { columnsOf } from '../adapters/prisma.ts';
import type { Channel } from '../adapters/redis.ts';
import { DomainError, type ErrorCode } from '../errors.ts';
import { Prisma } from '../generated/prisma/client.ts';
import type { TaskModel } from '../generated/prisma/models.ts';
import type { Operation, WriteOperation } from '../operation.ts';
import { occupiesAgent } from './kind.ts';
import { abortRuns, givenTopic, wakeWorkers } from './signal.ts';
import {
  type Beginning,
  type BegunTask,
  letBegin,
  type Successor,
  successorValues,
  type TaskFacts,
  taskFacts,
  tellStart,
} from './successor.ts';

/** A task as its worker holds it: only as long as the attempt is the newest may it write. */
export interface Claim {
  userId: string;
  taskId: string;
  attempt: number;
  kind: string;
  /** Told of the commit that ends the attempt: how many tasks its user has queued then, null when that is not known. */
  onEnd?: (queued: number | null) => void;
  /** What its worker knows of the task, so that what follows from its end need not wait for the answer that it has ended. */
  task?: TaskFacts;
  /** Who goes on with what the end of the attempt frees; the queue, when left out. */
  successor?: Successor;
  /** Where the attempt began in the commit that added the task: what that commit came from, and what it said of the task. */
  begun?: Beginning;
}

export interface NewTask {
  /** Made by whoever adds it, when others are to name it before it is stored. */
  id?: string;
  kind: string;
  /** The lane whose limits hold for it; the caller has reserved it, for these parents. */
  laneId: string;
  agentId: string | null;
  sessionId: string | null;
  messageId: string | null;
  /** The plan that it is part of. */
  planId?: string | null;
  /**
   * Its turn in the session, which the caller has locked; tasks with a turn run one after the other. Null lets it run
   * beside others.
   */
  sessionOrder: number | null;
  /** What its handler needs to know beside that. */
  input?: Record<string, unknown>;
  /** Tasks that must have ended first. */
  parentIds?: readonly string[];
  /** Whether it needs their success, as it does by default, or only their end. */
  needsSuccess?: boolean;
}

export type Outcome =
  | { state: 'COMPLETED' }
  | { state: 'WAITING' }
  | { state: 'FAILED'; code: ErrorCode; message: string }
  | { state: 'RETRYING'; code: ErrorCode; message: string; dueAt: Date };

/** What the end of an attempt tells its caller. */
export interface EndedAttempt {
  agentId: string | null;
  sessionId: string | null;
  planId: string | null;
  answerId: string;
  /** Tasks of the user that are queued now, those released by this end included; null when the task stands in no lane. */
  queued: number | null;
  /** Tasks that waited for this one last and are queued now. */
  released: string[];
  /** Tasks that will never run because this one failed. */
  skipped: string[];
  /** Those of the released ones that its worker goes on with. Their starts are for the caller to tell. */
  begun: BegunTask[];
}

export interface CancelledTask {
  taskId: string;
  agentId: string | null;
  sessionId: string | null;
  planId: string | null;
  became: 'CANCELLED' | 'SKIPPED';
}

/** A job that was just added, and the worker that it was given to; null leaves it to whoever claims it. */
type AddedJob = { id: string; attempt: number; workerId: string | null };

const columns = columnsOf(Prisma.TaskScalarFieldEnum);

/** The refusal of a lane in which as many tasks wait as may. */
export function queueFull(limit: number, field: string): DomainError {
  return new DomainError('AGENT_QUEUE_FULL', `The agent already has ${limit} waiting tasks.`, { field, retryAfter: 5 });
}

/** Thrown when a worker's attempt is no longer the newest: someone cancelled, deleted or rescued the task. */
export class StaleAttemptError extends Error {
  constructor() {
    super('the attempt is no longer the newest of its task');
    this.name = 'StaleAttemptError';
  }
}

/**
 * Selects the place that the transaction has taken in a session of the user $1. A row that it has not changed itself gives none:
 * so statements may be sent behind the one that takes the turn before anybody knows whether there was one to take.
 */
export function takenTurn(sessionId: string): string {
  return `SELECT message_count AS place FROM sessions
    WHERE user_id = $1 AND id = ${sessionId} AND xmin = pg_current_xact_id_if_assigned()::xid`;
}

/** What stands in the columns of a task that was given to a worker at once, and in those of one that was not. */
const given = `
  (CASE WHEN worker.id IS NULL THEN 'QUEUED' ELSE 'RUNNING' END)::task_state, (worker.id IS NOT NULL)::integer, worker.id,
  CASE WHEN worker.id IS NOT NULL THEN clock_timestamp() END`;
/**
 * A task that is given to a worker begins in the same commit, with its agent: the worker has to store nothing first.
 * @param turn selects its place in the session; without a row nothing is added
 */
const insertAt = (turn: string) =>
  statement<TaskModel & { agentBecameBusy: boolean } & Record<string, unknown>>(`
  WITH turn AS MATERIALIZED (${turn}), worker AS MATERIALIZED (
    SELECT turn.place, CASE WHEN $13::text IS NOT NULL AND (turn.place IS NULL OR NOT EXISTS (
      SELECT FROM tasks
      WHERE user_id = $1 AND session_id = $5 AND session_order < turn.place
        AND state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
    )) THEN queue.take_worker($3, $2, $13) END AS id
    FROM turn
  ), added AS (
    INSERT INTO tasks (user_id, kind, lane_id, agent_id, session_id, message_id, session_order, input, request_id, traceparent,
      plan_id, id, state, attempt, worker_id, started_at, deadline_at)
    SELECT $1, $2, $3, $4, $5, $6, worker.place, $8, $9, $10, $11, $12, ${given},
      CASE WHEN worker.id IS NOT NULL THEN clock_timestamp() + make_interval(secs => $14::float8 / 1000) END
    FROM worker
    RETURNING ${columns}
  ), occupied AS (
    UPDATE agents SET status = 'BUSY' FROM added
    WHERE added."workerId" IS NOT NULL AND agents.user_id = $1 AND agents.id = $15::uuid AND agents.status <> 'BUSY'
    RETURNING agents.id
  )
  SELECT added.*, EXISTS (SELECT FROM occupied) AS "agentBecameBusy" FROM added`);
const insert = insertAt('SELECT $7::integer AS place');
const insertInTurn = insertAt(`${takenTurn('$5')} AND $7::integer IS NULL`);
const insertBelow = statement<TaskModel & Record<string, unknown>>(`
  INSERT INTO tasks (user_id, kind, lane_id, agent_id, session_id, message_id, session_order, input, request_id, traceparent,
    plan_id, id, state, finished_at)
  SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
    (CASE WHEN parents.lost THEN 'SKIPPED' WHEN parents.open THEN 'BLOCKED' ELSE 'QUEUED' END)::task_state,
    CASE WHEN parents.lost THEN clock_timestamp() END
  FROM (
    SELECT coalesce($14 AND bool_or(tasks.state IS NULL OR tasks.state IN ('FAILED', 'CANCELLED', 'SKIPPED')), false) AS lost,
      coalesce(bool_or(tasks.state NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')), false) AS open
    FROM unnest($13::uuid[]) AS parent (id) LEFT JOIN tasks ON tasks.user_id = $1 AND tasks.id = parent.id
  ) AS parents
  RETURNING ${columns}`);
const insertJob = statement<{ [Key in keyof AddedJob]: AddedJob[Key] | null } & { limit: number }>(`
  WITH lane AS MATERIALIZED (
    SELECT id, agent_id, blocked + queued + retrying AS waiting, max_waiting AS limit FROM lanes
    WHERE user_id = $1 AND id = $2 FOR NO KEY UPDATE
  ), worker AS MATERIALIZED (
    SELECT CASE WHEN $7::text IS NOT NULL AND lane.waiting < lane.limit THEN queue.take_worker(lane.id, $3, $7) END AS id
    FROM lane
  ), added AS (
    INSERT INTO tasks (user_id, kind, lane_id, agent_id, input, request_id, traceparent, state, attempt, worker_id, started_at)
    SELECT $1, $3, lane.id, lane.agent_id, $4, $5, $6, ${given} FROM lane, worker WHERE lane.waiting < lane.limit
    RETURNING id, attempt, worker_id AS "workerId"
  )
  SELECT added.id, added.attempt, added."workerId", lane.limit FROM lane LEFT JOIN added ON true`);
const takeBack = statement<{ isQueued: boolean }>(`SELECT queue.take_back($1, $2) AS "isQueued"`);
const lockLanes = statement(`SELECT queue.lock_lanes($1::uuid[])`);
const link = statement(`
  INSERT INTO task_dependencies (user_id, task_id, parent_id, needs_success)
  SELECT $1, $2, id, $4 FROM tasks WHERE user_id = $1 AND id = ANY ($3::uuid[]) FOR KEY SHARE`);
const end = statement<EndedAttempt & Record<string, unknown>>(`
  SELECT agent_id AS "agentId", session_id AS "sessionId", plan_id AS "planId", answer_id AS "answerId", queued, released, skipped, begun
  FROM queue.end_attempt($1, $2, $3, $4, $5, $6, $7, $8, $9, make_interval(secs => $10::float8 / 1000))`);
const cancel = statement<CancelledTask & Record<string, unknown>>(`
  SELECT task_id AS "taskId", agent_id AS "agentId", session_id AS "sessionId", plan_id AS "planId", became
  FROM queue.cancel($1::uuid[], $2, $3, $4, $5::uuid[])`);
const resume = statement<{ resumed: boolean }>(`SELECT queue.resume($1) AS resumed`);
/** Whether $3 is the running attempt at the task $2 of user $1: the fence of each write that must not come late. */
export const isRunningAttempt = `user_id = $1 AND id = $2 AND attempt = $3 AND state = 'RUNNING'`;
/** Finds and locks such a task. */
export const heldTask = `SELECT id FROM tasks WHERE ${isRunningAttempt} FOR NO KEY UPDATE`;
const hold = statement<{ id: string }>(heldTask);

/**
 * Adds a task in the caller's transaction, and gives it to a worker at once where one has nothing else to do; else it
 * wakes workers after the commit. With parents it is BLOCKED until the last of them has ended; when it needs their success
 * and one of them has ended otherwise by now, or is gone, it is SKIPPED at once.
 * @returns the task as it was stored
 */
export async function enqueueTask(operation: WriteOperation, task: NewTask): Promise<TaskModel> {
  const { parentIds: parents = [], needsSuccess = true } = task;
  if (parents.length === 0) {
    const added = await addTask(operation, insert, task);
    if (added === null) {
      throw new Error('the task was not stored');
    }
    return added;
  }
  // A parent that ends right now must either be seen as ended here or see the link.
  await lockTaskLanes(operation, parents);
  const [row] = await operation.query(insertBelow, [...valuesOf(operation, task), parents, needsSuccess]);
  if (row === undefined) {
    throw new Error('the task was not stored');
  }
  await operation.query(link, [operation.userId, row.id, parents, needsSuccess]);
  if (row.state === 'SKIPPED') {
    operation.emit({ type: 'task_skipped', sessionId: task.sessionId, taskId: row.id });
  }
  if (row.state === 'QUEUED') {
    operation.afterCommit(wakeWorkers);
  }
  return row;
}

/**
 * Adds a task as `enqueueTask` does, in the turn that the caller's transaction has taken in the task's session.
 * @returns null when it has taken none: nothing is added then
 */
export function enqueueInTurn(
  operation: WriteOperation,
  task: Omit<NewTask, 'sessionOrder' | 'parentIds' | 'needsSuccess'>,
): Promise<TaskModel | null> {
  return addTask(operation, insertInTurn, { ...task, sessionOrder: null });
}

async function addTask(operation: WriteOperation, into: typeof insert, task: NewTask): Promise<TaskModel | null> {
  const more = [operation.reach, operation.terms.taskTimeout, occupiesAgent(task.kind) ? task.agentId : null];
  const [added] = await operation.query(into, [...valuesOf(operation, task), ...more]);
  if (added === undefined) {
    return null;
  }
  const { agentBecameBusy, ...stored } = added;
  const { id: taskId, attempt, kind, workerId } = stored;
  if (workerId !== null) {
    tellStart(operation, stored, agentBecameBusy);
  }
  // The news goes by way of Redis: it carries ids and no text.
  const told = Object.keys(task.input ?? {}).length === 0 ? { task: taskFacts(stored) } : {};
  letStart(operation, workerId, { taskId, attempt, kind, begun: { ...operation.origin, ...told } });
  return stored;
}

function valuesOf({ userId, origin }: WriteOperation, task: NewTask): unknown[] {
  const input = JSON.stringify(task.input ?? {});
  const { kind, laneId, agentId, sessionId, messageId, sessionOrder, planId = null, id = uuidv7() } = task;
  const { requestId, traceparent } = origin;
  return [userId, kind, laneId, agentId, sessionId, messageId, sessionOrder, input, requestId, traceparent, planId, id];
}

/**
 * Adds a job, which stands in no session and waits for no task, to a lane: in a transaction of its own, in one trip.
 * @returns its id, or null when the caller owns no such lane
 * @throws DomainError AGENT_QUEUE_FULL
 */
export function enqueueJob(
  operation: Operation,
  job: { kind: string; laneId: string; input?: Record<string, unknown> },
  field: string,
): Promise<string | null> {
  return operation.write(async (write) => {
    const input = JSON.stringify(job.input ?? {});
    const { requestId, traceparent } = write.origin;
    const values = [write.userId, job.laneId, job.kind, input, requestId, traceparent, write.reach];
    const [row] = await write.queryAndCommit(insertJob, values);
    if (row === undefined) {
      return null;
    }
    const { id, attempt, workerId } = row;
    if (id === null || attempt === null) {
      throw queueFull(row.limit, field);
    }
    letStart(write, workerId, { taskId: id, attempt, kind: job.kind });
    return id;
  });
}

/** Tells the worker that was given the task, or all of them that there is one. */
function letStart(operation: WriteOperation, workerId: string | null, attempt: Omit<Claim, 'userId'>): void {
  if (workerId === null) {
    operation.afterCommit(wakeWorkers);
    return;
  }
  const claim: Claim = { userId: operation.userId, ...attempt };
  operation.afterCommit((channel, write) => {
    // What can't be put right here either is found by the worker's signs of life, or by the end of its lease.
    tellWorker(channel, write, workerId, claim).catch(() => undefined);
  });
}

async function tellWorker(channel: Channel, write: Operation['write'], workerId: string, claim: Claim): Promise<void> {
  // Of news that may have arrived the worker is the judge: it finds tasks that are its own and that it knows nothing of.
  if ((await channel.tell(givenTopic(workerId), claim)) !== 0) {
    return;
  }
  // It died a moment ago, or its messages don't arrive: others shall have the task.
  await write(async (operation) => {
    await operation.query(takeBack, [claim.taskId, claim.attempt]);
    operation.afterCommit(wakeWorkers);
  });
}

/** Locks the lanes of tasks: first in a transaction that changes their states beside other rows. */
export async function lockTaskLanes(operation: WriteOperation, taskIds: readonly string[]): Promise<void> {
  await operation.query(lockLanes, [taskIds]);
}

/**
 * Holds an attempt's task until the commit, for a write that must not come late.
 * @throws StaleAttemptError when the attempt may no longer write
 */
export async function holdAttempt(operation: WriteOperation, claim: Claim): Promise<void> {
  const [held] = await operation.query(hold, [operation.userId, claim.taskId, claim.attempt]);
  if (held === undefined) {
    throw new StaleAttemptError();
  }
}

/**
 * Ends an attempt: task, dependants and counts change in the caller's transaction. The worker whose attempt it was looks for
 * more work behind it where something may have waited for this end: it is told whether after the commit.
 * @throws StaleAttemptError when the attempt may no longer write; nothing is changed then.
 */
export async function endAttempt(operation: WriteOperation, claim: Claim, outcome: Outcome): Promise<EndedAttempt> {
  const failure = outcome.state === 'FAILED' || outcome.state === 'RETRYING' ? outcome : null;
  const [ended] = await operation.query(end, [
    claim.taskId,
    claim.attempt,
    outcome.state,
    failure?.code ?? null,
    failure?.message ?? null,
    outcome.state === 'RETRYING' ? outcome.dueAt : null,
    ...successorValues(operation, claim.successor),
  ]);
  if (ended === undefined) {
    throw new StaleAttemptError();
  }
  letBegin(operation, claim.successor, ended.begun, ended.released.length);
  operation.afterCommit(() => claim.onEnd?.(ended.queued));
  return ended;
}

/** What to cancel: one task, or all that an agent, a session or a plan has open. */
export type CancelTarget = { taskId: string } | { agentId: string } | { sessionId: string } | { planId: string };

/**
 * Cancels what has not ended, skips what needed its success and frees what only waited for its end; runs are aborted
 * after the commit. Until then the target gets no new task, so that it may be deleted.
 * @param moreLanes lanes that the caller is about to add tasks to: locked with the others, in the one order
 */
export async function cancelTasks(
  operation: WriteOperation,
  target: CancelTarget,
  moreLanes: readonly string[] = [],
): Promise<CancelledTask[]> {
  const cancelled = await operation.query(cancel, [
    'taskId' in target ? [target.taskId] : [],
    'agentId' in target ? target.agentId : null,
    'sessionId' in target ? target.sessionId : null,
    'planId' in target ? target.planId : null,
    moreLanes,
  ]);
  operation.afterCommit((channel) => {
    abortRuns(
      channel,
      cancelled.map((task) => task.taskId),
    );
    wakeWorkers(channel);
  });
  return cancelled;
}

/** Queues a waiting task again. @returns false when it was not waiting. */
export async function resumeTask(operation: WriteOperation, taskId: string): Promise<boolean> {
  const [row] = await operation.query(resume, [taskId]);
  operation.afterCommit(wakeWorkers);
  return row?.resumed ?? false;
}
