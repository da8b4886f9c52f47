import type { Database } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import { type EventFilter, readEventCursor, readLogPositions } from './event.ts';
import { EventFeed, type FeedCounts, type FeedResources } from './event-feed.ts';
import { EventReading } from './event-reading.ts';

/** What a reader asks for. */
export interface ReadingRequest {
  /** Resume behind this cursor; null starts with what happens from now on. */
  after: string | null;
  filter: EventFilter;
}

interface OpenFeed {
  feed: EventFeed;
  started: Promise<void>;
  readings: number;
}

/** Logs that are looked into in one round trip. */
const checkedAtOnce = 500;
/** Milliseconds after a lost channel came back in which senders may still be without it. */
const restoring = 10_000;

/** The feeds of this process: one per user with readers, and none for users without. */
export class EventFeeds {
  readonly counts: FeedCounts = { catchUpReads: 0 };
  private readonly resources: FeedResources & { database: Database };
  private readonly open = new Map<string, OpenFeed>();
  private restoredAt = Number.NEGATIVE_INFINITY;
  private readonly stopListening: () => void;

  constructor(resources: FeedResources & { database: Database }) {
    this.resources = resources;
    this.stopListening = resources.channel.onRestored(() => {
      this.restoredAt = performance.now();
      this.check([...this.open.keys()]).catch(() => undefined);
    });
  }

  /** Users with readers. */
  get size(): number {
    return this.open.size;
  }

  /** Whether live messages may be missing, so that the log has to be looked at more often. */
  get needsLog(): boolean {
    return this.resources.channel.status() !== 'connected' || performance.now() - this.restoredAt < restoring;
  }

  /**
   * Begins to read a user's events. The reading holds the feed open until it is closed.
   * @throws DomainError BAD_CURSOR
   */
  async read(userId: string, { after, filter }: ReadingRequest): Promise<EventReading> {
    const wanted = after === null ? null : readEventCursor(after);
    const entry = this.hold(userId);
    const { feed } = entry;
    try {
      await entry.started;
      if (wanted !== null && wanted > feed.last) {
        // Another process may have told its reader of something that this one has not heard of yet.
        await this.check([userId]);
        if (wanted > feed.last) {
          throw new DomainError('BAD_CURSOR', '`after` lies ahead of your event log.', { field: 'after' });
        }
      }
      return new EventReading(feed, filter, wanted ?? feed.last, () => this.letGo(entry));
    } catch (error) {
      this.letGo(entry);
      throw error;
    }
  }

  /**
   * Looks how far the logs of these users go, and lets their feeds catch up.
   * @throws the database's fault
   */
  async check(userIds: readonly string[]): Promise<void> {
    for (let start = 0; start < userIds.length; start += checkedAtOnce) {
      const positions = await readLogPositions(this.resources.database, userIds.slice(start, start + checkedAtOnce));
      for (const [userId, position] of positions) {
        this.open.get(userId)?.feed.hear(position);
      }
    }
    await Promise.all(userIds.map((userId) => this.open.get(userId)?.feed.caughtUp()));
  }

  /** Ends what these users' readers hang on, with the reason. */
  fail(userIds: readonly string[], error: unknown): void {
    for (const userId of userIds) {
      this.open.get(userId)?.feed.fail(error);
    }
  }

  close(): void {
    this.stopListening();
    for (const { feed } of this.open.values()) {
      feed.close();
    }
    this.open.clear();
  }

  private hold(userId: string): OpenFeed {
    let entry = this.open.get(userId);
    if (entry === undefined || entry.feed.fault !== null) {
      const feed = new EventFeed(this.resources, this.counts, userId);
      entry = { feed, started: feed.start(), readings: 0 };
      // Whoever waits for it hears of a failure.
      entry.started.catch((error: unknown) => feed.fail(error));
      this.open.set(userId, entry);
    }
    entry.readings += 1;
    return entry;
  }

  private letGo(entry: OpenFeed): void {
    entry.readings -= 1;
    if (entry.readings === 0) {
      entry.feed.close();
      if (this.open.get(entry.feed.userId) === entry) {
        this.open.delete(entry.feed.userId);
      }
    }
  }
}
