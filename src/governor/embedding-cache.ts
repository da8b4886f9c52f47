import { LRUCache } from 'lru-cache';
import type { Embeddings } from '../adapters/llm.ts';

/** Most numbers that are kept, in all vectors together: about 16 MB. */
const mostNumbers = 2_000_000;
/** How long a vector is given out again, in milliseconds: the model behind a name may change. */
const life = 600_000;

/** Keeps vectors of single texts, such as questions to a memory, which users ask again. */
export interface EmbeddingCache {
  /** @param key names the user too: what one asked is no news to another */
  find(key: string): Embeddings | null;
  keep(key: string, embeddings: Embeddings): void;
}

export function createEmbeddingCache(): EmbeddingCache {
  const kept = new LRUCache<string, Embeddings>({
    ttl: life,
    maxSize: mostNumbers,
    sizeCalculation: ({ vectors }) => 1 + (vectors[0]?.length ?? 0),
  });
  return {
    find: (key) => kept.get(key) ?? null,
    keep: (key, embeddings) => {
      // Batches are parts of documents, whose vectors have a table of their own.
      if (embeddings.vectors.length === 1) {
        kept.set(key, asKept(embeddings));
      }
    },
  };
}

/** The same vectors, for who did not cause the call. */
export function asKept(embeddings: Embeddings): Embeddings {
  return { ...embeddings, promptTokens: 0, isKept: true };
}
