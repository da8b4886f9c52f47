import { setImmediate } from 'node:timers';
import { setImmediate as nextTurn, setTimeout } from 'node:timers/promises';
import DataLoader from 'dataloader';
import type { Clock } from './adapters/clock.ts';
import { type Database, type Statement, sqlState, type Transaction } from './adapters/postgres.ts';
import type { PrismaTransaction } from './adapters/prisma.ts';
import type { Channel } from './adapters/redis.ts';
import { DomainError } from './errors.ts';
import {
  appendEvents,
  type DescribedEvent,
  describeEvent,
  type NewEvent,
  publishEvents,
  type StoredEvent,
} from './outbox.ts';
import { defaultTerms, type Terms } from './terms.ts';

/** @param write begins another write of the same user */
export type AfterCommit = (channel: Channel, write: Operation['write']) => void;

/** Loads many values by key in one statement; the result has the order and length of the keys. */
export type BatchLoad<Key, Value> = (operation: ReadOperation, keys: readonly Key[]) => Promise<Value[]>;

/** The request that work came from, kept with the tasks that it leads to. */
export interface Origin {
  requestId: string | null;
  /** Its trace (https://www.w3.org/TR/trace-context/); null when it is not traced. */
  traceparent: string | null;
}

const noOrigin: Origin = { requestId: null, traceparent: null };

/** What a service function needs to read as one user. */
export interface ReadOperation {
  readonly userId: string;
  readonly clock: Clock;
  readonly terms: Terms;
  query<Row extends Record<string, unknown>>(statement: Statement<Row>, values?: unknown[]): Promise<Row[]>;
  prisma<Result>(work: (client: PrismaTransaction) => Promise<Result>): Promise<Result>;
  /** Gathers the keys that are asked for in the same turn into one call of `batch`. */
  load<Key, Value>(batch: BatchLoad<Key, Value>, key: Key, cacheKey?: (key: Key) => string): Promise<Value>;
}

/** What a service function needs to change something: one transaction, its events, and what may follow its commit. */
export interface WriteOperation extends ReadOperation {
  readonly origin: Origin;
  /** Whom live messages of this process reach, for what is to be told after the commit; null when that is nobody. */
  readonly reach: string | null;
  /**
   * The last statement of the work. The commit travels with it, so that both take one trip: when the rows are there they are
   * committed, whatever the work then comes to. Nothing can be written or emitted behind it.
   */
  queryAndCommit<Row extends Record<string, unknown>>(statement: Statement<Row>, values?: unknown[]): Promise<Row[]>;
  /**
   * Hands a row that this transaction has written to the reads behind its commit, so that they need not ask for it.
   * @param row as its last change returned it
   */
  keep<Row extends { id: string }>(batch: BatchLoad<string, Row | null>, row: Row): void;
  /** Writes an event in this transaction's commit and tells live readers after it. */
  emit(event: NewEvent): void;
  /** Runs after the commit, and not at all when there is none. It must not throw and is not waited for. */
  afterCommit(hook: AfterCommit): void;
}

/** The work of one request (or one task) for one user. */
export interface Operation {
  readonly userId: string;
  readonly read: ReadOperation;
  /**
   * Runs work in a write transaction of its own. It is run again when Postgres broke a deadlock by ending it, so it may
   * do nothing outside the database but by `afterCommit`.
   */
  write<Result>(work: (operation: WriteOperation) => Promise<Result>): Promise<Result>;
  /** What is read from now on sees everything that is committed by now. */
  refresh(): void;
  /**
   * Says that the reads under way are the last of their transaction: its end travels behind them, so that both take one trip.
   * What is read later begins another transaction.
   */
  endReads(): void;
  /** Ends the read transaction. A statement under way is let finish; later ones are refused. */
  close(): Promise<void>;
}

export interface OperationResources {
  database: Database;
  channel: Channel;
  clock: Clock;
  /** Quotas and prices; those of `terms.ts` when left out. */
  terms?: Terms;
}

/** Thrown to work that goes on after its client went away; nobody is there to hear of it. */
export class OperationClosedError extends Error {
  constructor() {
    super('the operation is closed');
    this.name = 'OperationClosedError';
  }
}

/** Each of these faults means that somebody else's transaction went through: as many at once as a user may well send. */
const writeAttempts = 25;
/** Longest pause before the second attempt, in milliseconds; it grows with each, and a random part of it is taken. */
const writePause = 4;
const retryableStates = new Set(['40P01', '40001']);
const failedTransactionState = '25P02';

