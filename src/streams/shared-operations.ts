import type { Operation } from '../operation.ts';
import type { StreamItem } from '../services/event.ts';

interface Shared {
  sequence: number;
  operation: Operation;
  uses: number;
}

/**
 * Operations in which events are executed. Different subscriptions of one user that are executed for the same event at the
 * same time share one, so that what they all read is read once.
 */
export class SharedOperations {
  private readonly open: (userId: string) => Operation;
  private readonly shared = new Map<string, Shared>();

  constructor(open: (userId: string) => Operation) {
    this.open = open;
  }

  async use<Result>(
    userId: string,
    item: StreamItem,
    work: (operation: Operation) => Promise<Result>,
  ): Promise<Result> {
    if (item.kind !== 'event') {
      const operation = this.open(userId);
      try {
        return await work(operation);
      } finally {
        await operation.close();
      }
    }
    const entry = this.enter(userId, item.event.sequence);
    try {
      return await work(entry.operation);
    } finally {
      entry.uses -= 1;
      if (entry.uses === 0) {
        if (this.shared.get(userId) === entry) {
          this.shared.delete(userId);
        }
        await entry.operation.close();
      }
    }
  }

  /** An operation that began when the event was known, so that it sees at least that commit. */
  private enter(userId: string, sequence: number): Shared {
    const current = this.shared.get(userId);
    if (current?.sequence === sequence) {
      current.uses += 1;
      return current;
    }
    const entry = { sequence, operation: this.open(userId), uses: 1 };
    this.shared.set(userId, entry);
    return entry;
  }
}
