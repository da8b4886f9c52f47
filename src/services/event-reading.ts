import type { StoredEvent } from '../outbox.ts';
import { endOf } from './answers-in-progress.ts';
import { type EventFilter, type StreamItem, wants, writeEventCursor } from './event.ts';
import type { EventFeed } from './event-feed.ts';

/**
 * One walk along a user's events: from a place of the log on, through what the feed holds, then live; each wanted event
 * once and in order, with the pieces of answers where they belong between them.
 */
export class EventWalk {
  /** Everything up to here was given or is not wanted. */
  position: number;
  private readonly feed: EventFeed;
  private readonly filter: EventFilter;
  private page: StoredEvent[] = [];
  /** How much of each answer was given. */
  private readonly given = new Map<string, { generation: number; end: number }>();

  constructor(feed: EventFeed, filter: EventFilter, position: number) {
    this.feed = feed;
    this.filter = filter;
    this.position = position;
  }

  /** Whether there is nothing in the log that it has not passed. */
  get isAtEnd(): boolean {
    return this.position >= this.feed.last;
  }

  /** The next item, or null when there is none by now. @throws what keeps the feed from going on */
  async next(): Promise<StreamItem | null> {
    for (;;) {
      if (this.feed.fault !== null) {
        throw this.feed.fault.error;
      }
      const piece = this.nextPiece();
      if (piece !== null || this.isAtEnd) {
        return piece;
      }
      const event = this.feed.heldEvent(this.position + 1) ?? (await this.nextOfPage());
      if (event === null) {
        continue;
      }
      if (event === 'lost') {
        return { kind: 'history_lost', cursor: writeEventCursor(this.position) };
      }
      this.position = event.sequence;
      if (wants(this.filter, event.type, event.sessionId)) {
        return { kind: 'event', cursor: writeEventCursor(this.position), event };
      }
    }
  }

  /** What was given so far of the answers that are being written: for a reader who joins the walk here. */
  textsSoFar(): StreamItem[] {
    const items: StreamItem[] = [];
    for (const answer of this.feed.answers) {
      const given = this.given.get(answer.messageId);
      const isOpen = answer.ended === null || this.position < answer.ended;
      if (isOpen && given?.generation === answer.generation && given.end > answer.base) {
        const text = answer.text.slice(0, given.end - answer.base);
        const { base: offset } = answer;
        items.push({ kind: 'delta', cursor: writeEventCursor(this.position), delta: { ...answer, offset, text } });
      }
    }
    return items;
  }

  private nextPiece(): StreamItem | null {
    if (this.given.size > this.feed.answers.size * 2 + 8) {
      this.forgetOld();
    }
    for (const answer of this.feed.answers) {
      const isHere = answer.began <= this.position && (answer.ended === null || this.position < answer.ended);
      if (!isHere || !wants(this.filter, 'message_delta', answer.sessionId)) {
        continue;
      }
      const given = this.given.get(answer.messageId);
      const offset = given?.generation === answer.generation ? Math.max(given.end, answer.base) : answer.base;
      const end = endOf(answer);
      if (offset < end) {
        this.given.set(answer.messageId, { generation: answer.generation, end });
        const text = answer.text.slice(offset - answer.base);
        return { kind: 'delta', cursor: writeEventCursor(this.position), delta: { ...answer, offset, text } };
      }
    }
    return null;
  }

  private async nextOfPage(): Promise<StoredEvent | 'lost' | null> {
    const next = this.page.shift();
    if (next !== undefined) {
      return next.sequence > this.position ? next : null;
    }
    const end = this.feed.last;
    const { events, trimmedThrough } = await this.feed.readPage(this.position);
    if (trimmedThrough > this.position) {
      this.position = trimmedThrough;
      this.page = events;
      return 'lost';
    }
    this.page = events;
    if (events.length === 0) {
      // What was there is gone, with its session or by its age: there is nothing up to the end.
      this.position = Math.max(this.position, end);
    }
    return null;
  }

  private forgetOld(): void {
    const open = new Set([...this.feed.answers].map((answer) => answer.messageId));
    for (const messageId of this.given.keys()) {
      if (!open.has(messageId)) {
        this.given.delete(messageId);
      }
    }
  }
}

/**
 * A reader's request, checked and bound to its user's feed: where it begins and what it wants. It holds the feed open
 * until it is closed.
 */
export class EventReading implements AsyncIterable<StreamItem> {
  readonly feed: EventFeed;
  readonly filter: EventFilter;
  /** Where it begins. */
  readonly start: number;
  private release: (() => void) | null;
  private wake: () => void = () => undefined;

  constructor(feed: EventFeed, filter: EventFilter, start: number, release: () => void) {
    this.feed = feed;
    this.filter = filter;
    this.start = start;
    this.release = release;
  }

  walkFrom(position: number): EventWalk {
    return new EventWalk(this.feed, this.filter, position);
  }

  close(): void {
    this.release?.();
    this.release = null;
    this.wake();
  }

  /** All items, for a reader of its own; ends with the reading. */
  async *[Symbol.asyncIterator](): AsyncGenerator<StreamItem> {
    const walk = this.walkFrom(this.start);
    const stopListening = this.feed.onChange(() => this.wake());
    try {
      while (this.release !== null) {
        const { promise, resolve } = Promise.withResolvers<void>();
        this.wake = resolve;
        const item = await walk.next();
        if (item === null) {
          await promise;
        } else {
          yield item;
        }
      }
    } finally {
      stopListening();
      this.close();
    }
  }
}
