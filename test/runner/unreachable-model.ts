import { createLanguageModel, type LanguageModel } from '../../src/adapters/llm.ts';

/** A model at an address where nobody listens: what needs none must not notice. */
export function unreachableModel(): LanguageModel {
  return createLanguageModel({
    baseUrl: 'http://127.0.0.1:9/v1',
    apiKey: 'none',
    defaultModel: 'none',
    defaultEmbeddingModel: 'none',
    connectTimeout: 1_000,
    idleTimeout: 1_000,
  });
}
