/** Upper bounds of the lag's buckets, in milliseconds. */
const lagBounds = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000] as const;

/** Times between an event's commit and its writing to live readers, by the clocks of the database and this process. */
export class Lag {
  /** Upper bound in milliseconds, and how many took at most that long and longer than the bound before. */
  readonly buckets = [...lagBounds.map((atMost) => ({ atMost, count: 0 })), { atMost: Infinity, count: 0 }];
  count = 0;
  sum = 0;

  observe(milliseconds: number): void {
    const value = Math.max(0, milliseconds);
    this.count += 1;
    this.sum += value;
    const bucket = this.buckets.find(({ atMost }) => value <= atMost);
    if (bucket !== undefined) {
      bucket.count += 1;
    }
  }
}

/** What a process's event streams did since its start. */
export interface StreamCounts {
  /** Results written, over all connections. */
  delivered: number;
  deliveredBytes: number;
  /** Executions of a subscription: one per item and group of identical subscriptions. */
  executed: number;
  /** Streams ended because their readers were too slow. */
  dropped: number;
  /** Streams refused because of a limit. */
  refused: number;
  lag: Lag;
}

/** A look at a process's event streams, for metrics. It names no user. */
export interface StreamStats extends StreamCounts {
  connections: number;
  /** Users with streams. */
  users: number;
  /** Groups of identical subscriptions. */
  groups: number;
  /** Connections of those who have most, largest first. */
  topConnections: readonly number[];
  /** Pages read from the log. */
  catchUpReads: number;
}

export function newCounts(): StreamCounts {
  return { delivered: 0, deliveredBytes: 0, executed: 0, dropped: 0, refused: 0, lag: new Lag() };
}
