import { statement } from '../adapters/postgres.ts';
import type { WriteOperation } from '../operation.ts';
import { lockTaskLanes, resumeTask } from '../queue/task.ts';

const taskOf = statement<{ taskId: string | null }>(
  `SELECT task_id AS "taskId" FROM approvals WHERE user_id = $1 AND id = $2`,
);
const expire = statement<{ sessionId: string }>(`
  UPDATE approvals SET state = 'EXPIRED', decided_at = now()
  WHERE user_id = $1 AND id = $2 AND state = 'PENDING' AND expires_at <= now() RETURNING session_id AS "sessionId"`);
const countPending = statement<{ pending: number }>(
  `SELECT count(*)::int AS pending FROM approvals WHERE user_id = $1 AND task_id = $2 AND state = 'PENDING'`,
);

/**
 * Declines an approval that nobody decided in time: the decision, its event and the queueing of the task that waited
 * are one commit. Nothing happens when it was decided meanwhile.
 */
export async function expireApproval(operation: WriteOperation, approvalId: string): Promise<void> {
  const [approval] = await operation.query(taskOf, [operation.userId, approvalId]);
  const taskId = approval?.taskId ?? null;
  if (taskId !== null) {
    // Lanes come before everything else in the order of locks.
    await lockTaskLanes(operation, [taskId]);
  }
  const [expired] = await operation.query(expire, [operation.userId, approvalId]);
  if (expired === undefined) {
    return;
  }
  if (taskId !== null) {
    const [left] = await operation.query(countPending, [operation.userId, taskId]);
    if (left?.pending === 0) {
      await resumeTask(operation, taskId);
    }
  }
  operation.emit({ type: 'approval_resolved', sessionId: expired.sessionId, approvalId, state: 'EXPIRED' });
}
