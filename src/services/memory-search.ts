import { z } from 'zod';
import type { Embeddings, LanguageModel } from '../adapters/llm.ts';
import { statement } from '../adapters/postgres.ts';
import { CollectionMissingError, type FoundPoint, type PointFilter, type VectorStore } from '../adapters/qdrant.ts';
import { badInput, DomainError, notFound } from '../errors.ts';
import { MemoryKind } from '../generated/prisma/enums.ts';
import type { MemoryModel } from '../generated/prisma/models.ts';
import type { Operation, ReadOperation, WriteOperation } from '../operation.ts';
import { parseInput, text } from './input.ts';
import { lockMemory, memoryByAgent } from './memory.ts';
import { collectionModelOf, collectionName, forgetMemoryCollection } from './memory-index.ts';
import { pathRule, sourceRule } from './memory-ingest.ts';
import { startMemoryJob } from './memory-job.ts';
import { hasTokensLeft } from './quota.ts';
import { joinByReciprocalRank } from './reciprocal-rank.ts';
import { recordUse } from './usage.ts';

/** What a search reaches beside the database. */
export interface MemoryIndex {
  /** Null when the service was started without a vector store. */
  vectors: VectorStore | null;
  /** Name of the model that texts and questions are embedded with. */
  embeddingModel: string;
  /** Longest wait for the question's vector, in milliseconds: the words have answered long before. */
  embedTimeout: number;
}

export interface MemorySearchInput {
  agentId: string;
  query: string;
  first?: number | null | undefined;
  filter?: MemorySearchFilter | null | undefined;
}

export interface MemorySearchFilter {
  source?: string | null | undefined;
  path?: string | null | undefined;
  kinds?: readonly MemoryKind[] | null | undefined;
  since?: Date | null | undefined;
  until?: Date | null | undefined;
}

/** Why a search was answered by words alone. */
export type DegradedReason = 'INDEX_UNAVAILABLE' | 'MODEL_UNAVAILABLE' | 'QUOTA_EXCEEDED' | 'REBUILDING';

export interface MemoryMatch {
  chunkId: string;
  documentId: string;
  source: string;
  path: string;
  kind: MemoryKind;
  heading: string;
  content: string;
  startLine: number;
  endLine: number;
  /** Reciprocal rank over both searches: orders the matches of one answer. */
  score: number;
  /** Cosine similarity to the question; null when only its words were found. */
  similarity: number | null;
  updatedAt: Date;
}

export interface MemorySearch {
  matches: MemoryMatch[];
  /** Null when both searches answered. */
  degraded: DegradedReason | null;
}

export const defaultMatches = 10;
export const mostMatches = 50;
/** Results of each of the two searches that are joined. */
const candidates = 50;
/** Chunks with the searched words that are ranked at most: a bound on the work of a search for common words. */
const rankedByWords = 300;
/** Words of a question that are searched for. */
const mostWords = 24;
/** How old the note of the last use may get before it is renewed, in milliseconds: a search is no write. */
const usedNoteAge = 3_600_000;

const rules = z.object({
  query: text('query')
    .min(1, '`query` may not be empty.')
    .max(4_000, '`query` may have at most 4,000 characters.')
    .refine((query) => query.isWellFormed(), '`query` holds half of a surrogate pair.'),
  first: z
    .int()
    .min(1, `\`first\` must be from 1 to ${mostMatches}.`)
    .max(mostMatches, `\`first\` must be from 1 to ${mostMatches}.`)
    .nullish(),
  filter: z
    .object({
      source: sourceRule.nullish(),
      path: pathRule.nullish(),
      kinds: z.array(z.enum(Object.values(MemoryKind))).nullish(),
      since: z.date().nullish(),
      until: z.date().nullish(),
    })
    .nullish(),
});

const findAgent = statement<{ id: string }>(`SELECT id FROM agents WHERE user_id = $1 AND id = $2`);
const searchWords = statement<{ id: string }>(`
  SELECT chunk_id AS id FROM app.search_words($1, $2, $3, $4, $5::memory_kind[], $6, $7, ${rankedByWords}, ${candidates})`);
