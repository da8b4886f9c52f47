import { statement } from '../adapters/postgres.ts';
import type { VectorPoint, VectorStore } from '../adapters/qdrant.ts';
import type { MemoryKind } from '../generated/prisma/enums.ts';
import type { MemoryModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { type Claim, holdAttempt } from '../queue/task.ts';
import { countJob, type JobCounts } from './memory-job.ts';
import { tables } from './table.ts';
import { recordTaskUse } from './usage.ts';

/** A chunk that the index still has to be told of. */
export interface PendingChunk {
  chunkId: string;
  /** Written so, and not found anew: what is acknowledged must be what was read. */
  isRemoval: boolean;
  /** Null when the chunk is gone: its point has to go. */
  chunk: { heading: string; content: string; hash: string; payload: VectorPoint['payload'] } | null;
}

interface PendingRow extends Record<string, unknown> {
  chunkId: string;
  isRemoval: boolean;
  heading: string | null;
  content: string | null;
  hash: string | null;
  source: string | null;
  path: string | null;
  kind: MemoryKind | null;
  time: number | null;
}

const requeuePage = 5_000;

const selectMemory = statement<MemoryModel & Record<string, unknown>>(
  `SELECT ${tables.memory.columns} FROM memories WHERE user_id = $1 AND id = $2 AND agent_id IS NOT NULL`,
);
const selectPending = statement<PendingRow>(`
  SELECT pending.chunk_id AS "chunkId", pending.is_removal AS "isRemoval", chunks.heading, chunks.content,
    chunks.content_hash AS hash, documents.source, documents.path, documents.kind,
    (extract(epoch FROM documents.updated_at) * 1000)::float8 AS time
  FROM (
    SELECT chunk_id, is_removal FROM memory_pending WHERE user_id = $1 AND memory_id = $2 ORDER BY chunk_id LIMIT $3
  ) AS pending
  LEFT JOIN memory_chunks AS chunks ON chunks.user_id = $1 AND chunks.id = pending.chunk_id
  LEFT JOIN memory_documents AS documents ON documents.user_id = $1 AND documents.id = chunks.document_id
  ORDER BY pending.chunk_id`);
const acknowledge = statement(`
  DELETE FROM memory_pending USING unnest($3::uuid[], $4::boolean[]) AS done (chunk_id, is_removal)
  WHERE memory_pending.user_id = $1 AND memory_pending.memory_id = $2
    AND memory_pending.chunk_id = done.chunk_id AND memory_pending.is_removal = done.is_removal`);
const selectEmbeddings = statement<{ hash: string; vector: Buffer }>(`
  SELECT content_hash AS hash, vector FROM memory_embeddings
  WHERE user_id = $1 AND model = $2 AND content_hash = ANY ($3::text[])`);
const insertEmbeddings = statement(`
  INSERT INTO memory_embeddings (user_id, model, content_hash, vector)
  SELECT $1, $2, * FROM unnest($3::text[], $4::bytea[]) ON CONFLICT DO NOTHING`);
const dropEmbeddings = statement(`
  DELETE FROM memory_embeddings WHERE user_id = $1 AND created_at < now() - interval '7 days' AND NOT EXISTS (
    SELECT FROM memory_chunks WHERE memory_chunks.user_id = $1 AND memory_chunks.content_hash = memory_embeddings.content_hash
  )`);
const requeue = statement<{ id: string }>(`
  WITH page AS (
    SELECT id FROM memory_chunks WHERE user_id = $1 AND memory_id = $2 AND id > $3 ORDER BY id LIMIT ${requeuePage}
  ), added AS (
    INSERT INTO memory_pending (user_id, memory_id, chunk_id) SELECT $1, $2, id FROM page ON CONFLICT DO NOTHING
  )
  SELECT id FROM page`);
const setCollection = statement(`
  UPDATE memories SET collection_model = $3, collection_dimensions = $4, points = 0, used_at = now()
  WHERE user_id = $1 AND id = $2`);
const forgetCollection = statement(
  `UPDATE memories SET collection_model = NULL, collection_dimensions = NULL, points = 0 WHERE user_id = $1 AND id = $2`,
);
const setPoints = statement(`UPDATE memories SET points = $3, used_at = now() WHERE user_id = $1 AND id = $2`);
const listChunks = statement<{ id: string }>(`
  SELECT id FROM memory_chunks WHERE user_id = $1 AND memory_id = $2 AND ($3::uuid IS NULL OR id > $3)
    AND ($4::uuid IS NULL OR id <= $4) ORDER BY id LIMIT $5`);
const addPending = statement(`
  INSERT INTO memory_pending (user_id, memory_id, chunk_id)
  SELECT $1, $2, id FROM memory_chunks WHERE user_id = $1 AND memory_id = $2 AND id = ANY ($3::uuid[])
  ON CONFLICT DO NOTHING`);

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/**
 * The collection of an agent's memory. Its name is made of two row ids and nothing that anyone wrote, so that no name of an
 * agent leads to another's collection.
 */
export function collectionName(userId: string, memoryId: string): string {
  if (!uuidPattern.test(userId) || !uuidPattern.test(memoryId)) {
    throw new Error('a collection is named after two row ids');
  }
  return `memory_${userId.replaceAll('-', '')}_${memoryId.replaceAll('-', '')}`;
}

/**
 * What a memory's row says of a collection that the index can search: the embedding model, and the layout where that is not
 * the usual one. After a change of either no row says it any more, and each memory is made anew at its next use.
 */
export function collectionModelOf(index: {
  vectors: Pick<VectorStore, 'layout'> | null;
  embeddingModel: string;
}): string {
  return index.vectors?.layout === 'shared' ? `shared: ${index.embeddingModel}` : index.embeddingModel;
}

/** The path and all folders above it, so that the index finds a folder by equality. */
export function foldersOf(path: string): string[] {
  const parts = path.split('/');
  // Paths of absurd depth are found by their first folders and by themselves.
  return [...parts.slice(0, 32).map((_part, place) => parts.slice(0, place + 1).join('/')), path].filter(
    (folder, place, all) => folder !== '' && all.indexOf(folder) === place,
  );
}

/** A memory whose agent still exists; null otherwise. */
export async function readMemory(operation: ReadOperation, memoryId: string): Promise<MemoryModel | null> {
  const [memory] = await operation.query(selectMemory, [operation.userId, memoryId]);
  return memory ?? null;
}

/** The next chunks that the index has to be told of, in the order of their ids. */
export async function nextPending(operation: ReadOperation, memoryId: string, limit: number): Promise<PendingChunk[]> {
  const rows = await operation.query(selectPending, [operation.userId, memoryId, limit]);
  return rows.map(({ chunkId, isRemoval, heading, content, hash, source, path, kind, time }) => {
    const isThere = !isRemoval && heading !== null && content !== null && hash !== null;
    if (!isThere || source === null || path === null || kind === null || time === null) {
      return { chunkId, isRemoval, chunk: null };
    }
    const payload = { source, within: foldersOf(path), kind, time };
    return { chunkId, isRemoval, chunk: { heading, content, hash, payload } };
  });
}

/** Takes what the index has been told off the queue, unless it changed meanwhile, and counts it. @throws StaleAttemptError */
export async function acknowledgePending(
  operation: WriteOperation,
  claim: Claim,
  memoryId: string,
  done: readonly PendingChunk[],
  counts: JobCounts,
): Promise<void> {
  await holdAttempt(operation, claim);
  await operation.query(acknowledge, [
    operation.userId,
    memoryId,
    done.map(({ chunkId }) => chunkId),
    done.map(({ isRemoval }) => isRemoval),
  ]);
  await countJob(operation, claim.taskId, counts);
}

/** Vectors that the caller's texts were turned into before, by their hashes. */
export async function knownEmbeddings(
  operation: ReadOperation,
  model: string,
  hashes: readonly string[],
): Promise<Map<string, number[]>> {
  const rows = await operation.query(selectEmbeddings, [operation.userId, model, hashes]);
  return new Map(rows.map(({ hash, vector }) => [hash, decodeVector(vector)]));
}

/** Keeps vectors for the next time that the caller has the same text, and records what they took. */
export async function saveEmbeddings(
  operation: WriteOperation,
  claim: Claim,
  model: string,
  embeddings: readonly { hash: string; vector: readonly number[] }[],
  usage: { promptTokens: number; durationMilliseconds: number },
): Promise<void> {
  await operation.query(insertEmbeddings, [
    operation.userId,
    model,
    embeddings.map(({ hash }) => hash),
    embeddings.map(({ vector }) => encodeVector(vector)),
  ]);
  await recordTaskUse(operation, claim.taskId, { kind: 'EMBEDDING', model, completionTokens: 0, ...usage });
}

/** Forgets vectors of texts that the caller has not stored for a week. */
export async function dropUnusedEmbeddings(operation: WriteOperation): Promise<void> {
  await operation.query(dropEmbeddings, [operation.userId]);
}

/** Queues a page of a memory's chunks for the index. @returns the last id of the page; null when it was the last page */
export async function requeueChunks(
  operation: WriteOperation,
  memoryId: string,
  after: string | null,
): Promise<string | null> {
  const first = '00000000-0000-0000-0000-000000000000';
  const page = await operation.query(requeue, [operation.userId, memoryId, after ?? first]);
  return page.length < requeuePage ? null : (page.at(-1)?.id ?? null);
}

/** Queues those of the given chunks that are still there. */
export async function requeueMissing(
  operation: WriteOperation,
  memoryId: string,
  chunkIds: readonly string[],
): Promise<void> {
  await operation.query(addPending, [operation.userId, memoryId, chunkIds]);
}

/** Says that the memory has a collection now: what model it is for, and how long its vectors are. @throws StaleAttemptError */
export async function setMemoryCollection(
  operation: WriteOperation,
  claim: Claim,
  memoryId: string,
  collection: { model: string; dimensions: number },
): Promise<void> {
  await holdAttempt(operation, claim);
  await operation.query(setCollection, [operation.userId, memoryId, collection.model, collection.dimensions]);
}

/** Says that the memory has no collection to search in: it is to be made anew from the text. */
export async function forgetMemoryCollection(operation: WriteOperation, memoryId: string): Promise<void> {
  await operation.query(forgetCollection, [operation.userId, memoryId]);
}

/** Notes the number of points of a collection that was just written to. */
export async function saveMemoryPoints(operation: WriteOperation, memoryId: string, points: number): Promise<void> {
  await operation.query(setPoints, [operation.userId, memoryId, points]);
}

/** Ids of a memory's chunks in their order: behind `after`, up to and with `through`. */
export async function listChunkIds(
  operation: ReadOperation,
  memoryId: string,
  range: { after: string | null; through: string | null; limit: number },
): Promise<string[]> {
  const { after, through, limit } = range;
  const rows = await operation.query(listChunks, [operation.userId, memoryId, after, through, limit]);
  return rows.map(({ id }) => id);
}

function encodeVector(vector: readonly number[]): Buffer {
  const bytes = Buffer.alloc(vector.length * 4);
  vector.forEach((value, place) => void bytes.writeFloatLE(value, place * 4));
  return bytes;
}

function decodeVector(bytes: Buffer): number[] {
  return Array.from({ length: bytes.length / 4 }, (_value, place) => bytes.readFloatLE(place * 4));
}
