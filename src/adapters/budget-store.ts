import { createHash } from 'node:crypto';
import { createBudgetScript } from './budget-script.ts';
import type { SharedStore } from './shared-store.ts';

/** The numbers of a budget that the script needs. */
export interface BudgetTerms {
  requests: number;
  tokens: number;
  window: number;
  /** Those that all budgets have in common. */
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

/** A call that waits for its turn. */
interface BudgetCandidate {
  userId: string;
  background: boolean;
  tokens: number;
}

/** One budget in Redis, shared by all processes. Every call may fail: the caller goes on by itself then. */
export interface BudgetStore {
  ready(): boolean;
  acquire(request: {
    process: string;
    epoch: string;
    newEpoch: string;
    candidates: readonly BudgetCandidate[];
  }): Promise<SharedDecision>;
  settle(grant: { slot: number; userId: string; requests: number; tokens: number }): Promise<void>;
  /** Counts a grant as of now. @returns the slot where it is counted */
  arrive(place: { slot: number; tokens: number }): Promise<number>;
  pause(milliseconds: number): Promise<void>;
  leave(waitingKey: string): Promise<void>;
  restore(uses: readonly (readonly [slot: number, requests: number, tokens: number])[]): Promise<void>;
}

/**
 * Keys are named by the layout of what they hold. Processes of an older version count in keys of their own, so that neither
 * spoils the other's; while both run, as in a rolling deploy, each version has the whole budget, and a refusal of the provider
 * pauses those of one version only.
 *
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
  const keys = ['state', 'slots', 'tags', 'waiting', 'processes'].map((part) => `retinue:{budget:${name}}:2:${part}`);
  const script = createBudgetScript(terms.constants);
  const scriptHash = createHash('sha1').update(script).digest('hex');
  const run = async (action: string, ...rest: (string | number)[]): Promise<unknown> => {
    const time = clock === null ? '' : clock();
    const values = [action, terms.requests, terms.tokens, terms.window, time, ...rest];
    try {
      return await store.redis.evalsha(scriptHash, keys.length, ...keys, ...values);
    } catch (error) {
      if (error instanceof Error && error.message.startsWith('NOSCRIPT')) {
        return await store.redis.eval(script, keys.length, ...keys, ...values);
      }
      throw error;
    }
  };
  return {
    ready: () => store.ready(),
    acquire: async ({ process, epoch, newEpoch, candidates }) => {
      const waiting = candidates.flatMap(({ userId, background, tokens }) => [
        background ? 'background' : 'interactive',
        userId,
        tokens,
      ]);
      const reply = (await run('acquire', process, epoch, newEpoch, ...waiting)) as [
        string,
        number,
        number,
        number,
        string,
        ...number[],
      ];
      const [stateEpoch, now, processes, slot, wait, ...granted] = reply;
      return { epoch: stateEpoch, now, processes, slot, wait: Number(wait), granted };
    },
    settle: async ({ slot, userId, requests, tokens }) => void (await run('settle', slot, userId, requests, tokens)),
    arrive: async ({ slot, tokens }) => Number(await run('arrive', slot, tokens)),
    pause: async (milliseconds) => void (await run('pause', milliseconds)),
    leave: async (waitingKey) => void (await run('leave', waitingKey)),
    restore: async (uses) => void (await run('restore', ...uses.flat())),
  };
}
