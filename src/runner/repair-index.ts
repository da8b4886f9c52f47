import type { MemoryModel } from '../generated/prisma/models.ts';
import { countPendingChunks } from '../services/memory.ts';
import { listChunkIds, readMemory, requeueMissing } from '../services/memory-index.ts';
import type { MemoryIndex } from '../services/memory-search.ts';
import type { TaskRun } from './run-task.ts';

/** One attempt at a task that works on a memory. */
export interface MemoryRun extends TaskRun {
  index: MemoryIndex;
  memory: MemoryModel;
  /** The collection of the memory. */
  collection: string;
}

/** Ids that are compared at a time. */
const page = 10_000;

/**
 * Checks that the index has exactly the chunks of the text: counts first, and where they differ, each id. Points that nobody stands for are taken away, chunks without a point are queued.
 * @returns false when something was queued, so that there is more to do
 * @throws CollectionMissingError when the index has lost the collection
 */
export async function repairIndex(run: MemoryRun): Promise<boolean> {
  const { operation, index, collection } = run;
  const memory = await readMemory(operation.read, run.memory.id);
  if (index.vectors === null || memory === null || memory.collectionModel === null) {
    return true;
  }
  const points = await index.vectors.count(collection);
  if ((await countPendingChunks(operation.read, memory.id)) > 0) {
    // Written to in the meantime: that is done first.
    return false;
  }
  return BigInt(points) === memory.chunks || !(await compareIds(run));
}

/** What one side has and the other has not. */
export function compareIdSets(
  wanted: readonly string[],
  present: readonly string[],
): { missing: string[]; strays: string[] } {
  const [isWanted, isPresent] = [new Set(wanted), new Set(present)];
  return { missing: wanted.filter((id) => !isPresent.has(id)), strays: present.filter((id) => !isWanted.has(id)) };
}

/** @returns whether anything was queued */
async function compareIds({ operation, index, memory, collection, signal }: MemoryRun): Promise<boolean> {
  let queued = false;
  let after: string | null = null;
  for (;;) {
    signal.throwIfAborted();
    const wanted = await listChunkIds(operation.read, memory.id, { after, through: null, limit: page });
    const through: string | null = wanted.length < page ? null : (wanted.at(-1) ?? null);
    const present = await listPoints(index, collection, after, through);
    const { missing, strays } = compareIdSets(wanted, present);
    if (strays.length > 0) {
      await index.vectors?.remove(collection, strays);
    }
    if (missing.length > 0) {
      queued = true;
      await operation.write((write) => requeueMissing(write, memory.id, missing));
    }
    if (through === null) {
      return queued;
    }
    after = through;
  }
}

/** Ids of points behind `after` up to and with `through`; both sides order ids alike. */
async function listPoints(
  index: MemoryRun['index'],
  collection: string,
  after: string | null,
  through: string | null,
): Promise<string[]> {
  const ids: string[] = [];
  let last = after;
  for (;;) {
    const found: string[] = (await index.vectors?.listIds(collection, last, page)) ?? [];
    ids.push(...found.filter((id) => through === null || id <= through));
    last = found.at(-1) ?? null;
    if (found.length < page || last === null || (through !== null && last >= through)) {
      return ids;
    }
  }
}
