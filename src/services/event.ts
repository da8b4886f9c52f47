import { type Statement, statement } from '../adapters/postgres.ts';
import type { Channel } from '../adapters/redis.ts';
import { DomainError } from '../errors.ts';
import type { ReadOperation } from '../operation.ts';
import { type Delta, type EventType, type LiveMessage, liveTopic, type StoredEvent } from '../outbox.ts';

/** What a reader of the event stream gets. */
export type StreamItem =
  | { kind: 'event'; cursor: string; event: StoredEvent }
  | { kind: 'delta'; cursor: string; delta: Delta }
  | { kind: 'heartbeat'; cursor: string }
  | { kind: 'history_lost'; cursor: string };

export interface EventFilter {
  sessionId: string | null;
  /** Empty for all. */
  types: ReadonlySet<EventType | 'message_delta'>;
}

export interface FollowOptions {
  channel: Channel;
  /** Resume behind this cursor; null starts with what happens from now on. */
  after: string | null;
  filter: EventFilter;
  signal: AbortSignal;
  /** Milliseconds between heartbeats; each also looks into the log for what the live channel may have lost. */
  heartbeatInterval: number;
}

const logPage = 200;
/** Live messages that wait for a slow reader. Past that they are dropped and read from the log again. */
const waitingMessages = 1_000;

const position = statement<{ last: bigint; trimmedThrough: bigint }>(
  `SELECT event_sequence AS last, events_trimmed_through AS "trimmedThrough" FROM users WHERE id = $1`,
);
const page: Statement<StoredEvent & Record<string, unknown>> = statement(`
  SELECT sequence::float8 AS sequence, type, session_id AS "sessionId", data,
    (extract(epoch FROM created_at) * 1000)::float8 AS at
  FROM events WHERE user_id = $1 AND sequence > $2 ORDER BY sequence LIMIT ${logPage}`);

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

/** What arrived on the live channel since the reader last looked. */
class Mailbox {
  private waiting: LiveMessage[] = [];
  private overflowed = false;
  private wake: (() => void) | null = null;

  put(message: LiveMessage): void {
    if (this.waiting.length >= waitingMessages) {
      this.waiting = [];
      this.overflowed = true;
    } else {
      this.waiting.push(message);
    }
    this.wake?.();
  }

  /** All that arrived; `lost` when something was dropped and the log has to be read. */
  take(): { messages: LiveMessage[]; lost: boolean } {
    const taken = { messages: this.waiting, lost: this.overflowed };
    this.waiting = [];
    this.overflowed = false;
    return taken;
  }

  /** Resolves when something arrived, the time is over, or the signal fires. */
  async wait(milliseconds: number, signal: AbortSignal): Promise<void> {
    if (this.waiting.length > 0 || this.overflowed || signal.aborted) {
      return;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, Math.max(milliseconds, 0));
    const stop = () => resolve();
    this.wake = resolve;
    signal.addEventListener('abort', stop, { once: true });
    await promise;
    signal.removeEventListener('abort', stop);
    clearTimeout(timer);
    this.wake = null;
  }
}

/**
 * A user's events from a cursor on: first from the log, then live, each once and in order. The live channel may lose
 * messages; a gap in the sequence, or a heartbeat that finds the log ahead, is filled from the log.
 * @throws DomainError BAD_CURSOR, before the stream starts
 */
export async function followEvents(
  operation: ReadOperation,
  options: FollowOptions,
): Promise<AsyncGenerator<StreamItem>> {
  const wanted = options.after === null ? null : readEventCursor(options.after);
  const mailbox = new Mailbox();
  // Listening starts before the log is read: what is committed in between arrives twice and is passed over once.
  const unsubscribe = await options.channel.subscribe(liveTopic(operation.userId), (message) =>
    mailbox.put(message as LiveMessage),
  );
  // A reader that leaves before it read anything never enters the generator: the signal cleans up for it.
  options.signal.addEventListener('abort', unsubscribe, { once: true });
  try {
    const start = await readPosition(operation);
    if (wanted !== null && wanted > start.last) {
      throw new DomainError('BAD_CURSOR', '`after` lies ahead of your event log.', { field: 'after' });
    }
    return follow(operation, options, mailbox, start, wanted ?? start.last, unsubscribe);
  } catch (error) {
    unsubscribe();
    throw error;
  }
}

interface LogPosition {
  last: number;
  trimmedThrough: number;
}

async function* follow(
  operation: ReadOperation,
  options: FollowOptions,
  mailbox: Mailbox,
  start: LogPosition,
  after: number,
  unsubscribe: () => void,
): AsyncGenerator<StreamItem> {
  try {
    yield* followFrom(operation, options, mailbox, start, after);
  } finally {
    options.signal.removeEventListener('abort', unsubscribe);
    unsubscribe();
  }
}

async function* followFrom(
  operation: ReadOperation,
  options: FollowOptions,
  mailbox: Mailbox,
  start: LogPosition,
  after: number,
): AsyncGenerator<StreamItem> {
  const { signal, heartbeatInterval, filter } = options;
  let last = after;
  if (last < start.trimmedThrough) {
    last = start.trimmedThrough;
    yield { kind: 'history_lost', cursor: writeEventCursor(last) };
  }
  yield { kind: 'heartbeat', cursor: writeEventCursor(last) };
  let behind = last < start.last;
  let nextHeartbeat = performance.now() + heartbeatInterval;

  while (!signal.aborted) {
    while (behind && !signal.aborted) {
      const events = await operation.query(page, [operation.userId, last]);
      for (const event of events) {
        last = event.sequence;
        if (isWanted(filter, event)) {
          yield { kind: 'event', cursor: writeEventCursor(last), event };
        }
      }
      behind = events.length === logPage;
    }
    const { messages, lost } = mailbox.take();
    behind = lost;
    for (const message of messages) {
      if ('delta' in message) {
        if (wants(filter, 'message_delta', message.delta.sessionId)) {
          yield { kind: 'delta', cursor: writeEventCursor(last), delta: message.delta };
        }
        continue;
      }
      for (const event of message.events) {
        if (event.sequence === last + 1) {
          last = event.sequence;
          if (isWanted(filter, event)) {
            yield { kind: 'event', cursor: writeEventCursor(last), event };
          }
        } else if (event.sequence > last) {
          behind = true;
        }
      }
    }
    if (behind) {
      continue;
    }
    if (performance.now() >= nextHeartbeat) {
      yield { kind: 'heartbeat', cursor: writeEventCursor(last) };
      nextHeartbeat = performance.now() + heartbeatInterval;
      behind = (await readPosition(operation)).last > last;
      continue;
    }
    await mailbox.wait(nextHeartbeat - performance.now(), signal);
  }
}

async function readPosition(operation: ReadOperation): Promise<LogPosition> {
  const [row] = await operation.query(position, [operation.userId]);
  return { last: Number(row?.last ?? 0), trimmedThrough: Number(row?.trimmedThrough ?? 0) };
}

function isWanted(filter: EventFilter, event: StoredEvent): boolean {
  return wants(filter, event.type, event.sessionId);
}

function wants(filter: EventFilter, type: EventType | 'message_delta', sessionId: string | null): boolean {
  return (
    (filter.sessionId === null || filter.sessionId === sessionId) && (filter.types.size === 0 || filter.types.has(type))
  );
}
