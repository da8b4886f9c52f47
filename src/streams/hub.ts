import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { DomainError } from '../errors.ts';
import { willPass } from '../services/event.ts';
import type { EventFeeds } from '../services/event-feeds.ts';
import type { EventReading } from '../services/event-reading.ts';
import { Connection, type ConnectionLimits } from './connection.ts';
import { newCounts, type StreamStats } from './counts.ts';
import type { Execute } from './delivery.ts';
import { Group } from './group.ts';

export interface StreamLimits extends ConnectionLimits {
  /** Connections of one user, and of this process. */
  perUser: number;
  perNode: number;
  /** Different subscriptions of one user: each is executed for every event. */
  differentPerUser: number;
}

export interface HubOptions {
  feeds: EventFeeds;
  limits: StreamLimits;
  /** Milliseconds between heartbeats, and between looks into the log while the live channel can't be relied on. */
  heartbeatInterval: number;
  pollInterval: number;
  describeFault: (error: unknown) => string;
}

/** A checked subscription, ready to be given a response to write to. */
export interface Subscription {
  userId: string;
  /** Equal for subscriptions that always get the same results. */
  key: string;
  reading: EventReading;
  execute: Execute;
  /** When the token ends, in milliseconds since the epoch. */
  expiresAt: number;
}

interface UserStreams {
  connections: number;
  groups: Map<string, Group>;
  /** Which part of the heartbeat interval its heartbeats fall in. */
  slot: number;
  beatAt: number;
}

/** Parts of the heartbeat interval over which users are spread, so that they don't all beat at once. */
const slots = 16;
/** After a stop, readers come back within this time, in milliseconds: not all at once. */
const earliestReturn = 200;
const latestReturn = 3_000;
const stopDeadline = 2_000;
const topUsers = 10;

/** All event streams of this process: who is connected, within which limits, and what is due by time. */
export class StreamHub {
  private readonly options: HubOptions;
  private readonly users = new Map<string, UserStreams>();
  private readonly counts = newCounts();
  private connections = 0;
  private nextSlot = 0;
  private turn = 0;
  private timer: NodeJS.Timeout | null = null;
  private isLooking = false;
  private isStopped = false;

  constructor(options: HubOptions) {
    this.options = options;
    this.schedule();
  }

  /**
   * Counts a connection of a user; the returned function ends that, and may be called twice.
   * @throws DomainError STREAM_LIMIT, SERVICE_BUSY
   */
  reserve(userId: string): () => void {
    const { perUser, perNode } = this.options.limits;
    const user = this.users.get(userId);
    if (this.isStopped || this.connections >= perNode) {
      this.counts.refused += 1;
      throw new DomainError('SERVICE_BUSY', 'This server takes no more event streams. Retry: another one may answer.', {
        retryAfter: 1,
      });
    }
    if (user !== undefined && user.connections >= perUser) {
      this.counts.refused += 1;
      throw new DomainError('STREAM_LIMIT', `You have ${perUser} event streams open, and may have no more.`, {
        quota: { name: 'eventStreams', limit: perUser, used: user.connections, resetsAt: null },
        retryAfter: 10,
      });
    }
    const entry = user ?? this.addUser(userId);
    entry.connections += 1;
    this.connections += 1;
    let isCounted = true;
    return () => {
      if (isCounted) {
        isCounted = false;
        entry.connections -= 1;
        this.connections -= 1;
        if (entry.connections === 0) {
          this.users.delete(userId);
        }
      }
    };
  }

  /**
   * Whether the user may have one more kind of subscription.
   * @throws DomainError STREAM_LIMIT
   */
  checkDifferent(userId: string, key: string): void {
    const groups = this.users.get(userId)?.groups;
    const { differentPerUser } = this.options.limits;
    if (groups !== undefined && !groups.has(key) && groups.size >= differentPerUser) {
      this.counts.refused += 1;
      throw new DomainError(
        'STREAM_LIMIT',
        `You have ${differentPerUser} different subscriptions open, and may have no more. Equal ones count once.`,
        {
          quota: { name: 'differentEventStreams', limit: differentPerUser, used: groups.size, resetsAt: null },
          retryAfter: 10,
        },
      );
    }
  }

