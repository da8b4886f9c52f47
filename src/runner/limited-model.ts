import type { LanguageModel } from '../adapters/llm.ts';
import type { Operation } from '../operation.ts';
import { checkTokensLeft } from '../services/quota.ts';

/** The same model, as long as its user has tokens left for today: a task that runs on for hours meets its quota too. */
export function limitTokens(model: LanguageModel, operation: Operation): LanguageModel {
  return {
    chat: async (request, onText) => {
      await checkTokensLeft(operation.read);
      return await model.chat(request, onText);
    },
    embed: async (request) => {
      await checkTokensLeft(operation.read);
      return await model.embed(request);
    },
  };
}
