import { createPerAgentStore } from '../adapters/qdrant-per-agent.ts';
import { createSharedStore } from '../adapters/qdrant-shared.ts';
import type { Config } from '../config.ts';
import type { MemoryIndex } from '../services/memory-search.ts';

/** The index of memories as the configuration has it: without an address there is none. */
export function createMemoryIndex(config: Config): MemoryIndex {
  const createStore = config.MEMORY_LAYOUT === 'shared' ? createSharedStore : createPerAgentStore;
  const vectors =
    config.QDRANT_URL === undefined
      ? null
      : createStore({
          url: config.QDRANT_URL,
          apiKey: config.QDRANT_API_KEY ?? null,
          searchTimeout: config.MEMORY_SEARCH_TIMEOUT,
          writeTimeout: config.MEMORY_WRITE_TIMEOUT,
        });
  return { vectors, embeddingModel: config.MODEL_EMBEDDING_NAME, embedTimeout: config.MEMORY_SEARCH_TIMEOUT };
}
