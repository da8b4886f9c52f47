import { statement } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import type { WriteOperation } from '../operation.ts';

const add = statement(`
  INSERT INTO lanes (user_id, id, kind, agent_id, max_running) VALUES ($1, $2, 'AGENT', $2, $3)`);
const setLimit = statement(`UPDATE lanes SET max_running = $3 WHERE user_id = $1 AND id = $2`);
const lock = statement<{ waiting: number; limit: number }>(`
  SELECT blocked + queued + retrying AS waiting, max_waiting AS limit FROM lanes
  WHERE user_id = $1 AND id = $2 FOR NO KEY UPDATE`);
const cancelAll = statement<{ id: string; sessionId: string | null }>(`
  UPDATE tasks SET state = 'CANCELLED', worker_id = NULL, finished_at = now()
  WHERE user_id = $1 AND lane_id = $2 AND state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
  RETURNING id, session_id AS "sessionId"`);
const lockLanesOfSession = statement(`
  SELECT 1 FROM lanes WHERE user_id = $1 AND id IN (
    SELECT lane_id FROM tasks WHERE user_id = $1 AND session_id = $2
      AND state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING'))
  ORDER BY id FOR NO KEY UPDATE`);
const cancelSession = statement(`
  UPDATE tasks SET state = 'CANCELLED', worker_id = NULL, finished_at = now()
  WHERE user_id = $1 AND session_id = $2 AND state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')`);

/** Makes the lane of a new agent. It has the agent's id. */
export async function addAgentLane(operation: WriteOperation, agentId: string, maxRunning: number): Promise<void> {
  await operation.query(add, [operation.userId, agentId, maxRunning]);
}

/** Sets how many tasks of the lane may run at once. Those that run already are let finish. */
export async function setLaneLimit(operation: WriteOperation, laneId: string, maxRunning: number): Promise<void> {
  await operation.query(setLimit, [operation.userId, laneId, maxRunning]);
}

/**
 * Locks a lane, so that its counts stand still until the commit. Every change of a task's state locks the lane first.
 * @returns the lane's counts, or null when the caller owns no such lane.
 */
export async function lockLane(
  operation: WriteOperation,
  laneId: string,
): Promise<{ waiting: number; limit: number } | null> {
  const [lane] = await operation.query(lock, [operation.userId, laneId]);
  return lane ?? null;
}

/**
 * Locks a lane that has room for one more waiting task.
 * @returns false when the caller owns no such lane.
 * @throws DomainError AGENT_QUEUE_FULL
 */
export async function reserveLane(operation: WriteOperation, laneId: string): Promise<boolean> {
  const lane = await lockLane(operation, laneId);
  if (lane !== null && lane.waiting >= lane.limit) {
    throw new DomainError('AGENT_QUEUE_FULL', `The agent already has ${lane.limit} waiting tasks.`, {
      field: 'input.targetAgentId',
      retryAfter: 5,
    });
  }
  return lane !== null;
}

/** Cancels all unfinished tasks of an agent. A worker that runs one finds its attempt powerless. */
export async function cancelTasksOfAgent(
  operation: WriteOperation,
  agentId: string,
): Promise<{ id: string; sessionId: string | null }[]> {
  await lockLane(operation, agentId);
  return operation.query(cancelAll, [operation.userId, agentId]);
}

/** Cancels all unfinished tasks of a session, over all agents. */
export async function cancelTasksOfSession(operation: WriteOperation, sessionId: string): Promise<void> {
  await operation.query(lockLanesOfSession, [operation.userId, sessionId]);
  await operation.query(cancelSession, [operation.userId, sessionId]);
}
