import { embeddingModel, type MemoryService } from './service.ts';
import { dimensions } from './vectors.ts';

/** Different words of all texts; how often each occurs follows the law of Zipf and Mandelbrot, as in natural language. */
const vocabulary = 20_000;
/** Its offset: words as frequent as "the" are no search words. The most frequent word that is left stands in a third of all chunks. */
const offset = 20;
const wordsPerChunk = 60;
const wordsPerQuestion = 4;
const source = 'bench';

/** Gives the agent a memory that is empty, with an index only in so far as the benchmark fills it. */
export async function addMemory({ database, userId, agentId }: MemoryService): Promise<void> {
  await database.owner('INSERT INTO memories (user_id, id, agent_id) VALUES ($1, $2, $2)', [userId, agentId]);
  // Made anew behind the last chunk: that takes a fraction of the time.
  await database.owner('DROP INDEX memory_chunks_words_idx', []);
}

/** Adds a document with that many chunks of made-up text. @returns the ids of the chunks */
export async function addChunks({ database, userId, agentId }: MemoryService, count: number): Promise<string[]> {
  const rows = await database.owner<{ id: string }>(
    `WITH document AS (
       INSERT INTO memory_documents (user_id, memory_id, source, path, media_type, content_hash, bytes, chunks)
       VALUES ($1, $2, $3, gen_random_uuid()::text, 'text/plain', gen_random_uuid()::text, 1, $4) RETURNING id
     )
     INSERT INTO memory_chunks (user_id, document_id, memory_id, position, content, content_hash, start_line, end_line)
     SELECT $1, document.id, $2, place, text.content, place::text, place, place
     FROM document, generate_series(1, $4::int) AS place
     -- The text depends on the place, or all chunks would have the same one.
     CROSS JOIN LATERAL (
       SELECT string_agg('word' || floor($5::float8 * power(1 + $6::float8 / $5, random()) - $5), ' ') AS content
       FROM generate_series(place, place + $7::int - 1)
     ) AS text
     RETURNING id`,
    [userId, agentId, source, count, offset, vocabulary, wordsPerChunk],
  );
  return rows.map(({ id }) => id);
}

/** Tells the service that the memory is complete and its index as well. */
export async function finishMemory({ database, userId, agentId }: MemoryService, chunks: number): Promise<void> {
  await database.owner('CREATE INDEX memory_chunks_words_idx ON memory_chunks USING gin (words)', []);
  await database.owner('VACUUM (ANALYZE) memory_chunks, memory_documents, memories', []);
  await database.owner(
    `UPDATE memories SET collection_model = $3, collection_dimensions = $4, points = $5 WHERE user_id = $1 AND id = $2`,
    [userId, agentId, embeddingModel, dimensions, chunks],
  );
}

/** A question of words as they occur in the texts. */
export function makeUpQuestion(): string {
  const word = () => `word${Math.floor(offset * (1 + vocabulary / offset) ** Math.random() - offset)}`;
  return Array.from({ length: wordsPerQuestion }, word).join(' ');
}
