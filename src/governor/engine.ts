import type { BudgetStore, SharedDecision } from '../adapters/budget-store.ts';
import {
  addUse,
  burstShare,
  type Candidate,
  createShareState,
  type Decision,
  decide,
  guardSlots,
  interactiveWeight,
  type Limits,
  leave,
  longestWait,
  pause,
  type ShareState,
  settle,
  skewTime,
  slotsPerWindow,
  startShare,
  turnWait,
  waitingKey,
  waitingLife,
} from './share.ts';

/** What a grant is corrected by: negative when less was used than counted. */
export interface Correction {
  slot: number;
  userId: string;
  requests: number;
  tokens: number;
}

/** Shares out one budget: over all processes while Redis is there, else this process's part of it. */
export interface BudgetEngine {
  acquire(candidates: readonly Candidate[]): Promise<Decision>;
  settle(correction: Correction): void;
  /** Nobody goes for that long, in any process. */
  pause(milliseconds: number): void;
  leave(who: Pick<Candidate, 'userId' | 'background'>): void;
}

/** What the script has to know of `share.ts`. */
export const shareConstants: Readonly<Record<string, number>> = {
  slotsPerWindow,
  guardSlots,
  burstShare,
  startShare,
  interactiveWeight,
  waitingLife,
  turnWait,
  longestWait,
  skewTime,
  // A process that made no call for that long takes no part of the budget when Redis is away, in milliseconds.
  processLife: 60_000,
};

export interface EngineOptions {
  limits: Limits;
  /** Names this process to the others. */
  process: string;
  /** Milliseconds since the epoch; all processes' clocks agree roughly. */
  now: () => number;
  /** Null: this process is the only one. */
  store: BudgetStore | null;
  newEpoch: () => string;
  onStoreLost?: (error: unknown) => void;
}

/** How long Redis is left alone after a failure, in milliseconds. */
const storeRest = 1_000;

/**
 * A record of this process's own grants is kept beside the shared state: it is the budget when Redis goes away, divided
 * by the processes last seen, and it is told to a Redis that came back without its data.
 */
export function createBudgetEngine(options: EngineOptions): BudgetEngine {
  const { limits, store, process } = options;
  let offset = 0;
  const now = (): number => options.now() + offset;
  const own: ShareState = createShareState(limits, now());
  let epoch = '';
  let processes = 1;
  let restUntil = 0;
  let alone = store === null;
  /** What was let go without Redis, by slot. */
  let untold = new Map<number, { requests: number; tokens: number }>();

  const share = (): Limits => ({
    requests: Math.max(1, limits.requests / processes),
    tokens: limits.tokens / processes,
    window: limits.window,
  });
  const lose = (error: unknown): void => {
    restUntil = Math.max(restUntil, store?.ready() === true ? options.now() + storeRest : 0);
    if (!alone) {
      alone = true;
      // What others saved up together is not this process's: it starts with nothing saved.
      own.level = { requests: 0, tokens: 0 };
      own.decidedAt = now();
      options.onStoreLost?.(error);
    }
  };
  const reachable = (): BudgetStore | null => (store?.ready() === true && options.now() >= restUntil ? store : null);
  const tell = (work: (to: BudgetStore) => Promise<unknown>): void => {
    const to = reachable();
    if (to !== null) {
      work(to).catch(lose);
    }
  };

  const acquireAlone = (candidates: readonly Candidate[]): Decision => {
    const decision = decide(own, store === null ? limits : share(), now(), process, candidates);
    if (store !== null) {
      for (const place of decision.granted) {
        const before = untold.get(decision.slot) ?? { requests: 0, tokens: 0 };
        untold.set(decision.slot, {
          requests: before.requests + 1,
          tokens: before.tokens + (candidates[place]?.tokens ?? 0),
        });
      }
      forgetOld(untold, decision.slot);
    }
    return decision;
  };
  const ask = (to: BudgetStore, candidates: readonly Candidate[]): Promise<SharedDecision> =>
    to.acquire({ process, epoch, newEpoch: options.newEpoch(), candidates });
  /** Tells Redis what was let go without it; all that is remembered when its own state is gone. */
  const synchronise = async (to: BudgetStore): Promise<void> => {
    const seen = await ask(to, []);
    const uses = seen.epoch === epoch || epoch === '' ? untold : own.slots;
    if (uses.size > 0) {
      await to.restore([...uses].map(([slot, { requests, tokens }]) => [slot, requests, tokens]));
    }
    epoch = seen.epoch;
    untold = new Map();
  };
  const acquireShared = async (to: BudgetStore, candidates: readonly Candidate[]): Promise<Decision> => {
    if (untold.size > 0) {
      await synchronise(to);
    }
    let shared = await ask(to, candidates);
    if (shared.epoch !== epoch) {
      await synchronise(to);
      shared = await ask(to, candidates);
    }
    alone = false;
    processes = Math.max(1, shared.processes);
    offset = shared.now - options.now();
    own.pausedUntil = 0;
    for (const place of shared.granted) {
      addUse(own, shared.slot, { requests: 1, tokens: candidates[place]?.tokens ?? 0 });
    }
    forgetOld(own.slots, shared.slot);
    return { granted: shared.granted, wait: shared.wait, slot: shared.slot };
  };

  return {
    acquire: async (candidates) => {
      const to = reachable();
      if (to !== null) {
        try {
          return await acquireShared(to, candidates);
        } catch (error) {
          lose(error);
        }
      } else if (store !== null && epoch !== '') {
        lose(new Error('Redis is away'));
      }
      return acquireAlone(candidates);
    },
    settle: (correction) => {
      settle(own, alone && store !== null ? share() : limits, now(), correction);
      tell((to) => to.settle(correction));
    },
    pause: (milliseconds) => {
      pause(own, limits, now() + milliseconds);
      tell((to) => to.pause(milliseconds));
    },
    leave: (who) => {
      leave(own, process, who);
      tell((to) => to.leave(waitingKey(who, process)));
    },
  };
}

function forgetOld(slots: Map<number, unknown>, slot: number): void {
  for (const past of [...slots.keys()]) {
    if (past <= slot - slotsPerWindow - guardSlots) {
      slots.delete(past);
    }
  }
}
