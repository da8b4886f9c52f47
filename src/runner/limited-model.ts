import type { LanguageModel } from '../adapters/llm.ts';
import type { Operation } from '../operation.ts';
import { checkTokensLeft } from '../services/quota.ts';

/** How long a look at the quota holds for a call, in milliseconds: what a call uses is only known behind it anyway. */
const lookLife = 1_000;

/**
 * The same model, as long as its user has tokens left for today: a task that runs on for hours meets its quota too. The look
 * for the first call goes out at once, with what the run reads at its start.
 * @param standing what each call waits for beside that: whether the run may go on at all
 */
export function limitTokens(model: LanguageModel, operation: Operation, standing: Promise<unknown>): LanguageModel {
  const begun = performance.now();
  let look: Promise<void> | null = checkTokensLeft(operation.read);
  // A run that never calls the model has nothing to hear of it.
  look.catch(() => undefined);
  const check = async (): Promise<void> => {
    await standing;
    const early = look;
    look = null;
    await (early !== null && performance.now() - begun < lookLife ? early : checkTokensLeft(operation.read));
  };
  return {
    chat: async (request, onText) => {
      await check();
      return await model.chat(request, onText);
    },
    embed: async (request) => {
      await check();
      return await model.embed(request);
    },
  };
}
