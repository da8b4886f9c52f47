import { z } from 'zod';
import { statement } from '../adapters/postgres.ts';
import { DomainError, notFound } from '../errors.ts';
import type { BusyPolicy } from '../generated/prisma/enums.ts';
import type { SessionModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { parseInput, required, text } from './input.ts';
import { type Condition, type List, loadPage, type Page, type PageArguments } from './page.ts';
import { checkQuota } from './quota.ts';
import { rowsById, tables } from './table.ts';
import { cancelTasksOfSession } from './task.ts';

export interface SessionInput {
  title?: string | null | undefined;
  busyPolicy?: BusyPolicy | null | undefined;
}

const titleRule = text('title')
  .min(1, '`title` may not be empty.')
  .max(200, '`title` may have at most 200 characters.');
const busyPolicyRule = z.enum(['QUEUE', 'REJECT', 'INTERRUPT'], required('busyPolicy'));
const rules = z.object({ title: titleRule.optional(), busyPolicy: busyPolicyRule.optional() });
const listRules = z.object({
  search: text('search').max(200, '`search` may have at most 200 characters.').nullish(),
});

/** A session that nobody uses expires after this many days. */
const lifeDays = 30;
/** What a message changes in its session, for the SET of an UPDATE: `message_count` is then its position. */
export const sessionUsed = `message_count = message_count + 1, last_accessed_at = now(),
    expires_at = now() + make_interval(days => ${lifeDays})`;

const sessionList: List<SessionModel> = {
  table: tables.session,
  order: [
    { field: 'lastAccessedAt', column: 'last_accessed_at', type: 'timestamptz' },
    { field: 'id', column: 'id', type: 'uuid' },
  ],
  direction: 'descending',
};

const loadSessions = rowsById<SessionModel>(tables.session);

const insert = statement<{ id: string }>(`
  INSERT INTO sessions (user_id, title, client_address, busy_policy, expires_at)
  VALUES ($1, $2, $3, $4, now() + make_interval(days => ${lifeDays})) RETURNING id`);
const update = statement<{ id: string }>(`
  UPDATE sessions SET title = coalesce($3, title), busy_policy = coalesce($4, busy_policy)
  WHERE user_id = $1 AND id = $2 RETURNING id`);
const remove = statement<{ id: string }>(`DELETE FROM sessions WHERE user_id = $1 AND id = $2 RETURNING id`);
const removeEvents = statement(`DELETE FROM events WHERE user_id = $1 AND session_id = $2`);
const lock = statement<{ expired: boolean; busyPolicy: BusyPolicy }>(`
  SELECT expires_at <= now() AS expired, busy_policy AS "busyPolicy" FROM sessions
  WHERE user_id = $1 AND id = $2 FOR NO KEY UPDATE`);
const touch = statement<{ id: string }>(`
  UPDATE sessions SET ${sessionUsed}, request_count = request_count + 1
  WHERE user_id = $1 AND id = $2 RETURNING id`);

/** The caller's session of that id, or null. */
export function sessionById(operation: ReadOperation, id: string): Promise<SessionModel | null> {
  return operation.load(loadSessions, id);
}

/** The caller's sessions, most recently used first; `search` keeps those whose title holds the text. */
export function listSessions(
  operation: ReadOperation,
  page: PageArguments,
  search?: string | null,
): Promise<Page<SessionModel>> {
  const wanted = parseInput(listRules, { search }, '').search;
  const conditions: Condition[] =
    typeof wanted === 'string' && wanted !== ''
      ? [{ sql: `position(lower(?) IN lower(title)) > 0`, values: [wanted] }]
      : [];
  return loadPage(operation, sessionList, page, conditions);
}

/** Opens a session. @throws DomainError BAD_USER_INPUT, QUOTA_EXCEEDED */
export async function createSession(
  operation: WriteOperation,
  input: SessionInput,
  clientAddress: string | null,
): Promise<{ sessionId: string }> {
  const { title = 'New session', busyPolicy = 'QUEUE' } = parseInput(rules, input, 'input');
  const [row] = await operation.query(insert, [operation.userId, title, clientAddress, busyPolicy]);
  if (row === undefined) {
    throw new Error('the session was not stored');
  }
  await checkQuota(operation, 'SESSIONS');
  return { sessionId: row.id };
}

/** Changes the members that are given and leaves the others. @throws DomainError NOT_FOUND, BAD_USER_INPUT */
export async function updateSession(
  operation: WriteOperation,
  sessionId: string,
  input: SessionInput,
): Promise<{ sessionId: string }> {
  const { title = null, busyPolicy = null } = parseInput(rules, input, 'input');
  const [row] = await operation.query(update, [operation.userId, sessionId, title, busyPolicy]);
  if (row === undefined) {
    throw notFound('session', 'id');
  }
  return { sessionId };
}

/** Deletes a session with its messages, tasks and events; what still ran is cancelled. @throws DomainError NOT_FOUND */
export async function deleteSession(
  operation: WriteOperation,
  sessionId: string,
): Promise<{ deletedSessionId: string }> {
  await cancelTasksOfSession(operation, sessionId, 'id');
  const [row] = await operation.query(remove, [operation.userId, sessionId]);
  if (row === undefined) {
    throw notFound('session', 'id');
  }
  await operation.query(removeEvents, [operation.userId, sessionId]);
  return { deletedSessionId: sessionId };
}

/**
 * Locks a session that takes messages.
 * @returns what it does with a message that comes while it is busy
 * @throws DomainError NOT_FOUND, SESSION_EXPIRED
 */
export async function lockOpenSession(
  operation: WriteOperation,
  sessionId: string,
  field: string,
): Promise<BusyPolicy> {
  const [session] = await operation.query(lock, [operation.userId, sessionId]);
  if (session === undefined) {
    throw notFound('session', field);
  }
  checkOpen(session, field);
  return session.busyPolicy;
}

/** @throws DomainError SESSION_EXPIRED when a session takes no more messages */
export function checkOpen({ expired }: { expired: boolean }, field: string): void {
  if (expired) {
    throw new DomainError('SESSION_EXPIRED', 'The session has expired. Create a new one.', { field });
  }
}

/** Takes the next place in a session for its user's message. The session's row stays locked, so places follow the order of commits. */
export async function takePosition(operation: WriteOperation, sessionId: string): Promise<void> {
  const [row] = await operation.query(touch, [operation.userId, sessionId]);
  if (row === undefined) {
    throw notFound('session');
  }
}
