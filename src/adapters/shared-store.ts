import { Redis } from 'ioredis';
import type { Log } from './log.ts';

/** Redis as a place for what processes count together. It may vanish: whoever uses it goes on alone until it is back. */
export interface SharedStore {
  readonly redis: Redis;
  /** Whether a command has a chance right now. */
  ready(): boolean;
  close(): void;
}

/** An answer later than this counts as none, in milliseconds. */
const commandTimeout = 500;

export function createSharedStore(options: { url: string; log: Log }): SharedStore {
  const redis = new Redis(options.url, {
    connectionName: 'retinue-store',
    connectTimeout: 5_000,
    commandTimeout,
    // Who counts can't wait for a lost Redis, and a count that comes late is wrong.
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    retryStrategy: (attempt) => Math.min(attempt * 100, 2_000),
  });
  redis.on('error', (error: Error) =>
    options.log.warn({ purpose: 'store', reason: error.message }, 'redis connection'),
  );
  return { redis, ready: () => redis.status === 'ready', close: () => redis.disconnect() };
}
