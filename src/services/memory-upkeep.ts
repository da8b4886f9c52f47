import { type Database, statement } from '../adapters/postgres.ts';
import type { VectorStore } from '../adapters/qdrant.ts';
import { DomainError } from '../errors.ts';
import type { Operation, WriteOperation } from '../operation.ts';
import { lockMemory } from './memory.ts';
import { collectionName, forgetMemoryCollection } from './memory-index.ts';
import { removeDocuments } from './memory-ingest.ts';
import { startMemoryJob } from './memory-job.ts';
import { doEach } from './upkeep.ts';

type OpenOperation = (userId: string) => Operation;
type DueMemory = { userId: string; memoryId: string };

/** Count and size of all collections of all users. */
export interface MemoryTotals {
  collections: number;
  points: number;
  /** Bytes of the vectors alone, as 32-bit numbers. */
  vectorBytes: number;
}

const batch = 20;
/** Documents, and entries of the queue, that one commit takes away. */
const documentsAtOnce = 50;
const pendingAtOnce = 5_000;
const pruneEveryDays = 1;

const due = 'user_id AS "userId", memory_id AS "memoryId"';
const orphaned = statement<DueMemory>(`SELECT ${due} FROM queue.orphaned_memories($1)`);
const unused = statement<DueMemory>(`SELECT ${due} FROM queue.unused_memories(make_interval(days => $1), $2)`);
const excess = statement<DueMemory & { usedAt: Date }>(
  `SELECT ${due}, used_at AS "usedAt" FROM queue.excess_memories($1, $2)`,
);
const aging = statement<DueMemory>(`SELECT ${due} FROM queue.aging_memories(make_interval(days => $1), $2)`);
const totals = statement<MemoryTotals & Record<string, unknown>>(`
  SELECT collections::float8 AS collections, points::float8 AS points, vector_bytes::float8 AS "vectorBytes"
  FROM queue.memory_totals()`);
const selectDocuments = statement<{ id: string }>(
  `SELECT id FROM memory_documents WHERE user_id = $1 AND memory_id = $2 LIMIT ${documentsAtOnce}`,
);
const dropPending = statement<{ id: string }>(`
  DELETE FROM memory_pending WHERE user_id = $1 AND memory_id = $2 AND chunk_id IN (
    SELECT chunk_id FROM memory_pending WHERE user_id = $1 AND memory_id = $2 LIMIT ${pendingAtOnce}
  ) RETURNING chunk_id AS id`);
const dropMemory = statement(`DELETE FROM memories WHERE user_id = $1 AND id = $2 AND agent_id IS NULL`);
const notePruned = statement(`UPDATE memories SET pruned_at = now() WHERE user_id = $1 AND id = $2`);
const lockUnused = statement<{ id: string }>(`
  SELECT id FROM memories WHERE user_id = $1 AND id = $2 AND used_at < now() - make_interval(days => $3) FOR NO KEY UPDATE`);
const findIdle = statement<{ id: string }>(`
  SELECT id FROM memories WHERE user_id = $1 AND id = $2 AND used_at = $3 AND NOT EXISTS (
    SELECT FROM lanes WHERE lanes.user_id = $1 AND lanes.agent_id = memories.agent_id AND lanes.kind = 'MEMORY'
      AND lanes.blocked + lanes.queued + lanes.retrying + lanes.running > 0
  )`);
const lockSince = statement<{ id: string }>(
  `SELECT id FROM memories WHERE user_id = $1 AND id = $2 AND used_at = $3 FOR NO KEY UPDATE`,
);

/**
 * Takes away what deleted agents remembered: first the collection, then the text in pieces, last the memory's own row,
 * which is what keeps the rest from being forgotten when the process dies or the index is away.
 * @returns how many memories; at most 20 a call
 * @throws the first fault, when all others are done
 */
