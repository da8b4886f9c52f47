import { createHash } from 'node:crypto';
import { z } from 'zod';
import { statement } from '../adapters/postgres.ts';
import { MemoryKind } from '../generated/prisma/enums.ts';
import type { WriteOperation } from '../operation.ts';
import { chunkText, embeddedText } from './chunk.ts';
import { parseInput, required, text } from './input.ts';
import { lockMemory, normalisePath } from './memory.ts';
import { startMemoryJob } from './memory-job.ts';
import { checkQuota } from './quota.ts';

export interface NewDocument {
  path: string;
  content: string;
  kind?: MemoryKind | null | undefined;
}

export interface IngestInput {
  agentId: string;
  source: string;
  documents: readonly NewDocument[];
}

/** Most documents that one call takes. */
export const mostDocuments = 500;
/** Sources that agents fill by themselves. */
export const notesSource = 'notes';
export const conversationsSource = 'conversations';

const kinds = Object.values(MemoryKind);

/** The name of a source, as every operation takes it. */
export const sourceRule = text('source')
  .min(1, '`source` may not be empty.')
  .max(100, '`source` may have at most 100 characters.');

/** A path, as every operation takes it. It only names a place: nothing is ever read from it. */
export const pathRule = z
  .string(required('path'))
  .max(1_000, '`path` may have at most 1,000 characters.')
  .regex(/^[^\p{Cc}]*$/u, '`path` may hold no control characters.')
  .transform(normalisePath)
  .refine((path) => path !== '', '`path` may not be empty.');

const rules = z.object({
  source: sourceRule,
  documents: z
    .array(
      z.object({
        path: pathRule,
        content: z
          .string(required('content'))
          .refine((content) => !content.includes('\u0000'), '`content` may not hold the character U+0000.')
          .refine((content) => content.isWellFormed(), '`content` holds half of a surrogate pair.'),
        kind: z.enum(kinds).nullish(),
      }),
    )
    .min(1, '`documents` may not be empty.')
    .max(mostDocuments, `\`documents\` may have at most ${mostDocuments} items; send more in another call.`)
    .refine(
      (documents) => new Set(documents.map(({ path }) => path)).size === documents.length,
      'Two of the `documents` have the same path.',
    ),
});

type StoredDocument = { id: string; path: string; hash: string; kind: MemoryKind };
type PreparedDocument = { path: string; kind: MemoryKind; hash: string; bytes: number; content: string };

const findStored = statement<StoredDocument>(`
  SELECT id, path, content_hash AS hash, kind FROM memory_documents
  WHERE user_id = $1 AND memory_id = $2 AND source = $3 AND path = ANY ($4::text[])
  ORDER BY id FOR UPDATE`);
const insertDocuments = statement<{ id: string; path: string }>(`
  INSERT INTO memory_documents (user_id, memory_id, source, media_type, path, kind, content_hash, bytes, chunks)
  SELECT $1, $2, $3, 'text/plain', * FROM unnest($4::text[], $5::memory_kind[], $6::text[], $7::bigint[], $8::integer[])
  RETURNING id, path`);
const updateDocuments = statement(`
  UPDATE memory_documents SET kind = item.kind, content_hash = item.hash, bytes = item.bytes, chunks = item.chunks,
    updated_at = clock_timestamp()
  FROM unnest($2::uuid[], $3::memory_kind[], $4::text[], $5::bigint[], $6::integer[]) AS item (id, kind, hash, bytes, chunks)
  WHERE memory_documents.user_id = $1 AND memory_documents.id = item.id`);
const insertChunks = statement(`
  WITH added AS (
    INSERT INTO memory_chunks
      (user_id, memory_id, document_id, position, heading, content, content_hash, start_line, end_line)
    SELECT $1, $2, * FROM unnest($3::uuid[], $4::integer[], $5::text[], $6::text[], $7::text[], $8::integer[], $9::integer[])
    RETURNING id
  )
  INSERT INTO memory_pending (user_id, memory_id, chunk_id) SELECT $1, $2, id FROM added`);
const dropChunks = statement(`
  WITH gone AS (
    DELETE FROM memory_chunks WHERE user_id = $1 AND document_id = ANY ($2::uuid[]) RETURNING memory_id, id
  )
  INSERT INTO memory_pending (user_id, memory_id, chunk_id, is_removal) SELECT $1, memory_id, id, true FROM gone
  ON CONFLICT (user_id, memory_id, chunk_id) DO UPDATE SET is_removal = true`);
const deleteDocuments = statement(`DELETE FROM memory_documents WHERE user_id = $1 AND id = ANY ($2::uuid[])`);
/**
 * Gives documents to an agent's memory, each over the one at the same source and path. What has not changed is left as it
 * is. The text is stored and found by words from the commit on; a background task brings the index in line.
 * @returns the task
 * @throws DomainError NOT_FOUND, BAD_USER_INPUT, QUOTA_EXCEEDED, AGENT_QUEUE_FULL
 */
