import { statement, type Transaction } from './adapters/postgres.ts';
import type { Channel } from './adapters/redis.ts';

/** What happened, as it is written to the log. Ids only: names and texts are read when the event is delivered. */
export type NewEvent =
  | { type: 'direct_agent_call'; sessionId: string; taskId: string; agentId: string; messageId: string }
  | { type: 'agent_status_changed'; agentId: string; status: 'READY' | 'BUSY' | 'ERROR' }
  | { type: 'task_started'; sessionId: string | null; taskId: string; attempt: number }
  | { type: 'task_completed'; sessionId: string | null; taskId: string }
  | { type: 'task_failed'; sessionId: string | null; taskId: string; code: string; willRetry: boolean }
  | { type: 'task_progress'; sessionId: string | null; taskId: string; progress: number; note: string }
  | { type: 'task_cancelled'; sessionId: string | null; taskId: string }
  | { type: 'task_skipped'; sessionId: string | null; taskId: string }
  | { type: 'approval_required'; sessionId: string; approvalId: string }
  | { type: 'tool_request'; sessionId: string; taskId: string; approvalId: string }
  | { type: 'plan_request'; sessionId: string; taskId: string; planId: string; approvalId: string }
  | {
      type: 'approval_resolved';
      sessionId: string;
      approvalId: string;
      state: 'APPROVED' | 'REJECTED' | 'EXPIRED' | 'CANCELLED';
    }
  | { type: 'planning_started'; sessionId: string; planId: string; taskId: string }
  | { type: 'task_plan_created'; sessionId: string; planId: string; fallbackReason: string | null }
  | { type: 'plan_retried'; sessionId: string; planId: string }
  | {
      type: 'plan_ended';
      sessionId: string;
      planId: string;
      state: 'COMPLETED' | 'FAILED' | 'CANCELLED' | 'REJECTED' | 'EXPIRED';
    }
  | { type: 'ingest_progress'; sessionId: null; taskId: string; agentId: string; pending: number }
  | {
      type: 'context_retrieved';
      sessionId: string | null;
      taskId: string;
      agentId: string;
      matches: number;
      degraded: boolean;
    }
  | { type: 'message_created'; sessionId: string; messageId: string };

export type EventType = NewEvent['type'];

/** An event of the log. `sequence` counts per user, from 1, without a gap. */
export interface StoredEvent {
  sequence: number;
  type: EventType;
  sessionId: string | null;
  data: Record<string, unknown>;
  /** Milliseconds since the epoch. */
  at: number;
}

/** Which writing of an answer: each attempt at its task, and each call of the model in it, begins the text anew. */
export interface Writing {
  sessionId: string;
  messageId: string;
  taskId: string;
  /** Attempt at the task, and step of that attempt: a later writing takes the place of an earlier one. */
  attempt: number;
  step: number;
}

/** A piece of an answer while it is being written. Not logged: the whole text follows as a message. */
export interface Delta extends Writing {
  /** Place of `text` in the answer, in UTF-16 code units; 0 starts the answer anew. */
  offset: number;
  text: string;
}

/** A piece as it is kept for newcomers. */
type Piece = Pick<Delta, 'attempt' | 'step' | 'offset' | 'text'>;

/** What travels on a user's live channel. */
export type LiveMessage = { events: StoredEvent[] } | { delta: Delta };

/**
 * Most bytes of an event's data as JSON. Events carry ids: what they tell of is read when they are delivered, so that
 * large content never passes through the log.
 */
export const maximumEventBytes = 8_192;
/** Most UTF-16 code units of an answer in the making that a new reader is given; the whole follows as a message. */
const longestDraft = 262_144;

/** The live channel of one user. Its name holds the user's id, so that no other user's reader can share it. */
export function liveTopic(userId: string): string {
  return `user:${userId}:live`;
}

