import { statement } from '../adapters/postgres.ts';
import type { AgentStatus } from '../generated/prisma/enums.ts';
import type { WriteOperation } from '../operation.ts';

const becomeIdle = statement<{ status: AgentStatus; changed: boolean }>(`
  UPDATE agents SET last_error = coalesce($3, last_error), status = CASE
    WHEN (SELECT running FROM lanes WHERE user_id = $1 AND id = $2) > 0 THEN 'BUSY'
    WHEN $3::text IS NOT NULL OR ($4 AND old.before = 'ERROR') THEN 'ERROR'
    ELSE 'READY'
  END::agent_status
  FROM (SELECT status AS before FROM agents WHERE user_id = $1 AND id = $2 FOR NO KEY UPDATE) AS old
  WHERE user_id = $1 AND id = $2
  RETURNING status, old.before <> status AS changed`);

/** How a task of the agent ended, or stopped for now. */
export type TaskEnd = 'completed' | 'cancelled' | 'waiting' | { failure: string };

/**
 * Sets the agent's status after one of its tasks ended: BUSY while others run, ERROR with the reason when it failed, else
 * READY; only an ERROR outlives a cancel and a wait. The caller holds the lock of the agent's lane, which has its id, so
 * that what runs is counted exactly.
 */
export async function settleAgent(operation: WriteOperation, agentId: string, end: TaskEnd): Promise<void> {
  const failure = typeof end === 'object' ? end.failure : null;
  const values = [operation.userId, agentId, failure, end === 'cancelled' || end === 'waiting'];
  const [agent] = await operation.query(becomeIdle, values);
  if (agent?.changed === true) {
    operation.emit({ type: 'agent_status_changed', agentId, status: agent.status });
  }
}
