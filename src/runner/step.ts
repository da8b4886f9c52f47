import type { ChatMessage } from '../adapters/llm.ts';
import { DomainError } from '../errors.ts';
import type { AgentRun } from '../services/agent-run.ts';
import { type CallPlan, type CallRules, planCalls } from './plan-calls.ts';
import { composePrompt } from './prompt.ts';
import type { ExecutableTool } from './tool.ts';
import { composeTranscript } from './transcript.ts';

type PlanTo<Do extends CallPlan['do']> = Extract<CallPlan, { do: Do }>;

/** What a run does next. */
export type NextStep =
  | { do: 'ask-model'; position: number; messages: ChatMessage[]; tools: readonly ExecutableTool[] }
  /** Stores results that are known, and makes the calls that nobody need be asked for. */
  | { do: 'make-calls'; refused: PlanTo<'refuse'>[]; runs: PlanTo<'run'>[] }
  /** Nothing can be done before the user has decided, or before what runs elsewhere is done. */
  | { do: 'wait'; asked: PlanTo<'ask'>[]; pending: number }
  | { do: 'finish'; content: string };

export interface StepRules extends CallRules {
  /** Most answers of the model; the last is asked for without tools. */
  maxTurns: number;
  /** Places of calls whose results come from elsewhere. */
  away: ReadonlySet<number>;
}

type Known = Pick<AgentRun, 'agent' | 'history' | 'assignment' | 'steps' | 'calls' | 'approvals' | 'grants'>;

/**
 * Decides from what is stored alone, so that a run continues after a crash exactly where its last step ended.
 * @throws DomainError TURN_LIMIT_REACHED
 */
export function nextStep(known: Known, rules: StepRules): NextStep {
  const last = known.steps.at(-1);
  if (last === undefined) {
    return askModel(known, rules, 1);
  }
  const { content, toolCalls: calls = [] } = last.output;
  if (calls.length === 0) {
    return { do: 'finish', content };
  }
  if (known.steps.length >= rules.maxTurns) {
    // It calls tools that it was not offered. What it said beside that is its answer.
    if (content.trim() === '') {
      throw new DomainError('TURN_LIMIT_REACHED', `The model gave no answer in ${rules.maxTurns} turns.`);
    }
    return { do: 'finish', content };
  }
  const plans = planCalls(known, { position: last.position, calls }, rules);
  const refused = plans.filter((plan) => plan.do === 'refuse');
  const runs = plans.filter((plan) => plan.do === 'run').filter((plan) => !rules.away.has(plan.position));
  if (refused.length > 0 || runs.length > 0) {
    return { do: 'make-calls', refused, runs };
  }
  const asked = plans.filter((plan) => plan.do === 'ask');
  const pending = plans.filter((plan) => plan.do === 'wait').length;
  return asked.length > 0 || pending > 0 || rules.away.size > 0
    ? { do: 'wait', asked, pending }
    : askModel(known, rules, last.position + calls.length + 1);
}

function askModel(known: Known, rules: StepRules, position: number): NextStep {
  const isLastTurn = known.steps.length + 1 >= rules.maxTurns;
  return {
    do: 'ask-model',
    position,
    messages: [...composePrompt(known), ...composeTranscript(known.steps, known.calls)],
    tools: isLastTurn ? [] : rules.tools,
  };
}
