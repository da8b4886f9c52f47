import { RedisPubSub } from 'graphql-redis-subscriptions';
import { PubSub, type PubSubEngine } from 'graphql-subscriptions';
import { Redis } from 'ioredis';
import type { Log } from './log.ts';

/**
 * Live messages between processes. It is never the truth: a message may be lost, so that every receiver has a slower
 * way to the same news.
 */
export interface Channel {
  /** Hands a JSON value to all who listen now. Never throws and never waits for a lost Redis. */
  publish(topic: string, message: unknown): void;
  /** Calls the listener for every message from now on; the returned function ends that, and may be called twice. */
  subscribe(topic: string, listener: (message: unknown) => void): Promise<() => void>;
  /** Whether messages reach other processes right now. */
  status(): 'in-process' | 'connected' | 'disconnected';
  close(): Promise<void>;
}

/** A channel over Redis, or within this process when there is no address. */
export function createChannel(options: { url: string | null; log: Log }): Channel {
  return options.url === null ? processChannel() : redisChannel(options.url, options.log);
}

function processChannel(): Channel {
  const engine = new PubSub();
  // One listener per subscription is expected, not a leak.
  (engine as unknown as { ee: { setMaxListeners(count: number): void } }).ee.setMaxListeners(0);
  return {
    publish: (topic, message) => void engine.publish(topic, message),
    subscribe: (topic, listener) => subscribe(engine, topic, listener),
    status: () => 'in-process',
    close: async () => undefined,
  };
}

function redisChannel(url: string, log: Log): Channel {
  const connect = (purpose: string): Redis => {
    const redis = new Redis(url, {
      connectionName: `retinue-${purpose}`,
      connectTimeout: 5_000,
      commandTimeout: 5_000,
      // A publisher must not pile up messages while Redis is away: they are in the log anyway.
      enableOfflineQueue: purpose === 'subscriber',
      // The check asks INFO, which a connection in subscriber mode refuses.
      enableReadyCheck: purpose !== 'subscriber',
      maxRetriesPerRequest: purpose === 'subscriber' ? null : 0,
      retryStrategy: (attempt) => Math.min(attempt * 100, 2_000),
    });
    redis.on('error', (error: Error) => log.warn({ purpose, reason: error.message }, 'redis connection'));
    return redis;
  };
  const publisher = connect('publisher');
  const subscriber = connect('subscriber');
  const engine = new RedisPubSub({ publisher, subscriber });
  return {
    publish: (topic, message) => {
      if (publisher.status === 'ready') {
        engine.publish(topic, message).catch((error: Error) => log.warn({ reason: error.message }, 'publish failed'));
      }
    },
    subscribe: (topic, listener) => subscribe(engine, topic, listener),
    status: () => (publisher.status === 'ready' && subscriber.status === 'ready' ? 'connected' : 'disconnected'),
    close: async () => {
      publisher.disconnect();
      subscriber.disconnect();
    },
  };
}

async function subscribe(
  engine: PubSubEngine,
  topic: string,
  listener: (message: unknown) => void,
): Promise<() => void> {
  const id = await engine.subscribe(topic, listener, {});
  let subscribed = true;
  return () => {
    if (subscribed) {
      subscribed = false;
      engine.unsubscribe(id);
    }
  };
}