  /** Lets a response, whose head is written, be the stream of a subscription whose connection was reserved. */
  attach(subscription: Subscription, response: ServerResponse, socket: Socket): void {
    const { userId, key, reading, execute, expiresAt } = subscription;
    const user = this.users.get(userId);
    if (user === undefined || socket.destroyed) {
      // It left in the meantime.
      reading.close();
      return;
    }
    const isHistoryLost = reading.start < reading.feed.trimmedThrough;
    const start = isHistoryLost ? reading.feed.trimmedThrough : reading.start;
    const connection = new Connection(response, socket, this.options.limits, { expiresAt, start });
    if (user.groups.size === 0) {
      // It is greeted with a heartbeat: the next one is due an interval later.
      user.beatAt = performance.now();
    }
    const group = this.groupOf(user, key, reading, execute);
    group.join(connection, isHistoryLost);
    response.once('close', () => {
      group.leave(connection);
      reading.close();
    });
    if (this.isStopped) {
      void group.end('SHUTDOWN', returnTime());
    }
  }

  stats(): StreamStats {
    const sizes = [...this.users.values()].map((user) => user.connections);
    return {
      ...this.counts,
      connections: this.connections,
      users: this.users.size,
      groups: [...this.users.values()].reduce((sum, user) => sum + user.groups.size, 0),
      topConnections: sizes.toSorted((a, b) => b - a).slice(0, topUsers),
      catchUpReads: this.options.feeds.counts.catchUpReads,
    };
  }

  /** Ends all streams with a place to resume from, each told when to come back. */
  async stop(): Promise<void> {
    this.isStopped = true;
    if (this.timer !== null) {
      clearTimeout(this.timer);
    }
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, stopDeadline);
    const groups = [...this.users.values()].flatMap((user) => [...user.groups.values()]);
    await Promise.race([Promise.all(groups.map((group) => group.end('SHUTDOWN', returnTime()))), late.promise]);
    clearTimeout(timer);
    this.options.feeds.close();
  }

  private addUser(userId: string): UserStreams {
    const user = { connections: 0, groups: new Map<string, Group>(), slot: this.nextSlot, beatAt: performance.now() };
    this.nextSlot = (this.nextSlot + 1) % slots;
    this.users.set(userId, user);
    return user;
  }

  private groupOf(user: UserStreams, key: string, reading: EventReading, execute: Execute): Group {
    const found = user.groups.get(key);
    // A feed that failed has been replaced: its readers are on their way out.
    if (found !== undefined && found.feed === reading.feed) {
      return found;
    }
    const group = new Group(reading, {
      execute,
      counts: this.counts,
      describeFault: this.options.describeFault,
      emptied: () => {
        if (user.groups.get(key) === group) {
          user.groups.delete(key);
        }
      },
    });
    user.groups.set(key, group);
    return group;
  }

  private schedule(): void {
    const { heartbeatInterval, pollInterval, feeds } = this.options;
    const interval = feeds.needsLog ? Math.min(pollInterval, heartbeatInterval) : heartbeatInterval;
    this.timer = setTimeout(() => {
      this.takeTurn();
      this.schedule();
    }, interval / slots).unref();
  }

  private takeTurn(): void {
    this.turn = (this.turn + 1) % slots;
    const now = performance.now();
    const clock = Date.now();
    for (const user of this.users.values()) {
      for (const group of user.groups.values()) {
        group.feed.tidy(now);
        group.tidy(clock);
      }
    }
    if (!this.isLooking) {
      this.isLooking = true;
      void this.look([...this.users].filter(([, user]) => user.slot === this.turn && user.groups.size > 0)).finally(
        () => {
          this.isLooking = false;
        },
      );
    }
  }

  /** Looks into the users' logs, then sends the heartbeats that are due. */
  private async look(users: readonly [string, UserStreams][]): Promise<void> {
    const userIds = users.map(([userId]) => userId);
    try {
      await this.options.feeds.check(userIds);
    } catch (error) {
      if (!willPass(error)) {
        this.options.feeds.fail(userIds, error);
        return;
      }
    }
    const now = performance.now();
    // A turn comes a little early or late.
    const due = now - this.options.heartbeatInterval * (1 - 1 / slots);
    for (const [, user] of users) {
      if (user.beatAt <= due) {
        user.beatAt = now;
        for (const group of user.groups.values()) {
          group.beat();
        }
      }
    }
  }
}

function returnTime(): number {
  return Math.round(earliestReturn + Math.random() * (latestReturn - earliestReturn));
}
