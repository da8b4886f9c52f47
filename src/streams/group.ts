import type { StreamEnd } from '../services/event.ts';
import type { EventFeed } from '../services/event-feed.ts';
import type { EventReading } from '../services/event-reading.ts';
import type { Connection } from './connection.ts';
import type { StreamCounts } from './counts.ts';
import { Delivery, type Execute, type Joiner } from './delivery.ts';

/** How far behind a reader a delivery may be that it joins, in events: it waits for the delivery to come up. */
const nearlyThere = 64;

/**
 * Identical subscriptions of one user: all are served by one delivery, but for readers who resume further back; they are
 * handed over when they have caught up.
 */
export class Group {
  private readonly reading: Pick<EventReading, 'feed' | 'walkFrom'>;
  private readonly execute: Execute;
  private readonly counts: StreamCounts;
  private readonly describeFault: (error: unknown) => string;
  private readonly emptied: () => void;
  private readonly deliveries = new Set<Delivery>();

  constructor(
    reading: Pick<EventReading, 'feed' | 'walkFrom'>,
    options: {
      execute: Execute;
      counts: StreamCounts;
      describeFault: (error: unknown) => string;
      emptied: () => void;
    },
  ) {
    this.reading = reading;
    this.execute = options.execute;
    this.counts = options.counts;
    this.describeFault = options.describeFault;
    this.emptied = options.emptied;
  }

  get feed(): EventFeed {
    return this.reading.feed;
  }

  join(connection: Connection, isHistoryLost: boolean): void {
    this.place({ connection, from: connection.start, greeting: isHistoryLost ? 'history_lost' : 'new' });
  }

  leave(connection: Connection): void {
    for (const delivery of this.deliveries) {
      if (delivery.leave(connection)) {
        return;
      }
    }
  }

  beat(): void {
    for (const delivery of this.deliveries) {
      delivery.beat();
    }
  }

  tidy(now: number): void {
    for (const delivery of [...this.deliveries]) {
      delivery.tidy(now);
    }
  }

  async end(reason: StreamEnd, reconnectAfter: number): Promise<void> {
    await Promise.all([...this.deliveries].map((delivery) => delivery.end(reason, reconnectAfter)));
  }

  private place(joiner: Joiner): void {
    const { from } = joiner;
    const fitting = [...this.deliveries]
      .filter((delivery) => delivery.covers(from) && from - delivery.position <= nearlyThere)
      .toSorted((a, b) => b.position - a.position)[0];
    (fitting ?? this.begin(from)).join(joiner);
  }

  private begin(from: number): Delivery {
    const delivery = new Delivery({
      feed: this.feed,
      walk: this.reading.walkFrom(from),
      execute: this.execute,
      counts: this.counts,
      describeFault: this.describeFault,
      place: (joiner) => this.place(joiner),
      delivered: (done) => this.handOver(done),
      emptied: (done) => {
        this.deliveries.delete(done);
        if (this.deliveries.size === 0) {
          this.emptied();
        }
      },
    });
    this.deliveries.add(delivery);
    return delivery;
  }

  private handOver(done: Delivery): void {
    if (this.deliveries.size === 1) {
      return;
    }
    for (const other of this.deliveries) {
      if (other !== done && other.position >= done.position && other.covers(done.position)) {
        done.moveTo(other);
        return;
      }
    }
  }
}
