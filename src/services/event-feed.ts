import type { Channel } from '../adapters/redis.ts';
import type { Operation } from '../operation.ts';
import { type Delta, type LiveMessage, liveTopic, readDrafts, type StoredEvent } from '../outbox.ts';
import { AnswersInProgress } from './answers-in-progress.ts';
import { type LogPosition, logPage, readLogPage, readStartOfLog, willPass } from './event.ts';

/** What feeds need to work. */
export interface FeedResources {
  channel: Channel;
  openOperation: (userId: string) => Operation;
}

/** What a process's feeds did so far. */
export interface FeedCounts {
  /** Pages read from the log, to fill a gap of the live channel or for a reader that resumed behind it. */
  catchUpReads: number;
}

/** Events that a feed holds for readers who are a little behind; the rest is in the log. */
const heldEvents = 256;
/** Milliseconds that an event is held at most. */
const heldFor = 10_000;
/** Milliseconds to wait for the live channel before the log alone must do. */
const subscribeDeadline = 1_000;
const firstPause = 100;
const longestPause = 2_000;

/**
 * The events of one user as this process hears of them, for all the user's readers: in the order of the log, each once,
 * without a gap. What the live channel loses is read from the log. Readers pull; a slow one holds up nobody.
 */
export class EventFeed {
  readonly userId: string;
  readonly answers = new AnswersInProgress();
  /** Everything up to here has been heard of. */
  last = 0;
  /** Everything up to here is gone from the log. */
  trimmedThrough = 0;
  /** Why the feed can't go on; its readers end with it. */
  fault: { error: unknown } | null = null;
  private readonly resources: FeedResources;
  private readonly counts: FeedCounts;
  private readonly listeners = new Set<() => void>();
  private held: { event: StoredEvent; heardAt: number }[] = [];
  /** The newest event that is known to exist. */
  private target = 0;
  private filling: Promise<void> | null = null;
  private started = false;
  private closed = false;
  private wakeUp: (() => void) | null = null;
  private unsubscribe: () => void = () => undefined;

  constructor(resources: FeedResources, counts: FeedCounts, userId: string) {
    this.resources = resources;
    this.counts = counts;
    this.userId = userId;
  }

  /** Listens to the live channel, then finds the end of the log: what is committed in between is heard of. */
  async start(): Promise<void> {
    await this.listen();
    const drafts = await this.readDrafts();
    const start = await this.read((operation) =>
      readStartOfLog(
        operation.read,
        drafts.map((draft) => draft.taskId),
      ),
    );
    this.last = start.last;
    this.trimmedThrough = start.trimmedThrough;
    // A draft whose writer is gone would never end.
    const living = drafts.filter((draft) => start.running[draft.taskId] === draft.attempt);
    this.started = true;
    this.answers.begin(living, this.last);
    this.hear({ last: this.target, trimmedThrough: start.trimmedThrough });
  }

