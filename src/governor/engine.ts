import type { BudgetStore, SharedDecision } from '../adapters/budget-store.ts';
import {
  addUse,
  arrive,
  burstShare,
  type Candidate,
  createShareState,
  type Decision,
  decide,
  graceOf,
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
  /** The call of a grant reached the provider by now. @returns the slot where it is counted from now on */
  arrive(place: { slot: number; tokens: number }): Promise<number>;
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
  // How often that is written down and counted.
  processRenewal: 1_000,
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
  /** What happened without Redis, by slot; less than nothing where a call moved on. */
  let untold = new Map<number, { requests: number; tokens: number }>();
  const note = (slot: number, requests: number, tokens: number): void => {
    if (store !== null) {
      const before = untold.get(slot) ?? { requests: 0, tokens: 0 };
      untold.set(slot, { requests: before.requests + requests, tokens: before.tokens + tokens });
    }
  };

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
    for (const place of decision.granted) {
      note(decision.slot, 1, candidates[place]?.tokens ?? 0);
    }
    forgetOld(untold, decision.slot);
    return decision;
  };
  const ask = (to: BudgetStore, candidates: readonly Candidate[]): Promise<SharedDecision> =>
    to.acquire({ process, epoch, newEpoch: options.newEpoch(), candidates });
  /** Tells Redis what was let go without it; all that is remembered when its own state is gone. */
  const synchronise = async (to: BudgetStore): Promise<void> => {
    const seen = await ask(to, []);
    const telling = untold;
    const uses = seen.epoch === epoch || epoch === '' ? telling : own.slots;
    // What is noted while Redis is being told is for the next time.
    untold = new Map();
    try {
      if (uses.size > 0) {
        await to.restore([...uses].map(([slot, { requests, tokens }]) => [slot, requests, tokens]));
      }
    } catch (error) {
      for (const [slot, { requests, tokens }] of telling) {
        note(slot, requests, tokens);
      }
      throw error;
    }
    epoch = seen.epoch;
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
    const { granted, wait, slot } = shared;
    return { granted, wait, slot, grace: graceOf(limits, slot, shared.now) };
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
    arrive: async (place) => {
      const to = reachable();
      if (to !== null) {
        try {
          const slot = await to.arrive(place);
          if (slot !== place.slot) {
            addUse(own, place.slot, { requests: -1, tokens: -place.tokens });
            addUse(own, slot, { requests: 1, tokens: place.tokens });
          }
          return slot;
        } catch (error) {
          lose(error);
        }
      }
      const slot = arrive(own, limits, now(), place);
      if (slot !== place.slot) {
        note(place.slot, -1, -place.tokens);
        note(slot, 1, place.tokens);
      }
      return slot;
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
