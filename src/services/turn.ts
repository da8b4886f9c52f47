import { statement } from '../adapters/postgres.ts';
import { DomainError, notFound } from '../errors.ts';
import type { BusyPolicy, LaneKind } from '../generated/prisma/enums.ts';
import type { WriteOperation } from '../operation.ts';
import { reserveLane, reserveLaneUnlessInterrupting } from '../queue/lane.ts';
import { lockOpenSession } from './session.ts';
import { cancelAll } from './task.ts';

const findLane = statement<{ id: string }>(`SELECT id FROM lanes WHERE user_id = $1 AND id = $2 AND kind = $3`);
const findOpenTask = statement<{ id: string }>(`
  SELECT id FROM tasks
  WHERE user_id = $1 AND session_id = $2 AND state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING') LIMIT 1`);

const agentField = 'input.targetAgentId';
const sessionField = 'input.sessionId';

/**
 * Takes a message's turn in its session and a place in a lane: both stay locked until the commit. When the session is
 * busy, the message waits behind what is open, is refused, or cancels what is open, in the same commit.
 * @param session its policy is null for what the session does by default
 * @throws DomainError NOT_FOUND, SESSION_EXPIRED, SESSION_BUSY, AGENT_QUEUE_FULL
 */
export async function takeTurn(
  operation: WriteOperation,
  lane: { id: string; kind: LaneKind },
  session: { id: string; policy: BusyPolicy | null },
): Promise<void> {
  if (!(await reserveLaneUnlessInterrupting(operation, lane, session, agentField))) {
    return interrupt(operation, lane, session.id);
  }
  const usual = await lockOpenSession(operation, session.id, sessionField);
  const policy = session.policy ?? usual;
  if (policy === 'REJECT' && (await operation.query(findOpenTask, [operation.userId, session.id])).length > 0) {
    throw new DomainError('SESSION_BUSY', 'The session is still at work on an earlier message.', {
      field: sessionField,
      retryAfter: 2,
    });
  }
}

async function interrupt(
  operation: WriteOperation,
  lane: { id: string; kind: LaneKind },
  sessionId: string,
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
}
