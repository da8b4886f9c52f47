import { statement } from '../adapters/postgres.ts';
import type { PlanState } from '../generated/prisma/enums.ts';
import type { WriteOperation } from '../operation.ts';

/** How a plan ends. */
export type PlanEnd = Extract<PlanState, 'COMPLETED' | 'FAILED' | 'CANCELLED' | 'REJECTED' | 'EXPIRED'>;

// A plan's row is locked after its tasks' agents and before the user.
const settle = statement<{ id: string; sessionId: string }>(`
  UPDATE plans SET state = $3, finished_at = clock_timestamp(), updated_at = clock_timestamp()
  WHERE user_id = $1 AND id = ANY ($2::uuid[]) AND state IN ('PLANNING', 'WAITING', 'RUNNING')
    AND NOT EXISTS (
      SELECT FROM tasks WHERE tasks.user_id = $1 AND tasks.plan_id = plans.id
        AND tasks.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
    )
  RETURNING id, session_id AS "sessionId"`);

const end = statement(`
  UPDATE plans SET state = $3, finished_at = clock_timestamp(), updated_at = clock_timestamp()
  WHERE user_id = $1 AND id = $2`);

/** Ends a plan whose last task the caller ends in the same commit. */
export async function endPlan(
  operation: WriteOperation,
  plan: { id: string; sessionId: string },
  state: PlanEnd,
): Promise<void> {
  await operation.query(end, [operation.userId, plan.id, state]);
  operation.emit({ type: 'plan_ended', sessionId: plan.sessionId, planId: plan.id, state });
}

/**
 * Ends those of the plans that have no open task left and have not ended: for whoever has just ended tasks of theirs, in
 * the same commit. A plan whose composing task ended well has ended by then.
 */
export async function settlePlans(
  operation: WriteOperation,
  planIds: readonly string[],
  state: PlanEnd,
): Promise<void> {
  for (const { id, sessionId } of await operation.query(settle, [operation.userId, planIds, state])) {
    operation.emit({ type: 'plan_ended', sessionId, planId: id, state });
  }
}
