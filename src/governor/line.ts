import { DomainError } from '../errors.ts';
import type { BudgetEngine } from './engine.ts';
import type { Candidate } from './share.ts';

/** A call that may go. */
export interface Grant {
  slot: number;
  userId: string;
  tokens: number;
  /** When it was asked for, by the process's own clock: it was counted no earlier. */
  askedAt: number;
  /** Milliseconds from then in which its call may arrive without being counted anew. */
  grace: number;
}

export interface LineOptions {
  engine: BudgetEngine;
  /** Longest wait for a turn, in milliseconds. */
  waitTimeout: number;
  /** Most calls that wait in this process, and of one user. */
  maxWaiting: number;
  maxWaitingPerUser: number;
}

/** Where calls of one budget wait for their turn, within this process. */
export interface Line {
  /**
   * Waits for a turn; the signal takes the call out of the line at once.
   * @param atMost shortens the longest wait, in milliseconds
   * @throws DomainError MODEL_BUSY; the signal's own reason when it fired
   */
  enter(candidate: Candidate, signal: AbortSignal, atMost?: number): Promise<Grant>;
  waiting(): number;
}

/** Most calls that one question to the engine names, and of one user. */
const mostCandidates = 100;
const mostOfUser = 4;
/** When to ask again after a fault of ours, in milliseconds. */
const pauseAfterFault = 100;

interface Waiter {
  candidate: Candidate;
  grant: (grant: Grant) => void;
}

export function createLine({ engine, waitTimeout, maxWaiting, maxWaitingPerUser }: LineOptions): Line {
  const waiters = new Set<Waiter>();
  const counts = new Map<string, number>();
  let asking = false;
  let timer: NodeJS.Timeout | null = null;
  /** Whether a question goes out at the end of this turn of the loop. A timer would take a millisecond at least. */
  let asksSoon = false;

  const remove = (waiter: Waiter): boolean => {
    if (!waiters.delete(waiter)) {
      return false;
    }
    const { userId } = waiter.candidate;
    const left = (counts.get(userId) ?? 1) - 1;
    if (left === 0) {
      counts.delete(userId);
    } else {
      counts.set(userId, left);
    }
    return true;
  };
  /** Those who came first of each user; every user gets a place before any gets a second. */
  const choose = (): Waiter[] => {
    const rounds: Waiter[][] = Array.from({ length: mostOfUser }, () => []);
    const seen = new Map<string, number>();
    for (const waiter of waiters) {
      const { userId, background } = waiter.candidate;
      const key = `${background}|${userId}`;
      const place = seen.get(key) ?? 0;
      seen.set(key, place + 1);
      rounds[place]?.push(waiter);
    }
    return rounds.flat().slice(0, mostCandidates);
  };
  const ask = async (): Promise<void> => {
    asking = true;
    asksSoon = false;
    timer = null;
    const asked = choose();
    const askedAt = performance.now();
    let next = pauseAfterFault;
    try {
      const { granted, wait, slot, grace } = await engine.acquire(asked.map(({ candidate }) => candidate));
      for (const place of granted) {
        const waiter = asked[place];
        if (waiter !== undefined) {
          const { userId, tokens } = waiter.candidate;
          if (remove(waiter)) {
            waiter.grant({ slot, userId, tokens, askedAt, grace });
          } else {
            // It gave up while the question was under way: its place goes back at once.
            engine.settle({ slot, userId, requests: -1, tokens: -tokens });
          }
        }
      }
      next = wait;
    } finally {
      asking = false;
      schedule(next);
    }
  };
  const askSoon = (): void => {
    clearTimeout(timer ?? undefined);
    timer = null;
    if (!asksSoon) {
      asksSoon = true;
      setImmediate(() => void ask());
    }
  };
  const schedule = (wait: number): void => {
    if (waiters.size === 0) {
      return;
    }
    if (wait <= 0) {
      askSoon();
    } else {
      timer ??= setTimeout(() => void ask(), wait);
    }
  };

  return {
    waiting: () => waiters.size,
    enter: (candidate, signal, atMost = waitTimeout) =>
      new Promise<Grant>((resolve, reject) => {
        if (signal.aborted) {
          reject(signal.reason);
          return;
        }
        const ofUser = counts.get(candidate.userId) ?? 0;
        if (waiters.size >= maxWaiting || ofUser >= maxWaitingPerUser) {
          reject(busy('Too many calls wait for the model already.'));
          return;
        }
        const end = (settle: () => void): void => {
          clearTimeout(limit);
          signal.removeEventListener('abort', onAbort);
          settle();
        };
        const giveUp = (reason: unknown): void => {
          if (remove(waiter)) {
            if (!counts.has(candidate.userId)) {
              engine.leave({ userId: candidate.userId, background: true });
              engine.leave({ userId: candidate.userId, background: false });
            }
            end(() => reject(reason));
          }
        };
        const onAbort = (): void => giveUp(signal.reason);
        const waiter: Waiter = { candidate, grant: (grant) => end(() => resolve(grant)) };
        const limit = setTimeout(
          () => giveUp(busy('The model had no turn for this call in time.')),
          Math.max(0, atMost),
        );
        signal.addEventListener('abort', onAbort, { once: true });
        waiters.add(waiter);
        counts.set(candidate.userId, ofUser + 1);
        if (!asking && (timer === null || ofUser === 0)) {
          // Who comes anew may be the next: the question is not put off, but those of one turn of the loop go together.
          askSoon();
        }
      }),
  };
}

function busy(message: string): DomainError {
  return new DomainError('MODEL_BUSY', message, { retryAfter: 5 });
}
