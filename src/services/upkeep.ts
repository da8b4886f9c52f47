import { type Database, statement } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import type { Operation } from '../operation.ts';
import { expireApproval } from './approval.ts';
import { deleteSession } from './session.ts';

/** How long things are kept. */
export interface Retention {
  /** Days that a session stays readable after its expiry. */
  expiredSessionDays: number;
  /** Days that an event stays in the log. */
  eventDays: number;
  /** Newest events of a session that stay in the log. */
  eventsPerSession: number;
}

/** Days that a repeated Idempotency-Key is known: longer than any client goes on trying. */
const idempotencyKeyDays = 7;

type OpenOperation = (userId: string) => Operation;

const batch = 100;

const expired = statement<{ userId: string; sessionId: string }>(
  `SELECT user_id AS "userId", session_id AS "sessionId" FROM queue.expired_sessions(make_interval(days => $1), $2)`,
);
const overdue = statement<{ userId: string; approvalId: string }>(
  `SELECT user_id AS "userId", approval_id AS "approvalId" FROM queue.expired_approvals($1)`,
);
const crowded = statement<{ userId: string }>(
  `SELECT user_id AS "userId" FROM queue.users_to_trim(make_interval(days => $1), $2)`,
);
const forgetKeys = statement(
  `DELETE FROM idempotency_keys WHERE user_id = $1 AND created_at < now() - make_interval(days => ${idempotencyKeyDays})`,
);
const trim = statement(`SELECT queue.trim_events(make_interval(days => $1), $2)`);

/**
 * Deletes sessions long past their expiry, each as its user and in a transaction of its own.
 * @returns how many; at most 100 a call
 * @throws the first fault, when all others are done
 */
export async function removeExpiredSessions(
  database: Database,
  openOperation: OpenOperation,
  retention: Retention,
): Promise<number> {
  const sessions = await database.query(expired, [retention.expiredSessionDays, batch]);
  await doEach(sessions, ({ userId, sessionId }) =>
    openOperation(userId)
      .write((write) => deleteSession(write, sessionId))
      .catch(ignoreGone),
  );
  return sessions.length;
}

/**
 * Declines approvals that nobody decided in time, each as its user and in a transaction of its own.
 * @returns how many; at most 100 a call
 * @throws the first fault, when all others are done
 */
export async function expireApprovals(database: Database, openOperation: OpenOperation): Promise<number> {
  const approvals = await database.query(overdue, [batch]);
  await doEach(approvals, ({ userId, approvalId }) =>
    openOperation(userId).write((write) => expireApproval(write, approvalId)),
  );
  return approvals.length;
}

/**
 * Takes old events, and those beyond a session's newest, out of the logs of users who had many since the last time or
 * whose last time is long ago. Their old idempotency keys go with them.
 * @returns how many users' logs; at most 100 a call
 * @throws the first fault, when all others are done
 */
export async function trimEvents(
  database: Database,
  openOperation: OpenOperation,
  retention: Retention,
): Promise<number> {
  const users = await database.query(crowded, [retention.eventDays, batch]);
  await doEach(users, ({ userId }) =>
    openOperation(userId).write(async (write) => {
      await write.query(forgetKeys, [userId]);
      await write.query(trim, [retention.eventDays, retention.eventsPerSession]);
    }),
  );
  return users.length;
}

/** Does one after the other. One that can't be done must not keep the others from it, this time and every time. */
export async function doEach<Item>(items: readonly Item[], work: (item: Item) => Promise<unknown>): Promise<void> {
  const faults: unknown[] = [];
  for (const item of items) {
    await work(item).catch((error: unknown) => faults.push(error));
  }
  if (faults.length > 0) {
    throw faults[0];
  }
}

/** Its user may have deleted the session at the same moment. */
function ignoreGone(error: unknown): void {
  if (!(error instanceof DomainError && error.code === 'NOT_FOUND')) {
    throw error;
  }
}
