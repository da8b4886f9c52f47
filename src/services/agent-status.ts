import { statement } from '../adapters/postgres.ts';
import type { WriteOperation } from '../operation.ts';

const becomeBusy = statement(
  `UPDATE agents SET status = 'BUSY' WHERE user_id = $1 AND id = $2 AND status <> 'BUSY' RETURNING id`,
);
const becomeIdle = statement<{ changed: boolean }>(`
  UPDATE agents SET status = $3::agent_status, last_error = coalesce($4, last_error)
  FROM (SELECT status AS before FROM agents WHERE user_id = $1 AND id = $2 FOR NO KEY UPDATE) AS old
  WHERE user_id = $1 AND id = $2
  RETURNING old.before <> $3::agent_status AS changed`);

/** Marks the agent BUSY and tells of it when that is a change. */
export async function markAgentBusy(operation: WriteOperation, agentId: string): Promise<void> {
  const changed = await operation.query(becomeBusy, [operation.userId, agentId]);
  if (changed.length > 0) {
    operation.emit({ type: 'agent_status_changed', agentId, status: 'BUSY' });
  }
}

/**
 * Sets the agent's status after one of its tasks ended: BUSY while others run, else READY, or ERROR with the reason.
 * The caller holds the lane's lock, so that `running` is exact.
 */
export async function settleAgent(
  operation: WriteOperation,
  agentId: string,
  running: number,
  failure: string | null,
): Promise<void> {
  const status = running > 0 ? 'BUSY' : failure === null ? 'READY' : 'ERROR';
  const [row] = await operation.query(becomeIdle, [operation.userId, agentId, status, failure]);
  if (row?.changed === true) {
    operation.emit({ type: 'agent_status_changed', agentId, status });
  }
}