const selectChunks = statement<Omit<MemoryMatch, 'score' | 'similarity'> & Record<string, unknown>>(`
  SELECT chunks.id AS "chunkId", documents.id AS "documentId", documents.source, documents.path, documents.kind,
    chunks.heading, chunks.content, chunks.start_line AS "startLine", chunks.end_line AS "endLine",
    documents.updated_at AS "updatedAt"
  FROM memory_chunks AS chunks
  JOIN memory_documents AS documents ON documents.user_id = chunks.user_id AND documents.id = chunks.document_id
  WHERE chunks.user_id = $1 AND chunks.memory_id = $2 AND chunks.id = ANY ($3::uuid[])`);
const findOpenJob = statement<{ open: boolean }>(`
  SELECT EXISTS (
    SELECT FROM tasks WHERE user_id = $1 AND agent_id = $2 AND kind IN ('INGEST', 'REBUILD')
      AND state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
  ) AS open`);
const noteUse = statement(`UPDATE memories SET used_at = now() WHERE user_id = $1 AND id = $2`);

/**
 * Searches an agent's memory by meaning and by words at once, and joins what both find. Without the index or the model it
 * answers by words alone and says why. No transaction is open while it waits for either.
 * @throws DomainError NOT_FOUND, BAD_USER_INPUT
 */
export async function searchMemory(
  index: MemoryIndex,
  model: Pick<LanguageModel, 'embed'>,
  operation: Operation,
  input: MemorySearchInput,
  signal: AbortSignal,
): Promise<MemorySearch> {
  const { query, first, filter } = parseInput(rules, input, '');
  const { agentId } = input;
  const [agent] = await operation.read.query(findAgent, [operation.userId, agentId]);
  if (agent === undefined) {
    throw notFound('agent', 'agentId');
  }
  const memory = await memoryByAgent(operation.read, agentId);
  if (memory === null || memory.chunks === 0n) {
    return { matches: [], degraded: null };
  }
  if (filter?.since && filter.until && filter.since >= filter.until) {
    throw badInput('filter.until', '`until` must lie behind `since`.');
  }
  const [dense, lexical] = await Promise.all([
    searchByMeaning(index, model, operation, memory, query, filter ?? {}, signal),
    searchByWords(operation.read, agentId, query, filter ?? {}),
  ]);
  const points = 'found' in dense ? dense.found : [];
  const joined = joinByReciprocalRank([points.map(({ id }) => id), lexical]).slice(0, first ?? defaultMatches);
  const matches = await readMatches(operation.read, agentId, joined, points);
  await renew(operation, memory, 'degraded' in dense && dense.isLost === true);
  return { matches, degraded: 'degraded' in dense ? dense.degraded : null };
}

type Dense = { found: FoundPoint[] } | { degraded: DegradedReason; isLost?: boolean };

async function searchByMeaning(
  index: MemoryIndex,
  model: Pick<LanguageModel, 'embed'>,
  operation: Operation,
  memory: MemoryModel,
  query: string,
  filter: MemorySearchFilter,
  signal: AbortSignal,
): Promise<Dense> {
  if (index.vectors === null) {
    return { degraded: 'INDEX_UNAVAILABLE' };
  }
  if (memory.collectionModel !== collectionModelOf(index)) {
    // Not made yet, dropped because nobody used it, or made for another model or layout.
    return { degraded: 'REBUILDING', isLost: true };
  }
  if (!(await hasTokensLeft(operation.read))) {
    return { degraded: 'QUOTA_EXCEEDED' };
  }
  const asked = performance.now();
  const question = await embedQuestion(index, model, query, signal);
  if (question === null) {
    return { degraded: 'MODEL_UNAVAILABLE' };
  }
  const durationMilliseconds = Math.round(performance.now() - asked);
  const [dense] = await Promise.all([
    findNearest(index.vectors, operation, memory, question.vectors[0] ?? [], filter),
    noteQuestion(operation, memory.id, question, durationMilliseconds),
  ]);
  return dense;
}

/** Null when the model gives no vector in time. */
async function embedQuestion(
  index: MemoryIndex,
  model: Pick<LanguageModel, 'embed'>,
  query: string,
  signal: AbortSignal,
): Promise<Embeddings | null> {
  const patience = AbortSignal.timeout(index.embedTimeout);
  try {
    return await model.embed({
      model: index.embeddingModel,
      texts: [query],
      signal: AbortSignal.any([signal, patience]),
    });
  } catch (error) {
    if (signal.aborted || !(error instanceof DomainError || patience.aborted)) {
      throw error;
    }
    return null;
  }
}

