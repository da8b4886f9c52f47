import { type Statement, statement } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import type { TaskModel } from '../generated/prisma/models.ts';
import { type ReadOperation, type WriteOperation, writeTogether } from '../operation.ts';
import { occupiesAgent } from '../queue/kind.ts';
import { type Failure, mostCrashes, retryDelay } from '../queue/retry.ts';
import { type TaskFacts, tellStart, tellStarts } from '../queue/successor.ts';
import { type Claim, endAttempt, isRunningAttempt, resumeTask, StaleAttemptError } from '../queue/task.ts';
import { settleAgent, type TaskEnd } from './agent-status.ts';
import { cancelApprovals, countPendingApprovals, type NewApproval, requestApproval } from './approval.ts';
import { settlePlans } from './plan-state.ts';
import { tables } from './table.ts';
import { taskById } from './task.ts';

type OpenedTask = TaskModel & { remaining: number; agentBecameBusy?: boolean } & Record<string, unknown>;

const openedColumns = `
  ${tables.task.columns}, (extract(epoch FROM deadline_at - clock_timestamp()) * 1000)::float8 AS remaining`;
const opening = `
  UPDATE tasks SET deadline_at = coalesce(deadline_at, started_at + make_interval(secs => $4::float8 / 1000))
  WHERE ${isRunningAttempt} RETURNING ${openedColumns}`;
const findOpen = statement<OpenedTask>(`SELECT ${openedColumns} FROM tasks WHERE ${isRunningAttempt}`);
const open = statement<OpenedTask>(opening);
// The agent's row comes behind the task's in the order of locks, also within one statement: it is found by the task's.
const openAndOccupy = statement<OpenedTask>(`
  WITH opened AS (${opening}), occupied AS (
    UPDATE agents SET status = 'BUSY' FROM opened
    WHERE agents.user_id = $1 AND agents.id = opened."agentId" AND agents.status <> 'BUSY'
    RETURNING agents.id
  )
  SELECT opened.*, EXISTS (SELECT FROM occupied) AS "agentBecameBusy" FROM opened`);
const sessionsOf = statement<{ taskId: string; sessionId: string | null }>(`
  SELECT id AS "taskId", session_id AS "sessionId" FROM tasks WHERE user_id = $1 AND id = ANY ($2::uuid[]) ORDER BY id`);
const setProgress = statement<{ id: string }>(`
  UPDATE tasks SET progress = $4, progress_note = $5 WHERE ${isRunningAttempt} RETURNING id`);

/** What those who end a task need to know of it. */
export type EndingTask = Pick<TaskFacts, 'agentId' | 'sessionId' | 'planId' | 'answerId'>;

/** A task whose attempt has begun, and the milliseconds that it may still run. */
export interface Opened {
  task: TaskModel;
  remaining: number;
}

/**
 * Begins an attempt that may write.
 * @throws StaleAttemptError when the task was taken away since its claim
 * @throws DomainError TASK_ABANDONED when its workers died too often, TASK_TIMED_OUT when its time is over
 */
export async function openAttempt(operation: WriteOperation, claim: Claim): Promise<Opened> {
  return checkOpened(await begin(operation, claim, open));
}

/** The attempt of a task that began in the commit that added it. @throws as `openAttempt` */
export async function findAttempt(operation: ReadOperation, claim: Claim): Promise<Opened> {
  const [opened] = await operation.query(findOpen, [operation.userId, claim.taskId, claim.attempt]);
  return checkOpened(opened);
}

async function begin(
  operation: WriteOperation,
  claim: Claim,
  opening: Statement<OpenedTask>,
): Promise<OpenedTask | undefined> {
  const { userId, terms } = operation;
  const [opened] = await operation.query(opening, [userId, claim.taskId, claim.attempt, terms.taskTimeout]);
  return opened;
}

/** Begins an attempt as `openAttempt` does, marks its agent BUSY, and tells that it runs. */
export async function startAttempt(operation: WriteOperation, claim: Claim): Promise<Opened> {
  const opened = await begin(operation, claim, occupiesAgent(claim.kind) ? openAndOccupy : open);
  const started = checkOpened(opened);
  tellStart(operation, started.task, opened?.agentBecameBusy === true);
  return started;
}

function checkOpened(opened: OpenedTask | undefined): Opened {
  if (opened === undefined) {
    throw new StaleAttemptError();
  }
  const { remaining, agentBecameBusy: _status, ...task } = opened;
  if (task.crashes >= mostCrashes) {
    throw new DomainError('TASK_ABANDONED', `Workers stopped ${task.crashes} times while they ran this task.`);
  }
  if (remaining <= 0) {
    throw new DomainError('TASK_TIMED_OUT', 'The task took too long.');
  }
  return { task, remaining };
}

/** Writes how far an attempt is, from 0 to 1, with a line about it. @throws StaleAttemptError */
export async function saveProgress(
  operation: WriteOperation,
  claim: Claim,
  sessionId: string | null,
  progress: number,
  note: string,
): Promise<void> {
  const [stored] = await operation.query(setProgress, [operation.userId, claim.taskId, claim.attempt, progress, note]);
  if (stored === undefined) {
    throw new StaleAttemptError();
  }
  operation.emit({ type: 'task_progress', sessionId, taskId: claim.taskId, progress, note });
}

/**
 * Ends a task that is done, frees what waited for it, and settles its agent. All that follows from the end goes out at once,
 * and with the end itself where the worker knows its task: what an attempt sends that may no longer write is rolled back.
 * @param store writes the result in the same commit, before the task is told to be completed. What it does to the task's
 *   plan it must send without waiting for an answer.
 * @throws StaleAttemptError
 */