type Loader = DataLoader<unknown, unknown, unknown>;
type Loaders = Map<unknown, Loader>;

/**
 * Begins nothing yet: the read transaction opens at the first query, serves all queries issued meanwhile, and commits
 * one turn of the event loop after the last one ended.
 */
export function createOperation(resources: OperationResources, userId: string, origin: Origin = noOrigin): Operation {
  const shared = new SharedRead(resources.database, userId);
  const read: ReadOperation = {
    userId,
    clock: resources.clock,
    terms: resources.terms ?? defaultTerms,
    query: (prepared, values) => shared.run((transaction) => transaction.query(prepared, values)),
    prisma: (work) => shared.run(async (transaction) => work(await transaction.prisma()), true),
    load: (batch, key, cacheKey) => loadBatched(read, shared.loaders, batch, key, cacheKey),
  };
  return {
    userId,
    read,
    write: async (work) => {
      const { result, kept } = await runWrite(resources, userId, origin, work);
      // What is read next must see this commit.
      shared.refresh();
      for (const { batch, row } of kept) {
        loaderOf(read, shared.loaders, batch).prime(row.id, row);
      }
      return result;
    },
    refresh: () => shared.refresh(),
    endReads: () => shared.endBehind(),
    close: () => shared.close(),
  };
}

/**
 * Does several writes at once: what they send in the same turn takes one trip, and the server takes it in the order of the
 * works. Their events are told in that order too, when all are done. A work may rely on rows and locks of those before it
 * only as far as they have sent their statements without waiting for an answer.
 * @throws the fault that made the others fail
 */
export async function writeTogether(
  operation: WriteOperation,
  ...works: readonly ((operation: WriteOperation) => Promise<unknown>)[]
): Promise<void> {
  const told: NewEvent[][] = works.map(() => []);
  const ends = await Promise.allSettled(
    works.map((work, place) => work({ ...operation, emit: (event) => void told[place]?.push(event) })),
  );
  const faults = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as unknown] : []));
  if (faults.length > 0) {
    // Behind the first that fails the server refuses all others, and any of those may be heard of first.
    throw faults.find((fault) => sqlState(fault) !== failedTransactionState) ?? faults[0];
  }
  for (const event of told.flat()) {
    operation.emit(event);
  }
}

interface KeptRow {
  batch: BatchLoad<string, { id: string } | null>;
  row: { id: string };
}

async function runWrite<Result>(
  resources: OperationResources,
  userId: string,
  origin: Origin,
  work: (operation: WriteOperation) => Promise<Result>,
): Promise<{ result: Result; kept: readonly KeptRow[] }> {
  for (let attempt = 1; ; attempt += 1) {
    const transaction = await resources.database.begin('write', userId);
    const events: DescribedEvent[] = [];
    const hooks: AfterCommit[] = [];
    const loaders: Loaders = new Map();
    const kept: KeptRow[] = [];
    let committed: Promise<StoredEvent[]> | undefined;
    // One trip for both: after a failed append the commit is a rollback, and the first fault is the one to report.
    const commit = async (): Promise<StoredEvent[]> => {
      const appended = appendEvents(transaction, userId, events);
      const ended = transaction.commit();
      ended.catch(() => undefined);
      const stored = await appended;
      await ended;
      return stored;
    };
    const operation: WriteOperation = {
      userId,
      origin,
      reach: resources.channel.reach(),
      clock: resources.clock,
      terms: resources.terms ?? defaultTerms,
      query: (prepared, values) => transaction.query(prepared, values),
      prisma: async (prismaWork) => prismaWork(await transaction.prisma()),
      load: (batch, key, cacheKey) => loadBatched(operation, loaders, batch, key, cacheKey),
      queryAndCommit: async (prepared, values) => {
        const rows = transaction.query(prepared, values);
        committed = commit();
        committed.catch(() => undefined);
        const result = await rows;
        await committed;
        return result;
      },
      keep: (batch, row) => void kept.push({ batch: batch as KeptRow['batch'], row }),
      emit: (event) => {
        if (committed !== undefined) {
          throw new Error('the transaction is committed: an event would be lost');
        }
        events.push(describeEvent(event));
      },
      afterCommit: (hook) => void hooks.push(hook),
    };
    try {
      const result = await work(operation);
      const stored = await (committed ?? commit());
      publishEvents(resources.channel, userId, stored);
      for (const hook of hooks) {
        hook(resources.channel, async (later) => (await runWrite(resources, userId, origin, later)).result);
      }
      if (hooks.length > 0) {
        // What others wait for leaves this process before its own work goes on.
        await nextTurn();
      }
      return { result, kept };
    } catch (error) {
      // The first fault is the one to report; a rollback that fails has closed its connection.
      await transaction.rollback().catch(() => undefined);
      if (!retryableStates.has(sqlState(error) ?? '')) {
        throw error;
      }
      if (attempt >= writeAttempts) {
        throw new DomainError('SERVICE_BUSY', 'Too much changes at once. Try again shortly.', {
          retryAfter: 1,
          cause: error,
        });
      }
      await setTimeout(Math.random() * writePause * attempt);
    }
  }
}

