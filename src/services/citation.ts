import { statement } from '../adapters/postgres.ts';
import type { MemoryCitationModel } from '../generated/prisma/models.ts';
import { type BatchLoad, type ReadOperation, type WriteOperation, writeTogether } from '../operation.ts';
import { type Claim, holdAttempt } from '../queue/task.ts';
import type { MemoryMatch, MemorySearch } from './memory-search.ts';

/** A chunk that an answer was drawn from, with its text as long as it is still remembered. */
export interface Citation extends Omit<MemoryCitationModel, 'userId' | 'taskId'> {
  taskId: string;
  content: string | null;
}

/** Most citations of one answer. */
const mostCitations = 40;

const insert = statement(`
  INSERT INTO memory_citations
    (user_id, task_id, position, document_id, chunk_id, source, path, heading, start_line, end_line, score)
  SELECT $1, $2, (SELECT coalesce(max(position), 0) FROM memory_citations WHERE user_id = $1 AND task_id = $2) + item.place,
    documents.id, chunks.id, item.source, item.path, item.heading, item.start_line, item.end_line, item.score
  FROM unnest($3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::integer[], $9::integer[], $10::float8[])
    WITH ORDINALITY AS item (document_id, chunk_id, source, path, heading, start_line, end_line, score, place)
  LEFT JOIN memory_documents AS documents ON documents.user_id = $1 AND documents.id = item.document_id
  LEFT JOIN memory_chunks AS chunks ON chunks.user_id = $1 AND chunks.id = item.chunk_id
  WHERE item.place <= ${mostCitations}
    - (SELECT coalesce(max(position), 0) FROM memory_citations WHERE user_id = $1 AND task_id = $2)
    AND NOT EXISTS (
      SELECT FROM memory_citations AS cited WHERE cited.user_id = $1 AND cited.task_id = $2 AND cited.chunk_id = item.chunk_id
    )`);
const select = statement<Citation & Record<string, unknown>>(`
  SELECT cited.task_id AS "taskId", cited.position, cited.document_id AS "documentId", cited.chunk_id AS "chunkId",
    cited.source, cited.path, cited.heading, cited.start_line AS "startLine", cited.end_line AS "endLine", cited.score,
    chunks.content
  FROM memory_citations AS cited
  LEFT JOIN memory_chunks AS chunks ON chunks.user_id = cited.user_id AND chunks.id = cited.chunk_id
  WHERE cited.user_id = $1 AND cited.task_id = ANY ($2::uuid[]) ORDER BY cited.task_id, cited.position`);

const loadCitations: BatchLoad<string, Citation[]> = async (operation, taskIds) => {
  const rows = await operation.query(select, [operation.userId, taskIds]);
  const byTask = Map.groupBy(rows, ({ taskId }) => taskId);
  return taskIds.map((id) => byTask.get(id) ?? []);
};

/** What a task drew from memory, in the order in which it was found. Of many tasks it is read in one statement. */
export function citationsOfTask(operation: ReadOperation, taskId: string): Promise<Citation[]> {
  return operation.load(loadCitations, taskId);
}

/** Keeps what a run found in its agent's memory, for the answer to cite, and tells of it. @throws StaleAttemptError */
export async function storeCitations(
  operation: WriteOperation,
  claim: Claim,
  context: { sessionId: string | null; agentId: string },
  { matches, degraded }: MemorySearch,
): Promise<void> {
  const column = <Value>(read: (match: MemoryMatch) => Value): Value[] => matches.map(read);
  const values = [
    operation.userId,
    claim.taskId,
    column(({ documentId }) => documentId),
    column(({ chunkId }) => chunkId),
    column(({ source }) => source),
    column(({ path }) => path),
    column(({ heading }) => heading),
    column(({ startLine }) => startLine),
    column(({ endLine }) => endLine),
    column(({ score }) => score),
  ];
  await writeTogether(
    operation,
    (write) => holdAttempt(write, claim),
    (write) => write.query(insert, values),
  );
  operation.emit({
    type: 'context_retrieved',
    sessionId: context.sessionId,
    taskId: claim.taskId,
    agentId: context.agentId,
    matches: matches.length,
    degraded: degraded !== null,
  });
}
