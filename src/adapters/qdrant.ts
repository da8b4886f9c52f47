import { QdrantClient, type Schemas } from '@qdrant/js-client-rest';
import { DomainError } from '../errors.ts';

/** A vector and what it can be filtered by. The id is that of the chunk it was made of. */
export interface VectorPoint {
  id: string;
  vector: number[];
  payload: PointPayload;
}

export interface PointPayload {
  source: string;
  /** The path and every folder above it, so that a folder is found by equality. */
  within: string[];
  kind: string;
  /** When the document last changed, in milliseconds since the epoch. */
  time: number;
}

/** Conditions on points; all that are given must hold. */
export interface PointFilter {
  source?: string;
  within?: string;
  kinds?: readonly string[];
  since?: Date;
  until?: Date;
}

export interface FoundPoint {
  id: string;
  /** Cosine similarity, from -1 to 1. */
  score: number;
}

/** Where the points of a collection lie: in a collection of the server's own, or among those of all others. */
export type VectorLayout = 'per-agent' | 'shared';

/**
 * Collections of vectors. In the shared layout a name stands for the points that carry it, and a collection without a point
 * is none. All calls end within their deadline.
 * @throws DomainError MEMORY_INDEX_UNAVAILABLE when the store is away or refuses; CollectionMissingError where it says so
 */
export interface VectorStore {
  readonly layout: VectorLayout;
  /** Makes an empty collection; one of that name is dropped first. */
  remakeCollection(name: string, dimensions: number): Promise<void>;
  /** Drops a collection, or finds that there is none. */
  dropCollection(name: string): Promise<void>;
  /** Stores points, over those of the same ids; they can be found when it returns. @throws CollectionMissingError */
  upsert(name: string, points: readonly VectorPoint[]): Promise<void>;
  /** Takes points away; those that are not there are no fault. @throws CollectionMissingError */
  remove(name: string, ids: readonly string[]): Promise<void>;
  /** The nearest points, best first. @throws CollectionMissingError */
  search(name: string, query: VectorQuery): Promise<FoundPoint[]>;
  /** The exact number of points. @throws CollectionMissingError */
  count(name: string): Promise<number>;
  /** Ids in their order, from behind `after`. @throws CollectionMissingError */
  listIds(name: string, after: string | null, limit: number): Promise<string[]>;
  /** Makes filters quick in a large collection; doing it again changes nothing. @throws CollectionMissingError */
  indexPayload(name: string): Promise<void>;
  status(): Promise<'up' | 'down'>;
}

export interface VectorQuery {
  vector: number[];
  limit: number;
  filter?: PointFilter;
  /** Compares with every point instead of following the graph: slow, and the measure of the other. */
  exact?: boolean;
}

export interface VectorStoreOptions {
  url: string;
  apiKey: string | null;
  /** Longest search, in milliseconds. */
  searchTimeout: number;
  /** Longest write, in milliseconds. */
  writeTimeout: number;
}

/** Thrown when a collection is not there: dropped because it was unused, or lost with the store's disk. */
export class CollectionMissingError extends Error {
  constructor() {
    super('the collection does not exist');
    this.name = 'CollectionMissingError';
  }
}

/** After as many failed searches in a row the store is left alone for a while, so that nobody waits for it. */
const failuresToOpen = 3;
const openTime = 2_000;
/** Neighbours that a search keeps in sight (`hnsw_ef`); more finds more and takes longer. `npm run bench -- memory` shows both. */
const searchWidth = 128;

/** A condition on points as Qdrant takes it. */
export type Condition = Schemas['Condition'];

/** What both layouts are made of. */
export interface VectorConnection {
  reader: QdrantClient;
  writer: QdrantClient;
  /** The nearest points that meet all conditions. @throws CollectionMissingError */
  search(collection: string, query: VectorQuery, conditions: Condition[]): Promise<FoundPoint[]>;
  /** The next ids behind `after` of the points that meet all conditions, in their order. @throws CollectionMissingError */
  listIds(collection: string, after: string | null, limit: number, conditions: Condition[]): Promise<string[]>;
  /** Takes all points of that name out of the server, in whichever layout they are: the setting may have changed. */
  drop(name: string): Promise<void>;
  /** Shared collections, one for each length of vectors. */
  sharedCollections(): Promise<string[]>;
  status(): Promise<'up' | 'down'>;
}

const sharedPattern = /^memory_shared_\d+$/;
const tenantPattern = /^memory_[0-9a-f]{32}_[0-9a-f]{32}$/;

/** The collection that all vectors of a length share. */
export function sharedCollection(dimensions: number): string {
  return `memory_shared_${dimensions}`;
}

/**
 * What holds for the points of one memory alone.
 * @throws Error for a name that was not made of two row ids: a filter for anything else would reach others
 */
