import { type Database, statement } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import type { Operation } from '../operation.ts';
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

type OpenOperation = (userId: string) => Operation;

const batch = 100;

const expired = statement<{ userId: string; sessionId: string }>(
  `SELECT user_id AS "userId", session_id AS "sessionId" FROM queue.expired_sessions(make_interval(days => $1), $2)`,
);
const crowded = statement<{ userId: string }>(
  `SELECT user_id AS "userId" FROM queue.users_to_trim(make_interval(days => $1), $2)`,
);
const trim = statement(`SELECT queue.trim_events(make_interval(days => $1), $2)`);

/**
 * Deletes sessions long past their expiry, each as its user and in a transaction of its own.
 * @returns how many; at most 100 a call
 */
export async function removeExpiredSessions(
  database: Database,
  openOperation: OpenOperation,
  retention: Retention,
): Promise<number> {
  const sessions = await database.query(expired, [retention.expiredSessionDays, batch]);
  for (const { userId, sessionId } of sessions) {
    await openOperation(userId)
      .write((write) => deleteSession(write, sessionId))
      .catch(ignoreGone);
  }
  return sessions.length;
}

/**
 * Takes old events, and those beyond a session's newest, out of the logs of users who had many since the last time.
 * @returns how many users' logs; at most 100 a call
 */
export async function trimEvents(
  database: Database,
  openOperation: OpenOperation,
  retention: Retention,
): Promise<number> {
  const users = await database.query(crowded, [retention.eventDays, batch]);
  for (const { userId } of users) {
    await openOperation(userId).write((write) => write.query(trim, [retention.eventDays, retention.eventsPerSession]));
  }
  return users.length;
}

/** Its user may have deleted the session at the same moment. */
function ignoreGone(error: unknown): void {
  if (!(error instanceof DomainError && error.code === 'NOT_FOUND')) {
    throw error;
  }
}
