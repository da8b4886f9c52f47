import type { ChatMessage } from '../adapters/llm.ts';
import type { ModelStep } from '../services/agent-run.ts';
import type { CallStep } from '../services/tool-call.ts';

/** Most characters of tools' results in one prompt; the newest are kept. About a quarter as many tokens. */
const resultBudget = 200_000;
const leftOut = '(This result was left out to save room. Call the tool again if you need it.)';

/** What the model said and what the tools gave, in order. Every call has its result, as the protocol wants it. */
export function composeTranscript(steps: readonly ModelStep[], calls: readonly CallStep[]): ChatMessage[] {
  const results = new Map(calls.map(({ position, output }) => [position, output]));
  const kept = newestWithin(calls, resultBudget);
  return steps.flatMap(({ position, output: { content, toolCalls = [] } }): ChatMessage[] => [
    { role: 'assistant', content, toolCalls },
    ...toolCalls.map((call, place): ChatMessage => {
      const at = position + 1 + place;
      const told = results.get(at)?.result?.content ?? 'Not called.';
      return { role: 'tool', callId: call.id, content: kept.has(at) ? told : leftOut };
    }),
  ]);
}

/** Places of the newest results that fit; short ones that say that a call was not made always do. */
function newestWithin(calls: readonly CallStep[], budget: number): Set<number> {
  const kept = new Set<number>();
  let spent = 0;
  for (const { position, output } of calls.toReversed()) {
    const length = output.result?.content.length ?? 0;
    spent += length;
    if (spent <= budget || length <= leftOut.length) {
      kept.add(position);
    }
  }
  return kept;
}
