import { DomainError } from '../errors.ts';
import type { LanguageModel } from './llm.ts';
import type { Metrics } from './metrics.ts';
import type { Tracing } from './trace.ts';

/** The same model, with each call counted, timed and traced. Names of models are no labels: users choose them. */
export function observeModel(model: LanguageModel, metrics: Metrics, tracing: Tracing): LanguageModel {
  const observe = async <Answer extends { promptTokens: number; completionTokens?: number }>(
    call: 'chat' | 'embed',
    { signal, model: wanted }: { signal: AbortSignal; model: string | null },
    work: () => Promise<Answer>,
  ): Promise<Answer> => {
    const start = performance.now();
    let outcome = 'ok';
    try {
      const attributes = {
        'gen_ai.operation.name': call,
        ...(wanted === null ? {} : { 'gen_ai.request.model': wanted }),
      };
      const answer = await tracing.run(`model ${call}`, { kind: 'client', attributes }, async (span) => {
        const given = await work();
        span.set({
          'gen_ai.usage.input_tokens': given.promptTokens,
          'gen_ai.usage.output_tokens': given.completionTokens ?? 0,
        });
        return given;
      });
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
    chat: (request, onText) => observe('chat', request, () => model.chat(request, onText)),
    embed: (request) => observe('embed', request, () => model.embed(request)),
  };
}