export async function removeOrphanedMemories(
  database: Database,
  openOperation: OpenOperation,
  vectors: VectorStore | null,
): Promise<number> {
  const memories = await database.query(orphaned, [batch]);
  await doEach(memories, async ({ userId, memoryId }) => {
    const operation = openOperation(userId);
    await vectors?.dropCollection(collectionName(userId, memoryId));
    while (await operation.write((write) => removeSomeDocuments(write, memoryId))) {
      // Each round is a commit of its own, and the documents come to an end.
    }
    while ((await operation.write((write) => write.query(dropPending, [userId, memoryId]))).length > 0) {
      // As above.
    }
    await operation.write((write) => write.query(dropMemory, [userId, memoryId]));
  });
  return memories.length;
}

/**
 * Drops collections that nobody has searched in or written to for long. The text stays; the next search has the collection
 * made anew.
 * @returns how many; at most 20 a call
 * @throws the first fault, when all others are done
 */
export async function dropUnusedCollections(
  database: Database,
  openOperation: OpenOperation,
  vectors: VectorStore,
  unusedDays: number,
): Promise<number> {
  const memories = await database.query(unused, [unusedDays, batch]);
  await doEach(memories, async ({ userId, memoryId }) => {
    // Dropped first: should the process die in between, the next round comes by again. Who searches meanwhile finds it
    // gone, has it made anew and thereby used it.
    await vectors.dropCollection(collectionName(userId, memoryId));
    await openOperation(userId).write(async (write) => {
      const [memory] = await write.query(lockUnused, [userId, memoryId, unusedDays]);
      if (memory !== undefined) {
        await forgetMemoryCollection(write, memoryId);
      }
    });
  });
  return memories.length;
}

/**
 * Drops the least recently used collections above a number, and none whose memory is being worked on. The text stays; the
 * next search has the collection made anew. A search notes its use once an hour, so that hours are what "recently" knows.
 * @returns how many; at most 20 a call
 * @throws the first fault, when all others are done
 */
export async function dropExcessCollections(
  database: Database,
  openOperation: OpenOperation,
  vectors: VectorStore,
  most: number,
): Promise<number> {
  const memories = await database.query(excess, [most, batch]);
  let dropped = 0;
  await doEach(memories, async ({ userId, memoryId, usedAt }) => {
    const operation = openOperation(userId);
    // Others were dropped since this one was found: it may be at work by now.
    if ((await operation.read.query(findIdle, [userId, memoryId, usedAt])).length === 0) {
      return;
    }
    // Dropped first, as above. Whoever has it made anew meanwhile changes the time of the last use.
    await vectors.dropCollection(collectionName(userId, memoryId));
    dropped += 1;
    await operation.write(async (write) => {
      const [memory] = await write.query(lockSince, [userId, memoryId, usedAt]);
      if (memory !== undefined) {
        await forgetMemoryCollection(write, memoryId);
      }
    });
  });
  return dropped;
}

/**
 * Has memories pruned once a day whose agents keep nothing beyond an age.
 * @returns how many; at most 20 a call
 * @throws the first fault, when all others are done
 */
export async function pruneAgingMemories(database: Database, openOperation: OpenOperation): Promise<number> {
  const memories = await database.query(aging, [pruneEveryDays, batch]);
  await doEach(memories, ({ userId, memoryId }) =>
    openOperation(userId).write(async (write) => {
      await startPruning(write, memoryId).catch(ignoreExpected);
      await write.query(notePruned, [userId, memoryId]);
    }),
  );
  return memories.length;
}

/** Count and size of all collections, for metrics. */
export async function memoryTotals(database: Database): Promise<MemoryTotals> {
  const [row] = await database.query(totals);
  return row ?? { collections: 0, points: 0, vectorBytes: 0 };
}

async function removeSomeDocuments(operation: WriteOperation, memoryId: string): Promise<boolean> {
  const documents = await operation.query(selectDocuments, [operation.userId, memoryId]);
  await removeDocuments(
    operation,
    documents.map(({ id }) => id),
  );
  return documents.length > 0;
}

async function startPruning(operation: WriteOperation, agentId: string): Promise<void> {
  const laneId = await lockMemory(operation, agentId, 'agentId');
  await startMemoryJob(operation, { agentId, laneId, kind: 'PRUNE' }, {});
}

/** The agent may be deleted at this moment, or its lane full: the next day's round comes by again. */
function ignoreExpected(error: unknown): void {
  if (!(error instanceof DomainError)) {
    throw error;
  }
}
