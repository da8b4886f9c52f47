import type { Redis } from 'ioredis';

/** A text in the making, as its pieces came. */
export interface Draft {
  name: string;
  /** What its writer said of it. */
  about: unknown;
  pieces: unknown[];
}

/**
 * Texts that are being written, kept where every process of the service finds them. Like live messages they may be
 * lost: the whole text follows by the log.
 */
export interface Drafts {
  /**
   * Adds a piece; the first one forgets what was there, and without it the others are dropped. Never throws and never waits.
   */
  add(owner: string, draft: { name: string; about: unknown; piece: unknown; first: boolean }): void;
  forget(owner: string, name: string): void;
  /** What the owner's writers have written so far. Nothing when it can't be told within the deadline. */
  read(owner: string): Promise<Draft[]>;
}

/**
 * Milliseconds that a draft is kept from its first piece on, as a writer that died forgets nothing. One answer is written
 * within the time of its task (TASK_TIMEOUT, ten minutes unless set otherwise): nothing need prolong it on the way.
 */
const life = 3_600_000;
/** Milliseconds to wait for what is only a convenience. */
const readDeadline = 1_000;

function indexKey(owner: string): string {
  return `user:${owner}:drafts`;
}

function piecesKey(owner: string, name: string): string {
  return `user:${owner}:draft:${name}`;
}

/** Drafts in Redis: a hash of what there is and a list of pieces each, whose names hold the owner. */
export function createDrafts(redis: Redis, warn: (reason: string, what: string) => void): Drafts {
  // The connection sends what is asked in one turn as one packet, with the live message that follows.
  const run = (...commands: Promise<unknown>[]): void => {
    Promise.all(commands).catch((error: Error) => warn(error.message, 'draft not kept'));
  };
  return {
    add: (owner, { name, about, piece, first }) => {
      if (redis.status !== 'ready') {
        return;
      }
      const key = piecesKey(owner, name);
      const index = indexKey(owner);
      const text = JSON.stringify(piece);
      if (first) {
        run(
          redis.del(key),
          redis.rpush(key, text),
          redis.pexpire(key, life),
          redis.hset(index, name, JSON.stringify(about)),
          redis.pexpire(index, life),
        );
      } else {
        // Only where the list still is: a new one would have no beginning, and no end of its time.
        run(redis.rpushx(key, text));
      }
    },
    forget: (owner, name) => {
      if (redis.status === 'ready') {
        run(redis.del(piecesKey(owner, name)), redis.hdel(indexKey(owner), name));
      }
    },
    read: async (owner) => {
      if (redis.status !== 'ready') {
        return [];
      }
      return within(readDeadline, readDrafts(redis, owner)).catch((error: Error) => {
        warn(error.message, 'drafts not read');
        return [];
      });
    },
  };
}

async function readDrafts(redis: Redis, owner: string): Promise<Draft[]> {
  const index = await redis.hgetall(indexKey(owner));
  return Promise.all(
    Object.entries(index).map(async ([name, about]) => {
      const pieces = await redis.lrange(piecesKey(owner, name), 0, -1);
      if (pieces.length === 0) {
        // Its writer died long ago.
        await redis.hdel(indexKey(owner), name);
      }
      return { name, about: JSON.parse(about) as unknown, pieces: pieces.map((piece) => JSON.parse(piece) as unknown) };
    }),
  );
}

/** The result, or an error when it takes more milliseconds. The work goes on: nobody hears of its end. */
export async function within<Result>(milliseconds: number, work: Promise<Result>): Promise<Result> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`no answer in ${milliseconds} ms`)), milliseconds);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Drafts of this process alone, for a service without Redis. A writer forgets its own. */
export function createProcessDrafts(): Drafts {
  const owners = new Map<string, Map<string, Draft>>();
  return {
    add: (owner, { name, about, piece, first }) => {
      if (first) {
        const drafts = owners.get(owner) ?? new Map<string, Draft>();
        owners.set(owner, drafts.set(name, { name, about, pieces: [piece] }));
      } else {
        owners.get(owner)?.get(name)?.pieces.push(piece);
      }
    },
    forget: (owner, name) => {
      const drafts = owners.get(owner);
      drafts?.delete(name);
      if (drafts?.size === 0) {
        owners.delete(owner);
      }
    },
    read: async (owner) =>
      [...(owners.get(owner)?.values() ?? [])].map((draft) => ({ ...draft, pieces: [...draft.pieces] })),
  };
}
