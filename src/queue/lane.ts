import { statement } from '../adapters/postgres.ts';
import type { WriteOperation } from '../operation.ts';
import { wakeWorkers } from './signal.ts';
import { queueFull } from './task.ts';

/** Most tasks of an orchestrator that run at once: each is one short question to a model, so more than of an agent. */
const orchestratorTasks = 10;

const add = statement(`
  INSERT INTO lanes (user_id, id, kind, agent_id, max_running) VALUES ($1, $2, 'AGENT', $2, $3)`);
const addOrchestrator = statement(`
  INSERT INTO lanes (user_id, id, kind, orchestrator_id, max_running) VALUES ($1, $2, 'ORCHESTRATOR', $2, ${orchestratorTasks})`);
const setLimit = statement(`UPDATE lanes SET max_running = $3 WHERE user_id = $1 AND id = $2`);
const lock = statement<{ id: string; waiting: number; limit: number }>(`
  SELECT id, blocked + queued + retrying AS waiting, max_waiting AS limit FROM lanes
  WHERE user_id = $1
    AND (id = $2 OR id IN (SELECT lane_id FROM tasks WHERE user_id = $1 AND id = ANY ($3::uuid[])))
  ORDER BY id FOR NO KEY UPDATE`);

/** Makes the lane of a new agent. It has the agent's id. */
export async function addAgentLane(operation: WriteOperation, agentId: string, maxRunning: number): Promise<void> {
  await operation.query(add, [operation.userId, agentId, maxRunning]);
}

/** Makes the lane of a new orchestrator. It has the orchestrator's id. */
export async function addOrchestratorLane(operation: WriteOperation, orchestratorId: string): Promise<void> {
  await operation.query(addOrchestrator, [operation.userId, orchestratorId]);
}

/** Sets how many tasks of the lane may run at once. Those that run already are let finish. */
export async function setLaneLimit(operation: WriteOperation, laneId: string, maxRunning: number): Promise<void> {
  await operation.query(setLimit, [operation.userId, laneId, maxRunning]);
  operation.afterCommit(wakeWorkers);
}

/**
 * Locks a lane that has room for one more waiting task, so that its counts stand still until the commit: of many
 * senders at once exactly as many get through as there is room for. Call it first in a transaction, and name the
 * parents that the new task will have: their lanes are locked in the same order, so that nobody waits in a circle.
 * @returns false when the caller owns no such lane.
 * @throws DomainError AGENT_QUEUE_FULL
 */
export async function reserveLane(
  operation: WriteOperation,
  laneId: string,
  field: string,
  parentIds: readonly string[] = [],
): Promise<boolean> {
  const locked = await operation.query(lock, [operation.userId, laneId, parentIds]);
  const lane = locked.find(({ id }) => id === laneId);
  if (lane !== undefined) {
    checkLaneRoom(lane, field);
  }
  return lane !== undefined;
}

/** @throws DomainError AGENT_QUEUE_FULL when as many tasks wait in a lane as may */
export function checkLaneRoom(lane: { waiting: number; limit: number }, field: string): void {
  if (lane.waiting >= lane.limit) {
    throw queueFull(lane.limit, field);
  }
}
