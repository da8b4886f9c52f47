import { statement } from '../adapters/postgres.ts';
import type { TaskModel } from '../generated/prisma/models.ts';
import type { WriteOperation } from '../operation.ts';

const repeat = statement<{ id: string }>(`
  INSERT INTO tasks (user_id, kind, lane_id, agent_id, session_id, message_id, request_id, traceparent, state, waiting_since)
  SELECT tasks.user_id, tasks.kind, tasks.lane_id, tasks.agent_id, tasks.session_id, coalesce(tasks.message_id, root.message_id),
    $3, $4, 'WAITING', clock_timestamp()
  FROM tasks
  LEFT JOIN agent_calls AS calls ON calls.user_id = $1 AND calls.task_id = tasks.id
  LEFT JOIN tasks AS root ON root.user_id = $1 AND root.id = calls.root_task_id
  WHERE tasks.user_id = $1 AND tasks.id = $2
  RETURNING id`);

/**
 * Adds a new run of a task, which waits for its user from the beginning: the caller asks in the same commit. It has no turn
 * in its session, no part in a plan and no agent that asked it, as those have gone on: it answers the message that led to
 * it all. The caller has reserved its lane.
 * @returns the id of the new run
 */
export async function repeatTask(operation: WriteOperation, taskId: string): Promise<string> {
  const { requestId, traceparent } = operation.origin;
  const [row] = await operation.query(repeat, [operation.userId, taskId, requestId, traceparent]);
  if (row === undefined) {
    throw new Error('the task to repeat is gone');
  }
  return row.id;
}

/**
 * Whether nothing of a task can have been done when its present attempt began: it is the first, and none of what it does was
 * copied from the run that it repeats, which would have left it without a turn.
 */
export function isUntouched({ attempt, sessionOrder }: Pick<TaskModel, 'attempt' | 'sessionOrder'>): boolean {
  return attempt === 1 && sessionOrder !== null;
}
