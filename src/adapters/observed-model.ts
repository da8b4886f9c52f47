import { DomainError } from '../errors.ts';
import type { LanguageModel } from './llm.ts';
import type { Metrics } from './metrics.ts';

/** The same model, with each call counted and timed. Names of models are no labels: users choose them. */
export function observeModel(model: LanguageModel, metrics: Metrics): LanguageModel {
  const observe = async <Answer extends { promptTokens: number; completionTokens?: number }>(
    call: 'chat' | 'embed',
    signal: AbortSignal,
    work: () => Promise<Answer>,
  ): Promise<Answer> => {
    const start = performance.now();
    let outcome = 'ok';
    try {
      const answer = await work();
      metrics.modelTokens.add({ kind: 'prompt' }, answer.promptTokens);
      metrics.modelTokens.add({ kind: 'completion' }, answer.completionTokens ?? 0);
      return answer;
    } catch (error) {
      outcome = signal.aborted ? 'aborted' : error instanceof DomainError ? error.code : 'INTERNAL';
      throw error;
    } finally {
      metrics.modelCalls.observe({ call, outcome }, (performance.now() - start) / 1_000);
    }
  };
  return {
    chat: (request, onText) => observe('chat', request.signal, () => model.chat(request, onText)),
    embed: (request) => observe('embed', request.signal, () => model.embed(request)),
  };
}
