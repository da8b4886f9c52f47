import type { LanguageModel } from '../adapters/llm.ts';

/** Interactive: somebody waits for the answer. Background goes behind it when the model is short, and never starves. */
export type Priority = 'INTERACTIVE' | 'BACKGROUND';

/** For whom a model works: the governor shares out by user. */
export interface ModelCaller {
  userId: string;
  priority: Priority;
}

/** Gives the model as one caller may use it: what it does counts as that user's. */
export type ModelFor = (caller: ModelCaller) => LanguageModel;
