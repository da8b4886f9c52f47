import { setTimeout as sleep } from 'node:timers/promises';
import { type StreamEnd, type StreamItem, writeEventCursor } from '../services/event.ts';
import type { EventFeed } from '../services/event-feed.ts';
import type { EventWalk } from '../services/event-reading.ts';
import type { Connection } from './connection.ts';
import type { StreamCounts } from './counts.ts';
import { type Frame, nextFrame, openingFrame, retryFrame } from './frame.ts';

/** What one execution of a subscription came to. */
export interface Executed {
  /** The result as JSON. */
  text: string;
  /** False when the result says nothing but that it failed: a reader must not go on behind it. */
  hasData: boolean;
}

export type Execute = (item: StreamItem) => Promise<Executed>;

/** A reader on its way into a delivery. */
export interface Joiner {
  connection: Connection;
  /** It has everything up to here. */
  from: number;
  /** What it has to be told first: nothing when it comes from another delivery. */
  greeting: 'new' | 'history_lost' | 'none';
}

export interface DeliveryOptions {
  feed: EventFeed;
  walk: EventWalk;
  execute: Execute;
  counts: StreamCounts;
  /** Finds another place for a reader that this delivery can't serve without a gap. */
  place: (joiner: Joiner) => void;
  /** Called after each item: readers may be handed over to another delivery that is as far. */
  delivered: (delivery: Delivery) => void;
  emptied: (delivery: Delivery) => void;
  /** What a fault of the feed or of an execution is told as. */
  describeFault: (error: unknown) => string;
}

/** Frames of the newest events that are kept for readers who come back a little behind. */
const keptBytes = 65_536;
const keptFor = 10_000;
/** Bytes that wait for every reader before the next item is fetched, and how long that may last in milliseconds. */
const enoughWaiting = 65_536;
const longestWait = 10_000;
const waitStep = 20;

/**
 * One walk along the events and all connections that stand at its place: each item is executed once, and the same bytes
 * are written to every connection.
 */
export class Delivery {
  private readonly options: DeliveryOptions;
  private readonly connections = new Set<Connection>();
  private joining: Joiner[] = [];
  /** Those who are being told what they are owed right now. */
  private admitting: readonly Joiner[] = [];
  private kept: { sequence: number; frame: Frame; at: number }[] = [];
  private keptSize = 0;
  /** Frames of all wanted events behind this place are kept. */
  private keptFrom: number;
  /** Every connection has everything up to here. */
  private done: number;
  private readonly stopListening: () => void;
  private isRunning = false;
  private isAsked = false;
  private isBeatDue = false;
  private isClosed = false;

  constructor(options: DeliveryOptions) {
    this.options = options;
    this.keptFrom = options.walk.position;
    this.done = options.walk.position;
    this.stopListening = options.feed.onChange(() => this.wake());
  }

  /** How far it has come. */
  get position(): number {
    return this.done;
  }

  /** Whether a reader from that place can be served from what is kept and what comes. */
  covers(from: number): boolean {
    return !this.isClosed && this.keptFrom <= from;
  }

  join(joiner: Joiner): void {
    this.joining.push(joiner);
    this.wake();
  }

  /** Takes a reader out; false when it is not here. */
  leave(connection: Connection): boolean {
    const wasJoining = this.joining.some((joiner) => joiner.connection === connection);
    if (wasJoining) {
      this.joining = this.joining.filter((joiner) => joiner.connection !== connection);
    }
    const was = this.connections.delete(connection) || wasJoining;
    this.closeIfEmpty();
    return was;
  }

  /** Lets a heartbeat follow what there is to tell. */
  beat(): void {
    this.isBeatDue = true;
    this.wake();
  }

  /** Hands all readers over to another delivery, which has come at least as far. */
  moveTo(other: Delivery): void {
    for (const connection of this.connections) {
      other.join({ connection, from: Math.max(this.done, connection.start), greeting: 'none' });
    }
    for (const joiner of this.joining) {
      other.join(joiner);
    }
    this.connections.clear();
    this.joining = [];
    this.closeIfEmpty();
  }

