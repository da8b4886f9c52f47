import { randomUUID } from 'node:crypto';
import type { EventEmitter } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import { RedisPubSub } from 'graphql-redis-subscriptions';
import { PubSub, type PubSubEngine } from 'graphql-subscriptions';
import { Redis } from 'ioredis';
import { createDrafts, createProcessDrafts, type Drafts, within } from './drafts.ts';
import type { Log } from './log.ts';

/**
 * Live messages between processes. It is never the truth: a message may be lost, so that every receiver has a slower
 * way to the same news.
 */
export interface Channel {
  /** Hands a JSON value to all who listen now. Never throws and never waits for a lost Redis. */
  publish(topic: string, message: unknown): void;
  /** Publishes as `publish` does. @returns how many listeners it has reached; null when that can't be known. */
  tell(topic: string, message: unknown): Promise<number | null>;
  /** Whom messages of this process reach right now, and whose reach it: all who say the same. Null is nobody. */
  reach(): string | null;
  /** Calls the listener for every message from now on; the returned function ends that, and may be called twice. */
  subscribe(topic: string, listener: (message: unknown) => void): Promise<() => void>;
  /** Whether messages reach other processes right now. */
  status(): 'in-process' | 'connected' | 'disconnected';
  /** Calls the listener when messages flow again after some may have been lost; the returned function ends that. */
  onRestored(listener: () => void): () => void;
  /** Texts that are being written right now. */
  drafts: Drafts;
  close(): Promise<void>;
}

/** Milliseconds after which nobody waits any longer to know who has heard: a Redis that hangs shall hold up nobody. */
const tellDeadline = 1_000;

/** A channel over Redis, or within this process when there is no address. */
export function createChannel(options: { url: string | null; log: Log }): Channel {
  return options.url === null ? processChannel() : redisChannel(options.url, options.log);
}

function processChannel(): Channel {
  const engine = new PubSub();
  const { ee: emitter } = engine as unknown as { ee: EventEmitter };
  // One listener per subscription is expected, not a leak.
  emitter.setMaxListeners(0);
  const reach = `process ${randomUUID()}`;
  return {
    publish: (topic, message) => void engine.publish(topic, message),
    tell: async (topic, message) => {
      const listeners = emitter.listenerCount(topic);
      await engine.publish(topic, message);
      return listeners;
    },
    reach: () => reach,
    subscribe: (topic, listener) => subscribe(engine, topic, listener),
    status: () => 'in-process',
    onRestored: () => () => undefined,
    drafts: createProcessDrafts(),
    close: async () => undefined,
  };
}

function redisChannel(url: string, log: Log): Channel {
  const connect = (purpose: 'publisher' | 'subscriber'): Redis => {
    const redis = new Redis(url, {
      connectionName: `retinue-${purpose}`,
      connectTimeout: 5_000,
      // A subscription stands until Redis is back, however long that takes: nobody waits for it.
      ...(purpose === 'subscriber' ? {} : { commandTimeout: 5_000 }),
      // A publisher must not pile up messages while Redis is away: they are in the log anyway.
      enableOfflineQueue: purpose === 'subscriber',
      // Commands of one turn go out as one packet.
      enableAutoPipelining: purpose === 'publisher',
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
  const engine = new RedisPubSub({ publisher, subscriber: confined(subscriber) });
  const restored = new Set<() => void>();
  let isClosing = false;
  const warn = (reason: string, what: string): void => {
    // What a closing process leaves unsaid is in the log of events.
    if (!isClosing) {
      log.warn({ reason }, what);
    }
  };
  const isConnected = (): boolean => publisher.status === 'ready' && subscriber.status === 'ready';
  let connectedBefore = false;
  subscriber.on('ready', () => {
    if (!connectedBefore) {
      connectedBefore = true;
      return;
    }
    // Commands are answered in order: with this answer, all topics are subscribed again.
    subscriber.ping().then(
      () => {
        for (const listener of restored) {
          listener();
        }
      },
      () => undefined,
    );
  });
  return {
    publish: (topic, message) => {
      if (publisher.status === 'ready') {
        engine.publish(topic, message).catch((error: Error) => warn(error.message, 'publish failed'));
      }
    },
    tell: async (topic, message) => {
      try {
        return await within(tellDeadline, publisher.publish(topic, JSON.stringify(message)));
      } catch (error) {
        warn(error instanceof Error ? error.message : String(error), 'telling failed');
        return null;
      }
    },
    reach: () => (isConnected() ? 'redis' : null),
    subscribe: (topic, listener) => subscribe(engine, topic, listener),
    status: () => (isConnected() ? 'connected' : 'disconnected'),
    onRestored: (listener) => {
      restored.add(listener);
      return () => void restored.delete(listener);
    },
    drafts: createDrafts(publisher, warn),
    close: async () => {
      // What was said in this turn goes out at its end.
      await setImmediate();
      isClosing = true;
      publisher.disconnect();
      subscriber.disconnect();
    },
  };
}

/**
 * What the engine may do with the connection. It waits for no answer to `unsubscribe`: while Redis is away, the refusal
 * would be nobody's and end the process.
 */
function confined(subscriber: Redis): Redis {
  const allowed = {
    on: (event: 'message' | 'pmessage', listener: (...message: string[]) => void) => subscriber.on(event, listener),
    subscribe: (topic: string, done: (error: Error | null) => void) =>
      subscriber.subscribe(topic).then(() => done(null), done),
    unsubscribe: (topic: string) => subscriber.unsubscribe(topic).catch(() => undefined),
    punsubscribe: () => undefined,
  };
  return allowed as unknown as Redis;
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