/** Writes down what the question cost, while the index is searched. */
async function noteQuestion(
  operation: Operation,
  agentId: string,
  { model, promptTokens, isKept }: Embeddings,
  durationMilliseconds: number,
): Promise<void> {
  if (isKept !== true) {
    const use = { kind: 'EMBEDDING' as const, model, promptTokens, completionTokens: 0, durationMilliseconds };
    await operation.write((write) => recordUse(write, agentId, use));
  }
}

async function findNearest(
  vectors: VectorStore,
  operation: Operation,
  memory: MemoryModel,
  vector: number[],
  filter: MemorySearchFilter,
): Promise<Dense> {
  if (vector.length !== memory.collectionDimensions) {
    return { degraded: 'MODEL_UNAVAILABLE' };
  }
  try {
    const name = collectionName(operation.userId, memory.id);
    return { found: await vectors.search(name, { vector, limit: candidates, filter: toPointFilter(filter) }) };
  } catch (error) {
    if (error instanceof CollectionMissingError) {
      return { degraded: 'REBUILDING', isLost: true };
    }
    if (error instanceof DomainError) {
      return { degraded: 'INDEX_UNAVAILABLE' };
    }
    throw error;
  }
}

async function searchByWords(
  operation: ReadOperation,
  memoryId: string,
  query: string,
  filter: MemorySearchFilter,
): Promise<string[]> {
  const words = [...new Set(query.split(/\s+/))].slice(0, mostWords * 2).join(' ');
  const { source = null, path = null, kinds = null, since = null, until = null } = filter;
  const rows = await operation.query(searchWords, [memoryId, words, source, path, kinds, since, until]);
  return rows.map(({ id }) => id);
}

/** Reads what was found. What the index still holds but the memory no longer has falls out here. */
async function readMatches(
  operation: ReadOperation,
  memoryId: string,
  joined: ReturnType<typeof joinByReciprocalRank>,
  points: readonly FoundPoint[],
): Promise<MemoryMatch[]> {
  const ids = joined.map(({ id }) => id);
  const rows = await operation.query(selectChunks, [operation.userId, memoryId, ids]);
  const byId = new Map(rows.map((row) => [row.chunkId, row]));
  const similarity = new Map(points.map(({ id, score }) => [id, score]));
  return joined.flatMap(({ id, score }) => {
    const row = byId.get(id);
    return row === undefined ? [] : [{ ...row, score, similarity: similarity.get(id) ?? null }];
  });
}

/** Notes the use, so that the collection is kept, and has one that is gone made anew. Neither may fail the search. */
async function renew(operation: Operation, memory: MemoryModel, isLost: boolean): Promise<void> {
  const isNoted = operation.read.clock.now().getTime() - memory.usedAt.getTime() < usedNoteAge;
  const isToRebuild = isLost && !(await hasOpenJob(operation.read, memory.id));
  if (isNoted && !isToRebuild) {
    return;
  }
  try {
    await operation.write(async (write) => {
      if (isToRebuild) {
        await rebuild(write, memory.id);
      }
      await write.query(noteUse, [write.userId, memory.id]);
    });
  } catch (error) {
    if (!(error instanceof DomainError)) {
      throw error;
    }
  }
}

/** Of many searches that find the collection gone, one has it made anew. */
async function rebuild(operation: WriteOperation, agentId: string): Promise<void> {
  const laneId = await lockMemory(operation, agentId, 'agentId');
  if (!(await hasOpenJob(operation, agentId))) {
    await forgetMemoryCollection(operation, agentId);
    await startMemoryJob(operation, { agentId, laneId, kind: 'REBUILD' }, {});
  }
}

async function hasOpenJob(operation: ReadOperation, agentId: string): Promise<boolean> {
  const [row] = await operation.query(findOpenJob, [operation.userId, agentId]);
  return row?.open ?? false;
}

function toPointFilter(filter: MemorySearchFilter): PointFilter {
  return {
    ...(filter.source ? { source: filter.source } : {}),
    ...(filter.path ? { within: filter.path } : {}),
    ...(filter.kinds ? { kinds: filter.kinds } : {}),
    ...(filter.since ? { since: filter.since } : {}),
    ...(filter.until ? { until: filter.until } : {}),
  };
}
