import { statement } from '../adapters/postgres.ts';
import { notFound } from '../errors.ts';
import type { MemoryKind } from '../generated/prisma/enums.ts';
import type { MemoryDocumentModel, MemoryModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { reserveLane } from '../queue/lane.ts';
import { type Condition, type List, loadPage, type Page, type PageArguments, whereGiven } from './page.ts';
import { rowsById, tables } from './table.ts';

/** Which documents of a memory are meant; all conditions that are given must hold. */
export interface DocumentFilter {
  source?: string | null | undefined;
  /** This path, or what lies below it as a folder. */
  path?: string | null | undefined;
  kinds?: readonly MemoryKind[] | null | undefined;
}

const documentList: List<MemoryDocumentModel> = {
  table: tables.memoryDocument,
  order: [{ field: 'id', column: 'id', type: 'uuid' }],
  direction: 'ascending',
};

const loadDocuments = rowsById<MemoryDocumentModel>(tables.memoryDocument);
const loadMemories = rowsById<MemoryModel>(tables.memory);

const addLane = statement(`
  INSERT INTO lanes (user_id, kind, agent_id, max_running)
  SELECT user_id, 'MEMORY', id, 1 FROM agents WHERE user_id = $1 AND id = $2
  ON CONFLICT (user_id, agent_id, kind) DO NOTHING`);
const findLane = statement<{ id: string }>(
  `SELECT id FROM lanes WHERE user_id = $1 AND agent_id = $2 AND kind = 'MEMORY'`,
);
const addMemory = statement(
  `INSERT INTO memories (user_id, id, agent_id) VALUES ($1, $2, $2) ON CONFLICT (user_id, id) DO NOTHING`,
);
const countPending = statement<{ pending: number }>(
  `SELECT count(*)::float8 AS pending FROM memory_pending WHERE user_id = $1 AND memory_id = $2`,
);
const listSources = statement<{ source: string; documents: number; bytes: number; updatedAt: Date }>(`
  SELECT source, count(*)::int AS documents, sum(bytes)::float8 AS bytes, max(updated_at) AS "updatedAt"
  FROM memory_documents WHERE user_id = $1 AND memory_id = $2 GROUP BY source ORDER BY source LIMIT 1000`);

/** What the caller's agent remembers as a whole; null when it has never been given anything. */
export async function memoryByAgent(operation: ReadOperation, agentId: string): Promise<MemoryModel | null> {
  const memory = await operation.load(loadMemories, agentId);
  return memory?.agentId === agentId ? memory : null;
}

/** The caller's document of that id, or null. */
export function memoryDocumentById(operation: ReadOperation, id: string): Promise<MemoryDocumentModel | null> {
  return operation.load(loadDocuments, id);
}

/** Documents of an agent's memory, oldest first. None for an agent that the caller does not have. */
export function listMemoryDocuments(
  operation: ReadOperation,
  agentId: string,
  page: PageArguments,
  filter: DocumentFilter = {},
): Promise<Page<MemoryDocumentModel>> {
  const conditions: Condition[] = [
    ...whereGiven('memory_id = ?', agentId),
    ...whereGiven('source = ?', filter.source),
    ...whereGiven('kind = ANY (?::memory_kind[])', filter.kinds),
  ];
  if (filter.path !== null && filter.path !== undefined) {
    const path = normalisePath(filter.path);
    conditions.push({ sql: '(path = ? OR starts_with(path, ?))', values: [path, `${path}/`] });
  }
  return loadPage(operation, documentList, page, conditions);
}

/** The sources that an agent's memory was filled from, by name; at most 1,000. */
export function listMemorySources(operation: ReadOperation, agentId: string) {
  return operation.query(listSources, [operation.userId, agentId]);
}

/** How many chunks the index still has to be told of. */
export async function countPendingChunks(operation: ReadOperation, memoryId: string): Promise<number> {
  const [row] = await operation.query(countPending, [operation.userId, memoryId]);
  return row?.pending ?? 0;
}

/**
 * Locks the lane in which an agent's memory is worked on, one task at a time, and makes both at the first use. Call it
 * first in a transaction.
 * @returns the lane's id
 * @throws DomainError NOT_FOUND, AGENT_QUEUE_FULL
 */
export async function lockMemory(operation: WriteOperation, agentId: string, field: string): Promise<string> {
  await operation.query(addLane, [operation.userId, agentId]);
  const [lane] = await operation.query(findLane, [operation.userId, agentId]);
  if (lane === undefined || !(await reserveLane(operation, lane.id, field))) {
    throw notFound('agent', field);
  }
  await operation.query(addMemory, [operation.userId, agentId]);
  return lane.id;
}

/** A path as it is compared: without what changes nothing about the place that it names. */
export function normalisePath(path: string): string {
  return path.replace(/^(\.?\/+)+/, '').replace(/(?<!\/)\/+$/, '');
}
