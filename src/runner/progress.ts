import type { Operation } from '../operation.ts';
import type { Claim } from '../queue/task.ts';
import { saveProgress } from '../services/attempt.ts';

/** How far a run is, told to whoever watches. */
export interface Progress {
  /** `done` from 0 to 1. Told at most once a second, and not at all in a run's first two: short tasks just end. */
  report(done: number, note: string): void;
  /** Waits until what is being written is written, and tells nothing more. Call it before the attempt is ended. */
  end(): Promise<void>;
}

const interval = 1_000;
const firstAfter = 2_000;

/** Progress is a service to watchers: when it can't be written the run goes on, and its own writes find out why. */
export function createProgress(operation: Operation, claim: Claim, sessionId: string | null): Progress {
  let writing: Promise<void> = Promise.resolve();
  let busy = false;
  let ended = false;
  let last = performance.now() + firstAfter - interval;
  return {
    report: (done, note) => {
      const now = performance.now();
      if (busy || ended || now - last < interval) {
        return;
      }
      last = now;
      busy = true;
      writing = operation
        .write((write) => saveProgress(write, claim, sessionId, Math.min(Math.max(done, 0), 1), note))
        .catch(() => undefined)
        .finally(() => {
          busy = false;
        });
    },
    end: async () => {
      ended = true;
      await writing;
    },
  };
}
