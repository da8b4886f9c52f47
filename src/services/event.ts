import { type Database, isPassingFault, statement } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import type { ReadOperation } from '../operation.ts';
import type { Delta, EventType, StoredEvent } from '../outbox.ts';

/** Why a stream ends that its reader did not leave. */
export type StreamEnd = 'SHUTDOWN' | 'TOKEN_EXPIRED' | 'TOO_SLOW';

/** What a reader of the event stream gets. */
export type StreamItem =
  | { kind: 'event'; cursor: string; event: StoredEvent }
  | { kind: 'delta'; cursor: string; delta: Delta }
  | { kind: 'heartbeat'; cursor: string }
  | { kind: 'history_lost'; cursor: string }
  | { kind: 'stream_ended'; cursor: string; reason: StreamEnd; reconnectAfter: number | null };

export interface EventFilter {
  sessionId: string | null;
  /** Empty for all. */
  types: ReadonlySet<EventType | 'message_delta'>;
}

/** How far a user's log goes, and up to where its beginning is gone. */
export interface LogPosition {
  last: number;
  trimmedThrough: number;
}

/** Events that are read from the log at once. */
export const logPage = 200;

const startOfLog = statement<{ last: number; trimmedThrough: number; running: Record<string, number> }>(`
  SELECT event_sequence::float8 AS last, events_trimmed_through::float8 AS "trimmedThrough", (
    SELECT coalesce(jsonb_object_agg(tasks.id, tasks.attempt), '{}') FROM tasks
    WHERE tasks.user_id = $1 AND tasks.id = ANY ($2::uuid[]) AND tasks.state = 'RUNNING'
  ) AS running
  FROM users WHERE id = $1`);
const page = statement<{ last: number; trimmedThrough: number; events: StoredEvent[] }>(`
  SELECT event_sequence::float8 AS last, events_trimmed_through::float8 AS "trimmedThrough", (
    SELECT coalesce(jsonb_agg(jsonb_build_object('sequence', page.sequence, 'type', page.type,
        'sessionId', page.session_id, 'data', page.data, 'at', extract(epoch FROM page.created_at) * 1000)
      ORDER BY page.sequence), '[]')
    FROM (
      SELECT * FROM events WHERE user_id = $1 AND sequence > greatest($2::bigint, users.events_trimmed_through)
      ORDER BY sequence LIMIT ${logPage}
    ) AS page
  ) AS events
  FROM users WHERE id = $1`);
const positions = statement<{ userId: string; last: number; trimmedThrough: number }>(`
  SELECT user_id AS "userId", last::float8 AS last, trimmed_through::float8 AS "trimmedThrough"
  FROM app.event_positions($1::uuid[])`);

/** The cursor of a place in a user's log. */
export function writeEventCursor(sequence: number): string {
  return Buffer.from(`event:${sequence}`).toString('base64url');
}

/** @throws DomainError BAD_CURSOR */
export function readEventCursor(cursor: string): number {
  const match = /^event:(\d{1,15})$/.exec(Buffer.from(cursor, 'base64url').toString('utf8'));
  if (match === null) {
    throw new DomainError('BAD_CURSOR', '`after` is not a cursor of the event stream.', { field: 'after' });
  }
  return Number(match[1]);
}

/** The end of the log, and which of those tasks run at that point, in which attempt. */
export async function readStartOfLog(
  operation: ReadOperation,
  taskIds: readonly string[],
): Promise<LogPosition & { running: Record<string, number> }> {
  const [row] = await operation.query(startOfLog, [operation.userId, taskIds]);
  return row ?? { last: 0, trimmedThrough: 0, running: {} };
}

/**
 * The events behind a place of the log, at most `logPage`, and the log's position at that moment: where its beginning is
 * gone beyond the place, they are those behind the gone part.
 */
export async function readLogPage(
  operation: ReadOperation,
  after: number,
): Promise<LogPosition & { events: StoredEvent[] }> {
  const [row] = await operation.query(page, [operation.userId, after]);
  return row ?? { last: 0, trimmedThrough: 0, events: [] };
}

/** The positions of many users' logs in one round trip: each is looked up as that user. */
export async function readLogPositions(
  database: Database,
  userIds: readonly string[],
): Promise<ReadonlyMap<string, LogPosition>> {
  const rows = await database.query(positions, [userIds]);
  return new Map(rows.map(({ userId, ...position }) => [userId, position]));
}

/** Whether a filter lets an event of that type and session through. */
export function wants(filter: EventFilter, type: EventType | 'message_delta', sessionId: string | null): boolean {
  return (
    (filter.sessionId === null || filter.sessionId === sessionId) && (filter.types.size === 0 || filter.types.has(type))
  );
}

/** Whether a fault says only that the database is away or busy, so that the same read may succeed later. */
export function willPass(error: unknown): boolean {
  return isPassingFault(error) || (error instanceof DomainError && error.code === 'SERVICE_BUSY');
}
