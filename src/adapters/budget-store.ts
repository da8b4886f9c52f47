import { createHash } from 'node:crypto';
import { budgetScript } from './budget-script.ts';
import type { SharedStore } from './shared-store.ts';

/** The numbers of a budget that the script needs with every call. */
export interface BudgetTerms {
  requests: number;
  tokens: number;
  window: number;
  constants: Readonly<Record<string, number>>;
}

export interface SharedDecision {
  /** Names the state in Redis: another one means that the earlier state is lost. */
  epoch: string;
  /** Redis' clock, in milliseconds. */
  now: number;
  /** Processes that asked lately. */
  processes: number;
  slot: number;
  wait: number;
  granted: number[];
}

/** One budget in Redis, shared by all processes. Every call may fail: the caller goes on by itself then. */
export interface BudgetStore {
  ready(): boolean;
  acquire(request: { process: string; epoch: string; newEpoch: string; candidates: unknown }): Promise<SharedDecision>;
  settle(grant: { slot: number; userId: string; requests: number; tokens: number }): Promise<void>;
  /** Counts a grant as of now. @returns the slot where it is counted */
  arrive(place: { slot: number; tokens: number }): Promise<number>;
  pause(milliseconds: number): Promise<void>;
  leave(waitingKey: string): Promise<void>;
  restore(uses: readonly (readonly [slot: number, requests: number, tokens: number])[]): Promise<void>;
}

const scriptHash = createHash('sha1').update(budgetScript).digest('hex');

/**
 * @param name of the budget: provider and model, never anything of a user
 * @param clock replaces Redis' own in tests
 */
export function createBudgetStore(
  store: SharedStore,
  name: string,
  terms: BudgetTerms,
  clock: (() => number) | null = null,
): BudgetStore {
  // One hash tag, so that a cluster keeps a budget's keys together.
  const keys = ['numbers', 'slots', 'tags', 'waiting', 'processes'].map((part) => `retinue:{budget:${name}}:${part}`);
  const fixed = [terms.requests, terms.tokens, terms.window, JSON.stringify(terms.constants)];
  const run = async (action: string, ...rest: (string | number)[]): Promise<unknown> => {
    const values = [action, ...fixed, clock === null ? '' : String(clock()), ...rest];
    try {
      return await store.redis.evalsha(scriptHash, keys.length, ...keys, ...values);
    } catch (error) {
      if (error instanceof Error && error.message.startsWith('NOSCRIPT')) {
        return await store.redis.eval(budgetScript, keys.length, ...keys, ...values);
      }
      throw error;
    }
  };
  return {
    ready: () => store.ready(),
    acquire: async ({ process, epoch, newEpoch, candidates }) => {
      const reply = (await run('acquire', process, epoch, newEpoch, JSON.stringify(candidates))) as [
        string,
        string,
        number,
        number,
        string,
        ...number[],
      ];
      const [stateEpoch, now, processes, slot, wait, ...granted] = reply;
      return { epoch: stateEpoch, now: Number(now), processes, slot, wait: Number(wait), granted };
    },
    settle: async ({ slot, userId, requests, tokens }) => void (await run('settle', slot, userId, requests, tokens)),
    arrive: async ({ slot, tokens }) => Number(await run('arrive', slot, tokens)),
    pause: async (milliseconds) => void (await run('pause', milliseconds)),
    leave: async (waitingKey) => void (await run('leave', waitingKey)),
    restore: async (uses) => void (await run('restore', JSON.stringify(uses))),
  };
}