const append = statement<{ sequence: bigint; at: Date }>(`
  WITH place AS (
    UPDATE users SET event_sequence = event_sequence + cardinality($2::text[]) WHERE id = $1
    RETURNING event_sequence - cardinality($2::text[]) AS base
  )
  INSERT INTO events (user_id, sequence, type, session_id, data)
  SELECT $1, place.base + item.place, item.type, item.session_id, item.data
  FROM unnest($2::text[], $3::uuid[], $4::jsonb[]) WITH ORDINALITY AS item (type, session_id, data, place)
  -- Without the user's row the sequence is null, which the table refuses: no event is left out in silence.
  LEFT JOIN place ON true
  RETURNING sequence, created_at AS at`);

/** An event as it will be stored. */
export interface DescribedEvent {
  type: EventType;
  sessionId: string | null;
  data: Record<string, unknown>;
  /** `data` as JSON. */
  text: string;
}

/**
 * Makes an event ready to be stored. Call it when the event is told, not at the commit: what it throws must come in time.
 * @throws Error when the event is larger than `maximumEventBytes`
 */
export function describeEvent({ type, ...rest }: NewEvent): DescribedEvent {
  const { sessionId = null, ...data } = rest as { sessionId?: string | null } & Record<string, unknown>;
  const text = JSON.stringify(data);
  const bytes = Buffer.byteLength(text);
  if (bytes > maximumEventBytes) {
    throw new Error(`an event of type ${type} has ${bytes} bytes of data: let it name what is large by id`);
  }
  return { type, sessionId, data, text };
}

/**
 * Appends events to the user's log. The user's row stays locked until the commit, which is what keeps the sequence in
 * the order of commits: call it last in a transaction.
 */
export async function appendEvents(
  transaction: Transaction,
  userId: string,
  events: readonly DescribedEvent[],
): Promise<StoredEvent[]> {
  if (events.length === 0) {
    return [];
  }
  const rows = await transaction.query(append, [
    userId,
    events.map((event) => event.type),
    events.map((event) => event.sessionId),
    events.map((event) => event.text),
  ]);
  const first = rows.reduce((least, row) => Math.min(least, Number(row.sequence)), Number.POSITIVE_INFINITY);
  return events.map(({ text: _text, ...event }, place) => ({
    ...event,
    sequence: first + place,
    at: rows[0]?.at.getTime() ?? 0,
  }));
}

/** Tells live readers of committed events. */
export function publishEvents(channel: Channel, userId: string, events: StoredEvent[]): void {
  if (events.length > 0) {
    channel.publish(liveTopic(userId), { events } satisfies LiveMessage);
  }
}

/** Tells live readers of the next piece of an answer, and keeps it for those who come while it is being written. */
export function publishDelta(channel: Channel, userId: string, delta: Delta): void {
  const { offset, text, ...writing } = delta;
  // First, so that whoever hears of a piece also finds the ones before it.
  if (offset + text.length <= longestDraft) {
    channel.drafts.add(userId, {
      name: delta.messageId,
      about: writing,
      piece: { attempt: delta.attempt, step: delta.step, offset, text } satisfies Piece,
      first: offset === 0,
    });
  } else if (offset <= longestDraft) {
    channel.drafts.forget(userId, delta.messageId);
  }
  channel.publish(liveTopic(userId), { delta } satisfies LiveMessage);
}

/** Forgets the pieces of an answer that is no longer being written. */
export function forgetDeltas(channel: Channel, userId: string, messageId: string): void {
  channel.drafts.forget(userId, messageId);
}

/** The answers in the making of which pieces are kept, each with its text so far. */
export async function readDrafts(channel: Channel, userId: string): Promise<Delta[]> {
  const drafts = await channel.drafts.read(userId);
  return drafts.flatMap(({ about, pieces }) => {
    const { attempt, step } = about as Writing;
    let text = '';
    for (const piece of pieces as Piece[]) {
      if (piece.offset > text.length || piece.attempt !== attempt || piece.step !== step) {
        // One is missing, or the first of another writing is: the pieces that follow have no place.
        return [];
      }
      text = text.slice(0, piece.offset) + piece.text;
    }
    return text === '' ? [] : [{ ...(about as Writing), offset: 0, text }];
  });
}
