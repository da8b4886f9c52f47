import type { ChatMessage } from '../adapters/llm.ts';
import type { AgentRun } from '../services/agent-run.ts';
import { composePrompt } from './prompt.ts';

/** What a run does next. */
export type NextStep =
  | { do: 'ask-model'; position: number; messages: ChatMessage[] }
  | { do: 'finish'; content: string };

/** Decides from what is stored alone, so that a run continues after a crash exactly where its last step ended. */
export function nextStep(context: Pick<AgentRun, 'agent' | 'history' | 'steps' | 'assignment'>): NextStep {
  const last = context.steps.at(-1);
  return last === undefined
    ? { do: 'ask-model', position: 1, messages: composePrompt(context) }
    : { do: 'finish', content: last.output.content };
}
