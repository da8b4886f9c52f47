import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import type { SharedStore } from './shared-store.ts';

/** What is limited by the minute, each on its own. */
export const rateLimitNames = ['REQUESTS', 'STREAMS', 'SEND', 'INGEST', 'SEARCH', 'COSTLY'] as const;
export type RateLimitName = (typeof rateLimitNames)[number];

export interface RateState {
  allowed: boolean;
  limit: number;
  remaining: number;
  /** Milliseconds until the full limit is there again. */
  resetsIn: number;
}

/** Counts what users do, over all processes; each process alone while Redis is away. */
export interface RateLimits {
  /** Counts one use. */
  take(name: RateLimitName, userId: string): Promise<RateState>;
  /** Looks without counting. */
  peek(name: RateLimitName, userId: string): Promise<RateState>;
  /** Counts a denied attempt. @returns how many there were in the last minute or so */
  countDenial(who: string): Promise<number>;
}

/** Seconds in which the limits count. */
const duration = 60;
/** No limit of its own: denials are only counted. */
const noLimit = 1_000_000_000;

/** Uses a minute, by name. */
export type RateLimitSettings = Readonly<Record<RateLimitName, number>>;

export function createRateLimits(settings: RateLimitSettings, store: SharedStore | null): RateLimits {
  const create = (name: string, points: number) => {
    const keyPrefix = `retinue:rate:${name}`;
    const alone = new RateLimiterMemory({ keyPrefix, points, duration });
    return store === null
      ? alone
      : new RateLimiterRedis({
          storeClient: store.redis,
          keyPrefix,
          points,
          duration,
          insuranceLimiter: alone,
          // Without a connection there is nothing to wait for.
          rejectIfRedisNotReady: true,
          // Who is over the limit costs Redis nothing more.
          inMemoryBlockOnConsumed: points + 1,
        });
  };
  const limiters = Object.fromEntries(
    rateLimitNames.map((name) => [name, create(name.toLowerCase(), settings[name])]),
  ) as Record<RateLimitName, ReturnType<typeof create>>;
  const denials = create('denials', noLimit);

  const toState = (name: RateLimitName, result: RateLimiterRes | null, allowed: boolean): RateState => ({
    allowed,
    limit: settings[name],
    remaining: result === null ? settings[name] : Math.max(0, result.remainingPoints),
    resetsIn: result === null ? 0 : Math.max(0, result.msBeforeNext),
  });
  return {
    take: async (name, userId) => {
      try {
        return toState(name, await limiters[name].consume(userId), true);
      } catch (refusal) {
        if (refusal instanceof RateLimiterRes) {
          return toState(name, refusal, false);
        }
        throw refusal;
      }
    },
    peek: async (name, userId) => {
      const result = await limiters[name].get(userId);
      return toState(name, result, (result?.remainingPoints ?? 1) > 0);
    },
    countDenial: async (who) => (await denials.consume(who)).consumedPoints,
  };
}
