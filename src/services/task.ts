import { statement } from '../adapters/postgres.ts';
import { DomainError, notFound } from '../errors.ts';
import type { TaskState } from '../generated/prisma/enums.ts';
import type { TaskModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { type CancelTarget, cancelTasks } from '../queue/task.ts';
import { settleAgent } from './agent-status.ts';
import { cancelApprovals } from './approval.ts';
import { childPages, type List, loadChildPage, loadPage, type Page, type PageArguments, whereGiven } from './page.ts';
import { settlePlans } from './plan-state.ts';
import { rowsById, tables } from './table.ts';

export interface TaskFilter {
  sessionId?: string | null | undefined;
  agentId?: string | null | undefined;
  states?: readonly TaskState[] | null | undefined;
}

const taskList: List<TaskModel> = {
  table: tables.task,
  order: [{ field: 'id', column: 'id', type: 'uuid' }],
  direction: 'descending',
};

const loadSessionTasks = childPages(taskList, 'session_id');
const loadTasks = rowsById<TaskModel>(tables.task);

const findSession = statement<{ id: string }>(`SELECT id FROM sessions WHERE user_id = $1 AND id = $2`);
const findAgent = statement<{ id: string }>(`SELECT id FROM agents WHERE user_id = $1 AND id = $2`);

/** The caller's task of that id, or null. */
export function taskById(operation: ReadOperation, id: string): Promise<TaskModel | null> {
  return operation.load(loadTasks, id);
}

/** Hands a task that the transaction has written to the reads behind its commit. */
export function keepTask(operation: WriteOperation, task: TaskModel): void {
  operation.keep(loadTasks, task);
}

/** The caller's tasks, newest first. */
export function listTasks(
  operation: ReadOperation,
  page: PageArguments,
  filter: TaskFilter = {},
): Promise<Page<TaskModel>> {
  const conditions = [
    ...whereGiven('session_id = ?', filter.sessionId),
    ...whereGiven('agent_id = ?', filter.agentId),
    ...whereGiven('state = ANY (?::task_state[])', filter.states),
  ];
  return loadPage(operation, taskList, page, conditions);
}

/** A session's tasks, newest first. Pages of many sessions are read in one statement. */
export function listSessionTasks(
  operation: ReadOperation,
  sessionId: string,
  page: PageArguments,
): Promise<Page<TaskModel>> {
  return loadChildPage(operation, loadSessionTasks, sessionId, page);
}

/**
 * Cancels a task, whether it waits or runs. What depended on it is skipped; a result that comes late is dropped.
 * @throws DomainError NOT_FOUND, TASK_ENDED
 */
export async function cancelTask(operation: WriteOperation, taskId: string): Promise<{ taskId: string }> {
  const cancelled = await cancelAll(operation, { taskId });
  if (cancelled === 0) {
    if ((await taskById(operation, taskId)) === null) {
      throw notFound('task', 'id');
    }
    throw new DomainError('TASK_ENDED', 'The task has already ended.', { field: 'id' });
  }
  return { taskId };
}

/** Cancels all tasks of a session that have not ended. @throws DomainError NOT_FOUND */
export async function cancelTasksOfSession(
  operation: WriteOperation,
  sessionId: string,
  field = 'sessionId',
): Promise<{ cancelled: string }> {
  const [session] = await operation.query(findSession, [operation.userId, sessionId]);
  if (session === undefined) {
    throw notFound('session', field);
  }
  return { cancelled: String(await cancelAll(operation, { sessionId })) };
}

/** Cancels all tasks of an agent that have not ended. @throws DomainError NOT_FOUND */
export async function cancelTasksOfAgent(
  operation: WriteOperation,
  agentId: string,
  field = 'agentId',
): Promise<{ cancelled: string }> {
  const [agent] = await operation.query(findAgent, [operation.userId, agentId]);
  if (agent === undefined) {
    throw notFound('agent', field);
  }
  return { cancelled: String(await cancelAll(operation, { agentId })) };
}

/**
 * Cancels what has not ended, with all that follows from it: states of agents and plans, and events.
 * @param moreLanes lanes that the caller is about to add tasks to: locked with the others
 * @returns how many were cancelled or skipped
 */
export async function cancelAll(
  operation: WriteOperation,
  target: CancelTarget,
  moreLanes: readonly string[] = [],
): Promise<number> {
  const cancelled = await cancelTasks(operation, target, moreLanes);
  // Also a task that waits may have left its agent BUSY: when its worker died.
  const agentIds = new Set(cancelled.flatMap(({ agentId }) => (agentId === null ? [] : [agentId])));
  for (const agentId of [...agentIds].toSorted()) {
    await settleAgent(operation, agentId, 'cancelled');
  }
  await cancelApprovals(
    operation,
    cancelled.map(({ taskId }) => taskId),
  );
  for (const { became, sessionId, taskId } of cancelled) {
    operation.emit({ type: became === 'CANCELLED' ? 'task_cancelled' : 'task_skipped', sessionId, taskId });
  }
  const planIds = new Set(cancelled.flatMap(({ planId }) => (planId === null ? [] : [planId])));
  if (planIds.size > 0) {
    await settlePlans(operation, [...planIds], 'CANCELLED');
  }
  return cancelled.length;
}