  /** Ends streams whose tokens ended, and lets go of what was kept for long. */
  tidy(now: number): void {
    const expired = [...this.connections].filter((connection) => connection.expiresAt <= now);
    if (expired.length > 0) {
      void this.dismiss(expired, 'TOKEN_EXPIRED', this.done);
    }
    const monotonic = performance.now();
    while (this.kept[0] !== undefined && monotonic - this.kept[0].at > keptFor) {
      this.dropOldest();
    }
  }

  /** Ends all streams with a place to resume from. */
  async end(reason: StreamEnd, reconnectAfter: number): Promise<void> {
    const all = this.everyone();
    this.joining = [];
    await this.dismiss(all, reason, this.done, reconnectAfter);
  }

  private wake(): void {
    this.isAsked = true;
    if (!this.isRunning && !this.isClosed) {
      this.isRunning = true;
      void this.run();
    }
  }

  private async run(): Promise<void> {
    const { walk } = this.options;
    try {
      while (!this.isClosed) {
        this.isAsked = false;
        if (this.joining.length > 0) {
          await this.admit();
        }
        if (!(await this.hasRoom())) {
          await this.dismiss([...this.connections], 'TOO_SLOW', this.done);
          continue;
        }
        const item = await walk.next();
        if (item !== null) {
          await this.deliver(item);
          this.options.delivered(this);
          continue;
        }
        this.done = walk.position;
        if (this.isBeatDue) {
          this.isBeatDue = false;
          await this.deliver({ kind: 'heartbeat', cursor: writeEventCursor(this.done) });
        } else if (!this.isAsked && this.joining.length === 0) {
          break;
        }
      }
    } catch (error) {
      this.breakOff(nextFrame(this.options.describeFault(error), writeEventCursor(this.done)));
    } finally {
      this.isRunning = false;
    }
  }

  /** Tells newcomers what they are owed, each once for all who are owed the same. */
  private async admit(): Promise<void> {
    this.admitting = this.joining;
    this.joining = [];
    const told = new Map<string, Frame>();
    const tell = async (item: StreamItem): Promise<Frame> => {
      const key = `${item.kind} ${item.cursor}`;
      const frame = told.get(key) ?? (await this.encode(item)).frame;
      told.set(key, frame);
      return frame;
    };
    const texts: Frame[] = [];
    for (const item of this.options.walk.textsSoFar()) {
      texts.push((await this.encode(item)).frame);
    }
    for (const joiner of this.admitting) {
      const { connection, from, greeting } = joiner;
      if (from < this.keptFrom) {
        this.options.place(joiner);
        continue;
      }
      const cursor = writeEventCursor(from);
      const frames = greeting === 'none' ? [] : [openingFrame];
      if (greeting === 'history_lost') {
        frames.push(await tell({ kind: 'history_lost', cursor }));
      }
      if (greeting !== 'none') {
        frames.push(await tell({ kind: 'heartbeat', cursor }));
      }
      const missed = this.kept.filter((kept) => kept.sequence > from).map((kept) => kept.frame);
      this.options.counts.delivered += missed.length;
      connection.begin([...frames, ...missed, ...texts]);
      if (connection.isOpen) {
        this.connections.add(connection);
      }
    }
    this.admitting = [];
    this.closeIfEmpty();
  }

  private everyone(): Connection[] {
    return [...this.connections, ...[...this.joining, ...this.admitting].map((joiner) => joiner.connection)];
  }