function loadBatched<Key, Value>(
  operation: ReadOperation,
  loaders: Loaders,
  batch: BatchLoad<Key, Value>,
  key: Key,
  cacheKey?: (key: Key) => string,
): Promise<Value> {
  return loaderOf(operation, loaders, batch, cacheKey).load(key);
}

function loaderOf<Key, Value>(
  operation: ReadOperation,
  loaders: Loaders,
  batch: BatchLoad<Key, Value>,
  cacheKey?: (key: Key) => string,
): DataLoader<Key, Value, unknown> {
  let loader = loaders.get(batch) as DataLoader<Key, Value, unknown> | undefined;
  if (loader === undefined) {
    loader = new DataLoader<Key, Value, unknown>((keys) => batch(operation, keys), {
      maxBatchSize: 500,
      ...(cacheKey === undefined ? {} : { cacheKeyFn: cacheKey }),
    });
    loaders.set(batch, loader as Loader);
  }
  return loader;
}

interface OpenRead {
  transaction: Promise<Transaction>;
  active: number;
  failed: boolean;
  /** Whether Prisma reads in it, which sends one statement after the other. */
  isStepwise: boolean;
}

class SharedRead {
  loaders: Loaders = new Map();
  private readonly database: Database;
  private readonly userId: string;
  private current: OpenRead | null = null;
  private closed = false;

  constructor(database: Database, userId: string) {
    this.database = database;
    this.userId = userId;
  }

  async run<Result>(work: (transaction: Transaction) => Promise<Result>, isStepwise = false): Promise<Result> {
    const first = this.enter(isStepwise);
    try {
      return await this.use(first, work);
    } catch (error) {
      // Another query of this transaction failed first: this one did nothing wrong and gets one fresh try.
      if (sqlState(error) !== failedTransactionState) {
        throw error;
      }
      return await this.use(this.enter(isStepwise), work);
    }
  }

  /** Later queries get a new transaction; those under way keep theirs. */
  refresh(): void {
    const previous = this.current;
    this.letGo();
    if (previous !== null && previous.active === 0) {
      void end(previous);
    }
  }

  /** Ends the transaction behind the statements that are under way, without waiting for them. */
  endBehind(): void {
    const open = this.current;
    if (open === null || open.isStepwise) {
      return;
    }
    this.letGo();
    // Those who read have waited for the transaction longer, so that they send first.
    void end(open);
  }

  async close(): Promise<void> {
    this.closed = true;
    const previous = this.current;
    this.current = null;
    if (previous !== null && previous.active === 0) {
      await end(previous);
    }
  }

  /** What is read from now on is read in another transaction. */
  private letGo(): void {
    this.current = null;
    this.loaders = new Map();
  }

  private enter(isStepwise: boolean): OpenRead {
    if (this.closed) {
      throw new OperationClosedError();
    }
    this.current ??= {
      transaction: this.database.begin('read', this.userId),
      active: 0,
      failed: false,
      isStepwise: false,
    };
    this.current.active += 1;
    this.current.isStepwise ||= isStepwise;
    return this.current;
  }

  private async use<Result>(open: OpenRead, work: (transaction: Transaction) => Promise<Result>): Promise<Result> {
    try {
      return await work(await open.transaction);
    } catch (error) {
      open.failed = true;
      if (this.current === open) {
        this.current = null;
      }
      throw error;
    } finally {
      open.active -= 1;
      if (open.active === 0) {
        setImmediate(() => this.endIfIdle(open));
      }
    }
  }

  private endIfIdle(open: OpenRead): void {
    if (open.active > 0) {
      return;
    }
    if (this.current === open) {
      this.letGo();
    }
    void end(open);
  }
}

/** Ends a read transaction. It changed nothing, so a fault here is nobody's failure: the pool drops the connection. */
async function end(open: OpenRead): Promise<void> {
  try {
    const transaction = await open.transaction;
    await (open.failed ? transaction.rollback() : transaction.commit());
  } catch {
    // Transaction.end has already closed the connection.
  }
}