export async function ingestDocuments(operation: WriteOperation, input: IngestInput): Promise<{ taskId: string }> {
  const { source, documents } = parseInput(rules, input, 'input');
  const { agentId } = input;
  const laneId = await lockMemory(operation, agentId, 'input.agentId');
  const given = documents.map(prepare);
  const paths = given.map(({ path }) => path);
  const stored = new Map(
    (await operation.query(findStored, [operation.userId, agentId, source, paths])).map((row) => [row.path, row]),
  );
  const isUnchanged = ({ path, hash, kind }: PreparedDocument) =>
    stored.get(path)?.hash === hash && stored.get(path)?.kind === kind;
  const added = given.filter(({ path }) => !stored.has(path));
  const changed = given.filter((document) => stored.has(document.path) && !isUnchanged(document));
  const written = await writeDocuments(operation, agentId, source, added, changed, stored);
  await operation.query(insertChunks, [operation.userId, agentId, ...written]);
  const unchanged = given.length - added.length - changed.length;
  const counts = { added: added.length, changed: changed.length, unchanged };
  const taskId = await startMemoryJob(operation, { agentId, laneId, kind: 'INGEST' }, counts);
  if (added.length + changed.length > 0) {
    // Counted by the statements above: what does not fit takes the whole commit back, before anything is embedded.
    await checkQuota(operation, 'STORED_BYTES');
  }
  return { taskId };
}

/** Keeps a note of an agent's own. The same text again changes nothing. @throws as `ingestDocuments` does */
export function remember(operation: WriteOperation, agentId: string, note: string): Promise<{ taskId: string }> {
  const path = `note-${contentHash(note).slice(0, 16)}`;
  return ingestDocuments(operation, {
    agentId,
    source: notesSource,
    documents: [{ path, content: note, kind: 'NOTE' }],
  });
}

/** Takes documents out of their memory; the index follows. The caller starts a job for that. */
export async function removeDocuments(operation: WriteOperation, documentIds: readonly string[]): Promise<void> {
  await operation.query(dropChunks, [operation.userId, documentIds]);
  await operation.query(deleteDocuments, [operation.userId, documentIds]);
}

/** SHA-256 of a text's UTF-8 bytes, in hexadecimal: clients compute the same. */
export function contentHash(content: string): string {
  return createHash('sha256').update(content).digest('hex');
}

/** What a document is by its path, when nobody says. */
export function kindOfPath(path: string): MemoryKind {
  const extension = /\.([a-z0-9]+)$/i.exec(path)?.[1]?.toLowerCase() ?? '';
  if (['md', 'mdx', 'markdown'].includes(extension)) {
    return 'MARKDOWN';
  }
  return codeExtensions.has(extension) ? 'CODE' : 'TEXT';
}

const codeExtensions: ReadonlySet<string> = new Set(
  (
    'c cc cpp cs css cts cxx dart ex exs go gql graphql h hpp hs html java js json jsx kt kts lua m mjs mts php pl prisma ' +
    'proto py r rb rs scala scss sh sql svelte swift tf toml ts tsx vue xml yaml yml zig'
  ).split(' '),
);

function prepare({ path, content, kind }: z.output<typeof rules>['documents'][number]): PreparedDocument {
  return {
    path,
    kind: kind ?? kindOfPath(path),
    hash: contentHash(content),
    bytes: Buffer.byteLength(content),
    content,
  };
}

/** Writes the documents. @returns columns of their chunks */
async function writeDocuments(
  operation: WriteOperation,
  agentId: string,
  source: string,
  added: readonly PreparedDocument[],
  changed: readonly PreparedDocument[],
  stored: ReadonlyMap<string, StoredDocument>,
): Promise<unknown[][]> {
  const { userId } = operation;
  const chunks = new Map([...added, ...changed].map((one) => [one.path, chunkText(one.content, one.kind)]));
  const columnsOf = (documents: readonly PreparedDocument[]) => [
    documents.map(({ kind }) => kind),
    documents.map(({ hash }) => hash),
    documents.map(({ bytes }) => bytes),
    documents.map(({ path }) => chunks.get(path)?.length ?? 0),
  ];
  const ids = new Map(changed.map(({ path }) => [path, stored.get(path)?.id ?? '']));
  if (changed.length > 0) {
    await operation.query(dropChunks, [userId, [...ids.values()]]);
    await operation.query(updateDocuments, [userId, changed.map(({ path }) => ids.get(path)), ...columnsOf(changed)]);
  }
  const paths = added.map(({ path }) => path);
  for (const { id, path } of await operation.query(insertDocuments, [
    userId,
    agentId,
    source,
    paths,
    ...columnsOf(added),
  ])) {
    ids.set(path, id);
  }
  const rows = [...chunks].flatMap(([path, parts]) =>
    parts.map((part, position) => ({ documentId: ids.get(path), position, ...part })),
  );
  return [
    rows.map(({ documentId }) => documentId),
    rows.map(({ position }) => position),
    rows.map(({ heading }) => heading),
    rows.map(({ content }) => content),
    rows.map((row) => createHash('sha256').update(embeddedText(row)).digest('base64url')),
    rows.map(({ startLine }) => startLine),
    rows.map(({ endLine }) => endLine),
  ];
}