  private async deliver(item: StreamItem): Promise<void> {
    const { counts, walk } = this.options;
    const { frame, hasData } = await this.encode(item);
    if (!hasData) {
      this.breakOff(frame);
      return;
    }
    const sequence = item.kind === 'event' ? item.event.sequence : null;
    const before = sequence === null ? this.done : sequence - 1;
    const now = Date.now();
    const slow: Connection[] = [];
    const expired: Connection[] = [];
    let delivered = 0;
    for (const connection of this.connections) {
      if (connection.expiresAt <= now) {
        expired.push(connection);
      } else if (sequence === null || sequence > connection.start) {
        if (connection.write(frame)) {
          delivered += 1;
        } else {
          slow.push(connection);
        }
      }
    }
    counts.delivered += delivered;
    counts.deliveredBytes += delivered * frame.plain.length;
    if (sequence !== null) {
      this.keep(sequence, frame);
      if (item.kind === 'event' && walk.isAtEnd) {
        counts.lag.observe(now - item.event.at);
      }
    }
    if (item.kind === 'history_lost') {
      this.forgetKept(walk.position);
    }
    if (expired.length > 0) {
      await this.dismiss(expired, 'TOKEN_EXPIRED', before);
    }
    if (slow.length > 0) {
      await this.dismiss(slow, 'TOO_SLOW', before);
    }
    this.done = walk.position;
  }

  private async encode(item: StreamItem): Promise<{ frame: Frame; hasData: boolean }> {
    this.options.counts.executed += 1;
    const { text, hasData } = await this.options.execute(item);
    // Whoever comes back by the id of a failure must get what failed.
    return { frame: nextFrame(text, hasData ? item.cursor : writeEventCursor(this.done)), hasData };
  }

  /** Ends some streams with the place behind which their readers resume. They get nothing else from now on. */
  private async dismiss(
    connections: readonly Connection[],
    reason: StreamEnd,
    place: number,
    reconnectAfter: number | null = null,
  ): Promise<void> {
    for (const connection of connections) {
      this.connections.delete(connection);
    }
    if (reason === 'TOO_SLOW') {
      this.options.counts.dropped += connections.length;
    }
    const retry = reconnectAfter === null ? [] : [retryFrame(reconnectAfter)];
    const frames = new Map<number, Frame>();
    for (const connection of connections) {
      const last = Math.max(place, connection.start);
      const item: StreamItem = { kind: 'stream_ended', cursor: writeEventCursor(last), reason, reconnectAfter };
      const frame = frames.get(last) ?? (await this.encode(item)).frame;
      frames.set(last, frame);
      connection.end([...retry, frame]);
    }
    this.closeIfEmpty();
  }

  /** Ends all streams at once with a result that tells why. Their readers resume behind what they have. */
  private breakOff(frame: Frame): void {
    const all = this.everyone();
    this.connections.clear();
    this.joining = [];
    for (const connection of all) {
      connection.end([frame]);
    }
    this.closeIfEmpty();
  }

  /** Waits while every reader has enough to take in. @returns false when that lasted too long */
  private async hasRoom(): Promise<boolean> {
    const start = performance.now();
    while (this.connections.size > 0 && this.joining.length === 0 && this.areAllBusy()) {
      if (performance.now() - start > longestWait) {
        return false;
      }
      await sleep(waitStep);
    }
    return true;
  }

  private areAllBusy(): boolean {
    for (const connection of this.connections) {
      if (connection.backlog <= enoughWaiting) {
        return false;
      }
    }
    return true;
  }

  private keep(sequence: number, frame: Frame): void {
    this.kept.push({ sequence, frame, at: performance.now() });
    this.keptSize += frame.chunk.length;
    while (this.keptSize > keptBytes) {
      this.dropOldest();
    }
  }

  private dropOldest(): void {
    const oldest = this.kept.shift();
    if (oldest !== undefined) {
      this.keptSize -= oldest.frame.chunk.length;
      this.keptFrom = oldest.sequence;
    }
  }

  private forgetKept(position: number): void {
    this.kept = [];
    this.keptSize = 0;
    this.keptFrom = position;
  }

  private closeIfEmpty(): void {
    if (!this.isClosed && this.connections.size + this.joining.length + this.admitting.length === 0) {
      this.isClosed = true;
      this.stopListening();
      this.options.emptied(this);
    }
  }
}
