import type { BudgetEngine } from './engine.ts';
import type { Grant } from './line.ts';
import { unseenPart } from './share.ts';

/** What a call that may go takes of the budget, from its grant until its use is known. */
export interface Place {
  /** The call leaves now. False when its grant is too old: it may not, and must ask for another one. */
  leave(): boolean;
  /** The provider has the call by now: it answers, or the call ended. Only the first time counts. */
  arrived(): void;
  /** Corrects the tokens that it was counted as. */
  settle(usedTokens: number): void;
  /** The call was never made: the place is free for another. */
  giveBack(): void;
}

/**
 * A provider counts a call when it arrives. We only know that this is between the grant and the first sign of an answer, so
 * that a place is counted for a window from that sign on: whatever this process or the network did in between, no window
 * of the provider holds more than was let go for one.
 */
export function takePlace(engine: BudgetEngine, grant: Grant, window: number): Place {
  const { userId, tokens, askedAt, grace } = grant;
  let slot = Promise.resolve(grant.slot);
  let hasArrived = false;
  let latest: NodeJS.Timeout | undefined;
  const correct = (requests: number, more: number): void => {
    void slot.then((known) => engine.settle({ slot: known, userId, requests, tokens: more }));
  };
  const arrived = (): void => {
    if (!hasArrived) {
      hasArrived = true;
      clearTimeout(latest);
      // The guard of the window covers what arrived at once.
      if (performance.now() - askedAt > grace) {
        slot = engine.arrive({ slot: grant.slot, tokens });
      }
    }
  };
  return {
    leave: () => {
      const isFresh = performance.now() - askedAt <= window * unseenPart;
      if (isFresh) {
        // An answer may be long in coming, the request is not.
        latest = setTimeout(arrived, window * unseenPart);
      }
      return isFresh;
    },
    arrived,
    settle: (usedTokens) => {
      if (usedTokens !== tokens) {
        correct(0, usedTokens - tokens);
      }
    },
    giveBack: () => correct(-1, -tokens),
  };
}
