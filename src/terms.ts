/** What a user may have, by quota. */
export type QuotaName = 'AGENTS' | 'SESSIONS' | 'STORED_BYTES' | 'CONCURRENT_TASKS' | 'TOKENS_PER_DAY';

/** US dollars per million tokens. */
export interface ModelPrice {
  prompt: number;
  completion: number;
}

/** What holds for every user whose own row does not say otherwise. */
export interface Terms {
  quotas: Readonly<Record<QuotaName, number>>;
  prices: Readonly<Record<string, ModelPrice>>;
  /** How long a task may run over all its attempts, in milliseconds. */
  taskTimeout: number;
}

/** The terms of a process that was told none. */
export const defaultTerms: Terms = {
  quotas: {
    AGENTS: 100,
    SESSIONS: 10_000,
    STORED_BYTES: 1_073_741_824,
    CONCURRENT_TASKS: 1_000,
    TOKENS_PER_DAY: 10_000_000,
  },
  prices: {},
  taskTimeout: 600_000,
};

/**
 * What a call cost, in millionths of a US dollar. Providers answer with a dated name of a model: the longest name of the
 * table that it begins with counts. A model that is not in the table costs nothing.
 */
export function costOf(terms: Terms, use: { model: string; promptTokens: number; completionTokens: number }): number {
  const name = Object.keys(terms.prices)
    .filter((priced) => use.model === priced || use.model.startsWith(`${priced}-`))
    .toSorted((one, other) => other.length - one.length)[0];
  const price = name === undefined ? undefined : terms.prices[name];
  return price === undefined
    ? 0
    : Math.round(use.promptTokens * price.prompt + use.completionTokens * price.completion);
}