  /** Calls the listener whenever there may be something new; the returned function ends that. */
  onChange(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  /** How far the log goes, as somebody else found out. */
  hear(position: LogPosition): void {
    this.trimmedThrough = Math.max(this.trimmedThrough, position.trimmedThrough);
    this.target = Math.max(this.target, position.last);
    if (this.started && this.target > this.last && this.filling === null && !this.closed) {
      this.filling = this.fill().finally(() => {
        this.filling = null;
      });
    }
  }

  /** Resolves when all that is known to exist has been heard of. */
  async caughtUp(): Promise<void> {
    while (this.filling !== null) {
      await this.filling;
    }
  }

  /** The event at that place, or null when it is no longer (or not yet) held. */
  heldEvent(sequence: number): StoredEvent | null {
    const first = this.held[0];
    return first === undefined ? null : (this.held[sequence - first.event.sequence]?.event ?? null);
  }

  /** A page of the log behind a place, as far as the feed has come. */
  async readPage(after: number): Promise<LogPosition & { events: StoredEvent[] }> {
    this.counts.catchUpReads += 1;
    const found = await this.read((operation) => readLogPage(operation.read, after));
    this.hear(found);
    return { ...found, events: found.events.filter((event) => event.sequence <= this.last) };
  }

  /** Lets go of what was held for long. */
  tidy(now: number): void {
    const keep = this.held.findIndex(({ heardAt }) => now - heardAt < heldFor);
    this.held = keep < 0 ? [] : this.held.slice(keep);
    this.answers.tidy(now);
  }

  fail(error: unknown): void {
    this.fault ??= { error };
    this.changed();
  }

  close(): void {
    this.closed = true;
    this.wakeUp?.();
    this.unsubscribe();
    this.listeners.clear();
  }

  private async listen(): Promise<void> {
    const topic = liveTopic(this.userId);
    const subscribed = this.resources.channel
      .subscribe(topic, (message) => this.receive(message as LiveMessage))
      .then(
        (unsubscribe) => {
          if (this.closed) {
            unsubscribe();
            return;
          }
          this.unsubscribe = unsubscribe;
        },
        // The channel is being closed: the log goes on without it.
        () => undefined,
      );
    const late = Promise.withResolvers<void>();
    const isAway = this.resources.channel.status() === 'disconnected';
    const timer = setTimeout(late.resolve, isAway ? 0 : subscribeDeadline);
    await Promise.race([subscribed, late.promise]);
    clearTimeout(timer);
  }

  private receive(message: LiveMessage): void {
    if ('delta' in message) {
      if (this.answers.add(message.delta, this.last) === 'gap') {
        void this.readDraftsAgain();
      }
      this.changed();
      return;
    }
    for (const event of message.events) {
      if (this.started && this.filling === null && event.sequence === this.last + 1) {
        this.target = Math.max(this.target, event.sequence);
        this.accept(event);
      } else {
        this.hear({ last: event.sequence, trimmedThrough: 0 });
      }
    }
    this.changed();
  }

  private accept(event: StoredEvent): void {
    if (this.held.at(-1)?.event.sequence !== event.sequence - 1) {
      this.held = [];
    }
    this.last = event.sequence;
    const now = performance.now();
    this.held.push({ event, heardAt: now });
    if (this.held.length > heldEvents * 2) {
      this.held = this.held.slice(-heldEvents);
    }
    this.answers.end(event, now);
  }

  private async fill(): Promise<void> {
    try {
      while (!this.closed && this.last < this.target) {
        const wanted = this.target;
        const { events, last, trimmedThrough } = await this.read((operation) => readLogPage(operation.read, this.last));
        this.counts.catchUpReads += 1;
        if (trimmedThrough > this.last) {
          this.trimmedThrough = trimmedThrough;
          this.last = trimmedThrough;
          this.held = [];
        }
        for (const event of events) {
          this.accept(event);
        }
        if (events.length < logPage) {
          this.last = Math.max(this.last, last);
          // What was heard of before and is not here is no event of this log.
          this.target = this.target === wanted ? this.last : this.target;
        }
        this.changed();
      }
    } catch (error) {
      this.fail(error);
    }
  }

  private async readDraftsAgain(): Promise<void> {
    this.answers.begin(await this.readDrafts(), this.last);
    this.changed();
  }

  /** A draft that can't be read is a text that comes a little later, as a whole. */
  private readDrafts(): Promise<Delta[]> {
    return readDrafts(this.resources.channel, this.userId).catch(() => []);
  }

  /** Reads as the user. While Postgres is away it is tried again, as long as the feed has readers. */
  private async read<Result>(work: (operation: Operation) => Promise<Result>): Promise<Result> {
    for (let pause = firstPause; ; pause = Math.min(pause * 2, longestPause)) {
      const operation = this.resources.openOperation(this.userId);
      try {
        return await work(operation);
      } catch (error) {
        if (this.closed || !this.started || !willPass(error)) {
          throw error;
        }
      } finally {
        await operation.close();
      }
      await this.pause(pause);
    }
  }

  private async pause(milliseconds: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, milliseconds);
    this.wakeUp = resolve;
    await promise;
    this.wakeUp = null;
    clearTimeout(timer);
  }

  private changed(): void {
    for (const listener of this.listeners) {
      listener();
    }
  }
}
