/**
 * What all parts of the benchmark agree on. The minute of a provider is shortened to a third, so that a run shows
 * several of them: guards against late arrivals shrink with it. */
export const limits = { requests: 1_200, tokens: 120_000, window: 20_000 };

export type ContenderName = 'governor' | 'FIFO limiter' | 'no governor';
export const contenderNames: readonly ContenderName[] = ['governor', 'FIFO limiter', 'no governor'];

/** One user as one worker process plays it. */
export interface Player {
  userId: string;
  /** Tokens of an answer. */
  answer: number;
  /** How many calls are always open; null asks by the clock instead. */
  open: number | null;
  /** Milliseconds between two calls by the clock, on average. */
  interval: number;
}

export interface ProcessSettings {
  contender: ContenderName;
  baseUrl: string;
  redisUrl: string;
  /** Names the budget: those of other rounds are used up already. */
  budget: string;
}

/** One call, as the process that made it saw it. Times are of the machine's clock, in milliseconds. */
export interface CallRecord {
  userId: string;
  asked: number;
  /** When the request that was answered was sent; null when none was. */
  sent: number | null;
  ended: number;
  tokens: number;
}

export const lightUsers = 19;
export const flooder = 'flooder';
/** Tokens a second that each of all users would get in equal shares. */
export const fairRate = limits.tokens / (limits.window / 1_000) / (lightUsers + 1);
export const processes = 2;
const flood: Player = { userId: flooder, answer: 300, open: 50, interval: 0 };
const lightName = (place: number): string => `light ${place + 1}`;
const lightAnswer = 120;
/** Tokens of the prompt that every call has, as the provider counts them. */
export const promptTokens = 30;

/** Light users who ask for half of their share, by the clock; with or without a flooder beside them. */
export function lightPlayers(withFlooder: boolean): Player[] {
  const interval = ((lightAnswer + promptTokens) / (fairRate / 2)) * 1_000 * processes;
  const light = Array.from({ length: lightUsers }, (_, place) => ({
    userId: lightName(place),
    answer: lightAnswer,
    open: null,
    interval,
  }));
  return withFlooder ? [flood, ...light] : light;
}

/** All users always wait, the flooder with many calls, the others with a few of sizes of their own. */
export function waitingPlayers(): Player[] {
  const light = Array.from({ length: lightUsers }, (_, place) => ({
    userId: lightName(place),
    answer: 80 + (place % 5) * 60,
    open: 3,
    interval: 0,
  }));
  return [flood, ...light];
}
