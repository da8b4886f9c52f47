import { CollectionMissingError } from '../adapters/qdrant.ts';
import { DomainError } from '../errors.ts';
import type { memoryTaskKinds } from '../queue/kind.ts';
import { StaleAttemptError } from '../queue/task.ts';
import { agentById } from '../services/agent.ts';
import { completeAttempt } from '../services/attempt.ts';
import { embeddedText } from '../services/chunk.ts';
import { countPendingChunks } from '../services/memory.ts';
import {
  acknowledgePending,
  collectionModelOf,
  collectionName,
  dropUnusedEmbeddings,
  forgetMemoryCollection,
  knownEmbeddings,
  nextPending,
  type PendingChunk,
  readMemory,
  requeueChunks,
  saveEmbeddings,
  saveMemoryPoints,
  setMemoryCollection,
} from '../services/memory-index.ts';
import { memoryJobByTask, type PruneCriteria, passTurn, waitForIndex } from '../services/memory-job.ts';
import { pruneBatch, standingCriteria } from '../services/memory-prune.ts';
import type { MemoryIndex } from '../services/memory-search.ts';
import { type MemoryRun, repairIndex } from './repair-index.ts';
import type { TaskHandler, TaskRun } from './run-task.ts';

/** How long a task works before others get its slot, in milliseconds. */
const turn = 5_000;
/** Chunks that are embedded and stored in the index at a time. */
const batch = 128;
/** Pause before the index is tried again when it was away, in milliseconds. */
const indexPause = 5_000;
/** Points from which on a collection gets indexes for filters; small ones are filtered quickly without. */
const manyPoints = 20_000;
const progressInterval = 1_000;

/** Handlers of all kinds of memory tasks. */
export function createMemoryHandlers(index: MemoryIndex): Record<(typeof memoryTaskKinds)[number], TaskHandler> {
  const handler: TaskHandler = (run) => runMemoryTask(run, index);
  return { INGEST: handler, PRUNE: handler, REBUILD: handler };
}

/**
 * Prunes what is to be pruned, then brings the index in line with the text, piece by piece: what a piece has done is
 * stored before the next one begins, so that a crash repeats one piece at most, over the same ids.
 */
async function runMemoryTask(run: TaskRun, index: MemoryIndex): Promise<void> {
  const { operation, claim, task } = run;
  const memory = task.agentId === null ? null : await readMemory(operation.read, task.agentId);
  if (memory === null) {
    throw new StaleAttemptError();
  }
  const memoryRun = { ...run, index, memory, collection: collectionName(operation.userId, memory.id) };
  try {
    const isDone = await work(memoryRun, performance.now() + turn);
    await run.progress.end();
    await operation.write(async (write) => {
      if (!isDone) {
        await passTurn(write, claim);
        return;
      }
      await completeAttempt(write, claim);
      write.emit({ type: 'ingest_progress', sessionId: null, taskId: task.id, agentId: memory.id, pending: 0 });
    });
  } catch (error) {
    if (!(error instanceof DomainError && error.code === 'MEMORY_INDEX_UNAVAILABLE') || run.signal.aborted) {
      throw error;
    }
    await run.progress.end();
    await operation.write((write) => waitForIndex(write, claim, indexPause));
  }
}

/** @returns false when the turn was over before the work was */
async function work(run: MemoryRun, until: number): Promise<boolean> {
  const { operation, memory, claim, task } = run;
  const agent = await agentById(operation.read, memory.id);
  const criteria = task.kind === 'PRUNE' ? (task.input as PruneCriteria) : {};
  // What an agent's own settings let go of goes with every job, whatever that was for.
  for (const what of [criteria, agent === null ? {} : standingCriteria(operation.read, agent)]) {
    let pruned = Object.keys(what).length === 0 ? 0 : 1;
    while (pruned > 0) {
      run.signal.throwIfAborted();
      pruned = await operation.write((write) => pruneBatch(write, claim, memory.id, what));
      if (performance.now() > until) {
        return false;
      }
    }
  }
  if (task.kind === 'PRUNE') {
    await operation.write(dropUnusedEmbeddings);
  }
  if (run.index.vectors === null) {
    return true;
  }
  try {
    return await bringInLine(run, until);
  } catch (error) {
    if (!(error instanceof CollectionMissingError)) {
      throw error;
    }
    // The index has lost the collection: the next turn makes it anew from the text.
    await operation.write((write) => forgetMemoryCollection(write, memory.id));
    return false;
  }
}

