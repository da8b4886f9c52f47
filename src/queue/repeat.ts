import { statement } from '../adapters/postgres.ts';
import type { WriteOperation } from '../operation.ts';

const repeat = statement<{ id: string }>(`
  INSERT INTO tasks (user_id, kind, lane_id, agent_id, session_id, message_id, request_id, traceparent, state, waiting_since)
  SELECT user_id, kind, lane_id, agent_id, session_id, message_id, $3, $4, 'WAITING', clock_timestamp()
  FROM tasks WHERE user_id = $1 AND id = $2
  RETURNING id`);

/**
 * Adds a new run of a task, which waits for its user from the beginning: the caller asks in the same commit. It has no turn
 * in its session and no part in a plan, as those have gone on. The caller has reserved its lane.
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
