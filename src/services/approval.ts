import { z } from 'zod';
import { statement } from '../adapters/postgres.ts';
import { badInput, DomainError, notFound } from '../errors.ts';
import type { ApprovalKind, ApprovalState } from '../generated/prisma/enums.ts';
import type { ApprovalModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { lockTaskLanes, resumeTask } from '../queue/task.ts';
import { grantForSession } from './approval-grant.ts';
import { type Arguments, findStorageFault, hashArguments } from './arguments.ts';
import { parseInput, text } from './input.ts';
import { childPages, type List, loadChildPage, loadPage, type Page, type PageArguments, whereGiven } from './page.ts';
import { rowsById, tables } from './table.ts';
import type { ToolArguments } from './tool-arguments.ts';
import type { JsonObject } from './tool-schema.ts';

/** Something to ask a user. The task that needs the answer goes WAITING in the same commit: see `waitForApprovals`. */
export type NewApproval = {
  sessionId: string;
  taskId: string;
  /** Milliseconds until it counts as declined. */
  expiresIn: number;
  /** What it replaces: an expired one that the user wants to be asked again. */
  previousId?: string;
} & (
  | {
      kind: 'TOOL';
      toolId: string;
      toolName: string;
      /** Tells the calls of the task apart. */
      callId: string;
      arguments: Arguments;
      argumentsSchema: Record<string, unknown>;
      dangerous: boolean;
      /** The call began before and its outcome isn't known. */
      interrupted: boolean;
    }
  | {
      kind: 'PLAN';
      planId: string;
      /** The plan as it is shown; the decision is bound to it. */
      arguments: Arguments;
      dangerous: boolean;
    }
);

export interface Decision {
  id: string;
  decision: 'APPROVED' | 'REJECTED';
  note?: string | null | undefined;
  /** Runs the tool with these instead. */
  editedArguments?: unknown;
  /** Approves the same for the rest of the session. */
  remember?: boolean | null | undefined;
  /** What the client has shown to the user. */
  argumentsHash?: string | null | undefined;
}

export interface ApprovalFilter {
  sessionId?: string | null | undefined;
  states?: readonly ApprovalState[] | null | undefined;
}

const approvalList: List<ApprovalModel> = {
  table: tables.approval,
  order: [{ field: 'id', column: 'id', type: 'uuid' }],
  direction: 'descending',
};

const loadApprovals = rowsById<ApprovalModel>(tables.approval);
const loadSessionApprovals = childPages(approvalList, 'session_id');
const loadTaskApprovals = childPages(approvalList, 'task_id');

const noteRule = z.object({
  note: text('note').max(2_000, '`note` may have at most 2,000 characters.').nullish(),
});

const insert = statement<{ id: string }>(`
  INSERT INTO approvals (user_id, kind, session_id, task_id, plan_id, tool_id, tool_name, call_id, arguments, arguments_hash,
    arguments_schema, dangerous, interrupted, previous_id, created_at, expires_at)
  SELECT $1, $2, $3, $4, $5, (SELECT id FROM tools WHERE user_id = $1 AND id = $6 FOR KEY SHARE), $7, $8, $9, $10, $11, $12, $13, $14, now.at, now.at + make_interval(secs => $15::float8 / 1000)
  FROM (SELECT clock_timestamp() AS at) AS now
  RETURNING id`);
const placeOf = statement<{ taskId: string | null; sessionId: string }>(
  `SELECT task_id AS "taskId", session_id AS "sessionId" FROM approvals WHERE user_id = $1 AND id = $2`,
);
// A session that is deleted right now must be waited for before the approval is held, as its deletion does it.
const keepSession = statement(`SELECT 1 FROM sessions WHERE user_id = $1 AND id = $2 FOR KEY SHARE`);
const hold = statement<ApprovalModel & { isLate: boolean } & Record<string, unknown>>(`
  SELECT ${tables.approval.columns}, expires_at <= clock_timestamp() AS "isLate"
  FROM approvals WHERE user_id = $1 AND id = $2 FOR NO KEY UPDATE`);
const decide = statement(`
  UPDATE approvals SET state = $3, note = $4, edited_arguments = $5, remember = $6, decided_at = clock_timestamp()
  WHERE user_id = $1 AND id = $2`);
const expire = statement<{ sessionId: string }>(`
  UPDATE approvals SET state = 'EXPIRED', decided_at = clock_timestamp()
  WHERE user_id = $1 AND id = $2 AND state = 'PENDING' AND expires_at <= clock_timestamp()
  RETURNING session_id AS "sessionId"`);
const cancel = statement<{ id: string; sessionId: string }>(`
  UPDATE approvals SET state = 'CANCELLED', decided_at = clock_timestamp()
  WHERE user_id = $1 AND task_id = ANY ($2::uuid[]) AND state = 'PENDING'
  RETURNING id, session_id AS "sessionId"`);
const countPending = statement<{ pending: number }>(
  `SELECT count(*)::int AS pending FROM approvals WHERE user_id = $1 AND task_id = $2 AND state = 'PENDING'`,
);
const ofTask = statement<ApprovalModel & Record<string, unknown>>(
  `SELECT ${tables.approval.columns} FROM approvals WHERE user_id = $1 AND task_id = $2 ORDER BY id`,
);

/** The caller's approval of that id, or null. */
export function approvalById(operation: ReadOperation, id: string): Promise<ApprovalModel | null> {
  return operation.load(loadApprovals, id);
}

/** The caller's approvals, newest first. */
export function listApprovals(
  operation: ReadOperation,
  page: PageArguments,
  filter: ApprovalFilter = {},
): Promise<Page<ApprovalModel>> {
  const conditions = [
    ...whereGiven('session_id = ?', filter.sessionId),
    ...whereGiven('state = ANY (?::approval_state[])', filter.states),
  ];
  return loadPage(operation, approvalList, page, conditions);
}

/** A session's approvals, newest first. Pages of many sessions are read in one statement. */
export function listSessionApprovals(
  operation: ReadOperation,
  sessionId: string,
  page: PageArguments,
): Promise<Page<ApprovalModel>> {
  return loadChildPage(operation, loadSessionApprovals, sessionId, page);
}

/** A task's approvals, newest first. Pages of many tasks are read in one statement. */
export function listTaskApprovals(
  operation: ReadOperation,
  taskId: string,
  page: PageArguments,
): Promise<Page<ApprovalModel>> {
  return loadChildPage(operation, loadTaskApprovals, taskId, page);
}

/** All approvals of a task in the order of asking, for the run that continues it. */
export function approvalsOfTask(operation: ReadOperation, taskId: string): Promise<ApprovalModel[]> {
  return operation.query(ofTask, [operation.userId, taskId]);
}

/**
 * Asks the user. The caller sees to it that the task waits in the same commit, or is waiting already with its lane
 * locked; a decision that came before would otherwise resume nothing.
 * @returns the approval's id
 */
export async function requestApproval(operation: WriteOperation, asked: NewApproval): Promise<string> {
  const { kind, sessionId, taskId } = asked;
  const tool = kind === 'TOOL' ? asked : null;
  const planId = kind === 'PLAN' ? asked.planId : null;
  const [row] = await operation.query(insert, [
    operation.userId,
    kind,
    sessionId,
    taskId,
    planId,
    tool?.toolId ?? null,
    tool?.toolName ?? null,
    tool?.callId ?? null,
    JSON.stringify(asked.arguments),
    hashArguments(tool?.toolName ?? null, asked.arguments),
    tool === null ? null : JSON.stringify(tool.argumentsSchema),
    asked.dangerous,
    tool?.interrupted ?? false,
    asked.previousId ?? null,
    asked.expiresIn,
  ]);
  if (row === undefined) {
    throw new Error('the approval was not stored');
  }
  const approvalId = row.id;
  operation.emit({ type: 'approval_required', sessionId, approvalId });
  operation.emit(
    planId === null
      ? { type: 'tool_request', sessionId, taskId, approvalId }
      : { type: 'plan_request', sessionId, taskId, planId, approvalId },
  );
  return approvalId;
}

/**
 * Decides what a user was asked, once. Arguments that were edited must fit the tool's schema as it was when it was asked.
 * The decision, the queueing of the task that waited for the last of its decisions,
 * and the event are one commit. What was decided is never weighed again: the task does as it stands here.
 * @throws DomainError NOT_FOUND, BAD_USER_INPUT, APPROVAL_ALREADY_DECIDED, APPROVAL_EXPIRED, APPROVAL_CANCELLED,
 * APPROVAL_MISMATCH
 */
export async function decideApproval(
  operation: WriteOperation,
  given: Decision,
  checker: Pick<ToolArguments, 'findFault'>,
): Promise<{ approvalId: string }> {
  const { note = null } = parseInput(noteRule, { note: given.note }, '');
  const approval = await holdApproval(operation, given.id);
  checkOpen(approval);
  checkDecision(approval, given, checker);
  const edited = given.editedArguments ?? null;
  const remember = given.remember === true;
  await operation.query(decide, [
    operation.userId,
    approval.id,
    given.decision,
    note === '' ? null : note,
    edited === null ? null : JSON.stringify(edited),
    remember,
  ]);
  if (remember) {
    await grantForSession(operation, approval);
  }
  await settle(operation, approval, given.decision);
  return { approvalId: approval.id };
}

/**
 * Holds an approval and the lane of its task until the commit. `isLate` tells that its time is over by the clock of the
 * database, whether or not it stands as expired yet.
 * @param lockSession keeps the session at least from being deleted, before the approval is held
 * @throws DomainError NOT_FOUND
 */
export async function holdApproval(
  operation: WriteOperation,
  approvalId: string,
  lockSession: (sessionId: string) => Promise<unknown> = (sessionId) =>
    operation.query(keepSession, [operation.userId, sessionId]),
): Promise<ApprovalModel & { isLate: boolean }> {
  const place = [operation.userId, approvalId];
  const [found] = await operation.query(placeOf, place);
  if (found === undefined) {
    throw notFound('approval', 'id');
  }
  if (found.taskId !== null) {
    // Lanes come before everything else in the order of locks.
    await lockTaskLanes(operation, [found.taskId]);
  }
  await lockSession(found.sessionId);
  const [approval] = await operation.query(hold, place);
  if (approval === undefined) {
    throw notFound('approval', 'id');
  }
  return approval;
}

/** Declines an approval that nobody decided in time. Nothing happens when it was decided meanwhile. */
export async function expireApproval(operation: WriteOperation, approvalId: string): Promise<void> {
  const place = [operation.userId, approvalId];
  const [found] = await operation.query(placeOf, place);
  const taskId = found?.taskId ?? null;
  if (taskId !== null) {
    await lockTaskLanes(operation, [taskId]);
  }
  const [expired] = await operation.query(expire, place);
  if (expired !== undefined) {
    await settle(operation, { id: approvalId, taskId, sessionId: expired.sessionId }, 'EXPIRED');
  }
}

/** How many of a task's questions are open; exact while the caller's transaction holds the task's lane. */
export async function countPendingApprovals(operation: WriteOperation, taskId: string): Promise<number> {
  const [row] = await operation.query(countPending, [operation.userId, taskId]);
  return row?.pending ?? 0;
}

/** Takes back what the user was asked for tasks that the caller has just ended, in the same commit. */
export async function cancelApprovals(operation: WriteOperation, taskIds: readonly string[]): Promise<void> {
  for (const { id, sessionId } of await operation.query(cancel, [operation.userId, taskIds])) {
    operation.emit({ type: 'approval_resolved', sessionId, approvalId: id, state: 'CANCELLED' });
  }
}

async function settle(
  operation: WriteOperation,
  { id, taskId, sessionId }: Pick<ApprovalModel, 'id' | 'taskId' | 'sessionId'>,
  state: 'APPROVED' | 'REJECTED' | 'EXPIRED',
): Promise<void> {
  if (taskId !== null) {
    if ((await countPendingApprovals(operation, taskId)) === 0) {
      await resumeTask(operation, taskId);
    }
  }
  operation.emit({ type: 'approval_resolved', sessionId, approvalId: id, state });
}

/** Also what is past its time but not yet marked so is expired: the upkeep needs a moment. */
function checkOpen({ state, isLate }: { state: ApprovalState; isLate: boolean }): void {
  if (state === 'APPROVED' || state === 'REJECTED') {
    throw new DomainError('APPROVAL_ALREADY_DECIDED', `It was ${state.toLowerCase()} before.`, { field: 'id' });
  }
  if (state === 'CANCELLED') {
    throw new DomainError('APPROVAL_CANCELLED', 'What asked for it was cancelled.', { field: 'id' });
  }
  if (state === 'EXPIRED' || isLate) {
    throw new DomainError('APPROVAL_EXPIRED', 'Its time to be decided is over. `requestAgain` asks anew.', {
      field: 'id',
    });
  }
}

function checkDecision(approval: ApprovalModel, given: Decision, checker: Pick<ToolArguments, 'findFault'>): void {
  const { argumentsHash, editedArguments: edited } = given;
  if (argumentsHash !== null && argumentsHash !== undefined && argumentsHash !== approval.argumentsHash) {
    throw new DomainError('APPROVAL_MISMATCH', 'It asks for something else than what you were shown.', {
      field: 'argumentsHash',
    });
  }
  if (given.remember === true && given.decision !== 'APPROVED') {
    throw badInput('remember', '`remember` goes with APPROVED: only an approval can hold for the rest of the session.');
  }
  if (given.remember === true && approval.kind === ('TOOL' satisfies ApprovalKind) && approval.toolId === null) {
    throw badInput('remember', 'The tool was deleted, so that there is nothing to remember.');
  }
  if (edited === null || edited === undefined) {
    return;
  }
  if (given.decision !== 'APPROVED' || approval.kind !== 'TOOL') {
    throw badInput('editedArguments', "`editedArguments` goes with APPROVED, and with a tool's call.");
  }
  const fault = findStorageFault(edited) ?? checker.findFault((approval.argumentsSchema ?? {}) as JsonObject, edited);
  if (fault !== null) {
    throw badInput('editedArguments', fault);
  }
}