async function bringInLine(run: MemoryRun, until: number): Promise<boolean> {
  const { operation, memory } = run;
  if (memory.collectionModel !== collectionModelOf(run.index) && memory.chunks > 0n) {
    await requeueAll(run);
  }
  const job = await memoryJobByTask(operation.read, run.task.id);
  let pending = await countPendingChunks(operation.read, memory.id);
  let done = Number(job?.indexed ?? 0) + Number(job?.unindexed ?? 0);
  const total = done + pending;
  let told = performance.now();
  for (;;) {
    run.signal.throwIfAborted();
    const chunks = await nextPending(operation.read, memory.id, batch);
    if (chunks.length === 0) {
      // What was found missing or left over is queued now; the next rounds do it.
      if (await repairIndex(run)) {
        await finishIndex(run);
        return true;
      }
    } else {
      await indexBatch(run, chunks);
    }
    done += chunks.length;
    pending = Math.max(0, total - done);
    run.progress.report(done / Math.max(total, done, 1), `${done} of ${Math.max(total, done)} chunks`);
    const now = performance.now();
    if (now - told > progressInterval && chunks.length > 0) {
      told = now;
      await operation.write(async (write) =>
        write.emit({ type: 'ingest_progress', sessionId: null, taskId: run.task.id, agentId: memory.id, pending }),
      );
    }
    if (now > until) {
      return false;
    }
  }
}

async function indexBatch(run: MemoryRun, chunks: readonly PendingChunk[]): Promise<void> {
  const { operation, claim, index, memory, collection } = run;
  const added = chunks.filter(({ chunk }) => chunk !== null);
  const gone = chunks.filter(({ chunk }) => chunk === null).map(({ chunkId }) => chunkId);
  const { byHash, embedded } = await embed(run, added);
  const [first] = byHash.values();
  if (first !== undefined) {
    await ensureCollection(run, first.length);
    await index.vectors?.upsert(
      collection,
      added.flatMap(({ chunkId, chunk }) => {
        const vector = chunk === null ? undefined : byHash.get(chunk.hash);
        return chunk === null || vector === undefined ? [] : [{ id: chunkId, vector, payload: chunk.payload }];
      }),
    );
  }
  if (gone.length > 0 && memory.collectionModel !== null) {
    await index.vectors?.remove(collection, gone);
  }
  const counts = { indexed: added.length, unindexed: gone.length, embedded, reused: added.length - embedded };
  await operation.write((write) => acknowledgePending(write, claim, memory.id, chunks, counts));
}

/** Vectors of the chunks' texts by their hashes; only what was never embedded before is sent to the model. */
async function embed(
  run: MemoryRun,
  chunks: readonly PendingChunk[],
): Promise<{ byHash: Map<string, number[]>; embedded: number }> {
  const { operation, claim, resources, index, signal } = run;
  const texts = new Map(
    chunks.flatMap(({ chunk }) => (chunk === null ? [] : [[chunk.hash, embeddedText(chunk)] as const])),
  );
  const byHash = await knownEmbeddings(operation.read, index.embeddingModel, [...texts.keys()]);
  const missing = [...texts].filter(([hash]) => !byHash.has(hash));
  if (missing.length > 0) {
    const started = performance.now();
    const { vectors, promptTokens } = await resources.model.embed({
      model: index.embeddingModel,
      texts: missing.map(([, text]) => text),
      signal,
    });
    const made = missing.map(([hash], place) => ({ hash, vector: vectors[place] ?? [] }));
    const durationMilliseconds = Math.round(performance.now() - started);
    await operation.write((write) =>
      saveEmbeddings(write, claim, index.embeddingModel, made, { promptTokens, durationMilliseconds }),
    );
    for (const { hash, vector } of made) {
      byHash.set(hash, vector);
    }
  }
  return { byHash, embedded: missing.length };
}

/** Makes the collection at first use, and anew when it was made for another model or layout. Everything is queued by then. */
async function ensureCollection(run: MemoryRun, dimensions: number): Promise<void> {
  const { operation, claim, index, memory, collection } = run;
  const model = collectionModelOf(index);
  if (memory.collectionModel === model && memory.collectionDimensions === dimensions) {
    return;
  }
  if (memory.collectionModel === model) {
    await requeueAll(run);
  }
  await index.vectors?.remakeCollection(collection, dimensions);
  await operation.write((write) => setMemoryCollection(write, claim, memory.id, { model, dimensions }));
  memory.collectionModel = model;
  memory.collectionDimensions = dimensions;
}

async function requeueAll({ operation, memory, signal }: MemoryRun): Promise<void> {
  let after: string | null = null;
  do {
    signal.throwIfAborted();
    const page: string | null = after;
    after = await operation.write((write) => requeueChunks(write, memory.id, page));
  } while (after !== null);
}

async function finishIndex({ operation, index, memory, collection }: MemoryRun): Promise<void> {
  if (index.vectors === null || memory.collectionModel === null) {
    return;
  }
  const points = await index.vectors.count(collection);
  await operation.write((write) => saveMemoryPoints(write, memory.id, points));
  if (points >= manyPoints) {
    await index.vectors.indexPayload(collection);
  }
}