export function tenantCondition(name: string): Condition {
  if (!tenantPattern.test(name)) {
    throw new Error('a tenant is named after two row ids');
  }
  return { key: 'tenant', match: { value: name } };
}

/** Qdrant over its REST interface. */
export function connectVectors(options: VectorStoreOptions): VectorConnection {
  const reader = createClient(options, options.searchTimeout);
  const writer = createClient(options, options.writeTimeout);
  const breaker = { failures: 0, openUntil: 0 };

  const sharedCollections = (): Promise<string[]> =>
    asDomainErrors(async () => {
      const { collections } = await writer.getCollections();
      return collections.map(({ name }) => name).filter((name) => sharedPattern.test(name));
    });

  return {
    reader,
    writer,
    search: async (collection, query, conditions) => {
      if (performance.now() < breaker.openUntil) {
        throw unavailable();
      }
      try {
        const { points } = await asDomainErrors(() =>
          reader.query(collection, {
            query: query.vector,
            limit: query.limit,
            with_payload: false,
            params: query.exact === true ? { exact: true } : { hnsw_ef: searchWidth },
            ...(conditions.length === 0 ? {} : { filter: { must: conditions } }),
          }),
        );
        breaker.failures = 0;
        return points.map(({ id, score }) => ({ id: String(id), score }));
      } catch (error) {
        if (error instanceof DomainError) {
          breaker.failures += 1;
          if (breaker.failures >= failuresToOpen) {
            breaker.openUntil = performance.now() + openTime;
          }
        }
        throw error;
      }
    },
    listIds: (collection, after, limit, conditions) =>
      asDomainErrors(async () => {
        const { points } = await writer.scroll(collection, {
          limit: limit + 1,
          with_payload: false,
          with_vector: false,
          ...(conditions.length === 0 ? {} : { filter: { must: conditions } }),
          // The offset is the first id of the page: one more is asked for, and the one that is known left out.
          ...(after === null ? {} : { offset: after }),
        });
        const ids = points.map(({ id }) => String(id)).filter((id) => id !== after);
        return ids.slice(0, limit);
      }),
    drop: async (name) => {
      const filter = { must: [tenantCondition(name)] };
      await asDomainErrors(() => writer.deleteCollection(name));
      for (const collection of await sharedCollections()) {
        await asDomainErrors(() => writer.delete(collection, { wait: true, filter })).catch(ignoreMissing);
      }
    },
    sharedCollections,
    status: async () => {
      try {
        await reader.api().readyz({});
        return 'up';
      } catch {
        return 'down';
      }
    },
  };
}

function ignoreMissing(error: unknown): void {
  if (!(error instanceof CollectionMissingError)) {
    throw error;
  }
}

function createClient(options: VectorStoreOptions, timeout: number): QdrantClient {
  const url = new URL(options.url);
  const prefix = url.pathname.replace(/\/+$/, '');
  return new QdrantClient({
    url: url.origin,
    // Without a port the client would take 6333, also where the address means 443.
    port: url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port),
    ...(prefix === '' ? {} : { prefix }),
    timeout,
    checkCompatibility: false,
    headers: {
      // A compressed answer comes in pieces, and the second waits for the first to be acknowledged: 40 ms.
      'accept-encoding': 'identity',
      ...(options.apiKey === null ? {} : { 'api-key': options.apiKey }),
    },
  });
}

/** What a filter asks of points. */
export function toConditions(filter: PointFilter = {}): Condition[] {
  return [
    ...(filter.source === undefined ? [] : [{ key: 'source', match: { value: filter.source } }]),
    ...(filter.within === undefined ? [] : [{ key: 'within', match: { value: filter.within } }]),
    ...(filter.kinds === undefined ? [] : [{ key: 'kind', match: { any: [...filter.kinds] } }]),
    ...(filter.since === undefined ? [] : [{ key: 'time', range: { gte: filter.since.getTime() } }]),
    ...(filter.until === undefined ? [] : [{ key: 'time', range: { lt: filter.until.getTime() } }]),
  ];
}

/**
 * What a request to Qdrant gives.
 * @throws CollectionMissingError; DomainError MEMORY_INDEX_UNAVAILABLE; Error for a request that will never pass
 */
export async function asDomainErrors<Result>(work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (isMissing(error)) {
      throw new CollectionMissingError();
    }
    if (isRefusal(error)) {
      throw new Error('the vector store took a request for wrong', { cause: error });
    }
    throw unavailable(error);
  }
}

/** A request that will never pass, however often it is made. Wrong keys may be put right. */
function isRefusal(error: unknown): boolean {
  return error instanceof Error && 'status' in error && (error.status === 400 || error.status === 422);
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'status' in error && error.status === 404;
}

function unavailable(cause?: unknown): DomainError {
  return new DomainError('MEMORY_INDEX_UNAVAILABLE', 'The index of the memory is away for now.', {
    retryAfter: 5,
    ...(cause === undefined ? {} : { cause }),
  });
}