export async function completeAttempt(
  operation: WriteOperation,
  claim: Claim,
  store: (operation: WriteOperation, task: EndingTask) => Promise<unknown> = async () => undefined,
): Promise<void> {
  const ending = endAttempt(operation, claim, { state: 'COMPLETED' });
  const task: EndingTask = claim.task ?? (await ending);
  const { planId, sessionId } = task;
  await writeTogether(
    operation,
    () => ending,
    (write) => settle(write, claim, task, 'completed'),
    (write) => store(write, task),
    async (write) => write.emit({ type: 'task_completed', sessionId, taskId: claim.taskId }),
    async (write) => {
      const { released, begun } = await ending;
      // Open tasks are left but for one case: that its composing task was cancelled. Other kinds of tasks settle it themselves.
      if (planId !== null && claim.kind === 'AGENT_RUN' && released.length === 0) {
        await settlePlans(write, [planId], 'CANCELLED');
      }
      tellStarts(write, begun);
    },
  );
}

/**
 * Ends a task's attempt that failed, and settles its agent: another attempt later where that may help, else the end.
 * @throws StaleAttemptError
 */
export function failAttempt(operation: WriteOperation, claim: Claim, failure: Failure): Promise<void> {
  return fail(operation, claim, failure, true);
}

/** Ends a job's attempt that failed: like that of a task, but for the state of its agent. @throws StaleAttemptError */
export function failJob(operation: WriteOperation, claim: Claim, failure: Failure): Promise<void> {
  return fail(operation, claim, failure, false);
}

async function fail(operation: WriteOperation, claim: Claim, failure: Failure, settlesAgent: boolean): Promise<void> {
  const task = await taskById(operation, claim.taskId);
  if (task === null) {
    throw new StaleAttemptError();
  }
  const { code, message } = failure;
  const delay = retryDelay(failure, task.failures);
  const ended = await endAttempt(
    operation,
    claim,
    delay === null
      ? { state: 'FAILED', code, message }
      : { state: 'RETRYING', code, message, dueAt: new Date(operation.clock.now().getTime() + delay) },
  );
  const { planId, sessionId, skipped } = ended;
  const willRetry = delay !== null;
  await writeTogether(
    operation,
    async (write) => settlesAgent && settle(write, claim, ended, { failure: message }),
    // A task that waited for several things may end while its user is still asked.
    async (write) => !willRetry && cancelApprovals(write, [claim.taskId]),
    async (write) => write.emit({ type: 'task_failed', sessionId, taskId: claim.taskId, code, willRetry }),
    async (write) => skipped.length > 0 && tellSkipped(write, skipped),
    async (write) => planId !== null && !willRetry && settlePlans(write, [planId], 'FAILED'),
    async (write) => tellStarts(write, ended.begun),
  );
}

/** A dependant may stand in another session than the task that failed: its event belongs to its own. */
async function tellSkipped(operation: WriteOperation, taskIds: readonly string[]): Promise<void> {
  for (const { taskId, sessionId } of await operation.query(sessionsOf, [operation.userId, taskIds])) {
    operation.emit({ type: 'task_skipped', sessionId, taskId });
  }
}

/** What a task waits for. */
export interface Wait {
  /** What its user is asked now. */
  asked: readonly NewApproval[];
  /** How many questions of before the run has found open. */
  pending: number;
  /** Whether what is to come from elsewhere is there by now. */
  isReady: (operation: WriteOperation) => Promise<boolean>;
}

/**
 * Ends an attempt that can't go on before its user has decided. The task holds no slot while it waits; the last of the
 * decisions queues it again. Waiting, agent, questions and events are one commit, so that no decision comes too early.
 * @returns the ids of the approvals
 * @throws StaleAttemptError
 */
export async function waitForApprovals(
  operation: WriteOperation,
  claim: Claim,
  asked: readonly [NewApproval, ...NewApproval[]],
): Promise<string[]> {
  return suspendAttempt(operation, claim, { asked, pending: 0, isReady: async () => false });
}

/**
 * Ends an attempt that waits for decisions of its user, or for what comes from elsewhere. What was decided or came while
 * the task was still running has queued nothing: where nothing is left to wait for, this commit queues it at once.
 * @returns the ids of the approvals
 * @throws StaleAttemptError
 */
export async function suspendAttempt(operation: WriteOperation, claim: Claim, wait: Wait): Promise<string[]> {
  const ended = await endAttempt(operation, claim, { state: 'WAITING' });
  const approvalIds: string[] = [];
  let wereDecided = false;
  await writeTogether(
    operation,
    ...wait.asked.map((approval, place) => async (write: WriteOperation) => {
      approvalIds[place] = await requestApproval(write, approval);
    }),
    (write) => settle(write, claim, ended, 'waiting'),
    async (write) => {
      wereDecided = wait.pending > 0 && (await countPendingApprovals(write, claim.taskId)) === 0;
    },
  );
  if (wereDecided || (await wait.isReady(operation))) {
    await resumeTask(operation, claim.taskId);
  }
  return approvalIds;
}

async function settle(
  operation: WriteOperation,
  claim: Claim,
  { agentId }: Pick<TaskFacts, 'agentId'>,
  end: TaskEnd,
): Promise<void> {
  if (agentId !== null && occupiesAgent(claim.kind)) {
    await settleAgent(operation, agentId, end);
  }
}
