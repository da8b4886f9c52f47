import { statement } from '../adapters/postgres.ts';
import { DomainError, notFound } from '../errors.ts';
import type { BusyPolicy, LaneKind } from '../generated/prisma/enums.ts';
import type { WriteOperation } from '../operation.ts';
import { checkLaneRoom, reserveLane } from '../queue/lane.ts';
import { checkOpen, lockOpenSession, sessionUsed, takePosition } from './session.ts';
import { cancelAll } from './task.ts';

/** The lane's row comes first whatever the planner does: the session's can't be looked for before it is known. */
const take = statement<{
  waiting: number;
  limit: number;
  position: number | null;
  expired: boolean;
  busyPolicy: BusyPolicy;
}>(`
  WITH lane AS MATERIALIZED (
    SELECT blocked + queued + retrying AS waiting, max_waiting AS limit FROM lanes
    WHERE user_id = $1 AND id = $2 AND kind = $5
      AND coalesce($4::busy_policy, (SELECT busy_policy FROM sessions WHERE user_id = $1 AND id = $3)) <> 'INTERRUPT'
    FOR NO KEY UPDATE
  ), session AS (
    UPDATE sessions SET ${sessionUsed}, request_count = request_count + 1
    WHERE user_id = $1 AND id = $3 AND EXISTS (SELECT FROM lane)
    RETURNING WITH (OLD AS before) message_count AS position, before.expires_at <= now() AS expired, busy_policy AS "busyPolicy"
  )
  SELECT lane.waiting, lane.limit, session.position, session.expired, session."busyPolicy"
  FROM lane LEFT JOIN session ON true`);
const findLane = statement<{ id: string }>(`SELECT id FROM lanes WHERE user_id = $1 AND id = $2 AND kind = $3`);
const findOpenTask = statement<{ id: string }>(`
  SELECT id FROM tasks
  WHERE user_id = $1 AND session_id = $2 AND id <> $3 AND state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING') LIMIT 1`);

const agentField = 'input.targetAgentId';
const sessionField = 'input.sessionId';

/** A message that wants a turn. */
export interface TurnWanted {
  lane: { id: string; kind: LaneKind };
  sessionId: string;
  /** Null for what the session does by default. */
  policy: BusyPolicy | null;
  /** Becomes of the message; it may be added before anybody knows that the turn is taken. */
  taskId: string;
}

/**
 * Takes a message's turn in its session and a place in a lane: both stay locked until the commit. When the session is
 * busy, the message waits behind what is open, or is refused.
 * @returns false when it is to cancel what is open, or there is no such lane: nothing is taken or locked then
 * @throws DomainError NOT_FOUND, SESSION_EXPIRED, SESSION_BUSY, AGENT_QUEUE_FULL
 */
export async function takeTurn(operation: WriteOperation, wanted: TurnWanted): Promise<boolean> {
  const { lane, sessionId, taskId } = wanted;
  const values = [operation.userId, lane.id, sessionId, wanted.policy, lane.kind];
  const [taken] = await operation.query(take, values);
  if (taken === undefined) {
    return false;
  }
  checkLaneRoom(taken, agentField);
  const { position, expired, busyPolicy } = taken;
  if (position === null) {
    throw notFound('session', sessionField);
  }
  checkOpen({ expired }, sessionField);
  const policy = wanted.policy ?? busyPolicy;
  if (policy === 'REJECT' && (await operation.query(findOpenTask, [operation.userId, sessionId, taskId])).length > 0) {
    throw new DomainError('SESSION_BUSY', 'The session is still at work on an earlier message.', {
      field: sessionField,
      retryAfter: 2,
    });
  }
  return true;
}

/**
 * Takes a message's turn in its session, and cancels what is open there in the same commit. It locks nothing before the lanes
 * of what it interrupts, which are to be locked with the new message's in the one order.
 * @throws DomainError NOT_FOUND, SESSION_EXPIRED, AGENT_QUEUE_FULL
 */
export async function interruptForTurn(
  operation: WriteOperation,
  { lane, sessionId }: Pick<TurnWanted, 'lane' | 'sessionId'>,
): Promise<void> {
  const [found] = await operation.query(findLane, [operation.userId, lane.id, lane.kind]);
  if (found === undefined) {
    throw notFound('agent', agentField);
  }
  // Also locks the new message's lane, with those of what it interrupts.
  await cancelAll(operation, { sessionId }, [lane.id]);
  if (!(await reserveLane(operation, lane.id, agentField))) {
    throw notFound('agent', agentField);
  }
  await lockOpenSession(operation, sessionId, sessionField);
  await takePosition(operation, sessionId);
}
