import { DomainError } from '../../errors.ts';
import { askAgent, collectAnswer, hasAnswer } from '../../services/agent-call.ts';
import { ToolResultPendingError } from '../tool.ts';
import type { BuiltInCall } from './built-in.ts';

/** Longest time for an answer, in milliseconds. The asking task's own limit may be nearer. */
const longestAnswer = 600_000;

/**
 * Asks another agent of the team, which answers as a task of its own. The asking task waits without a slot, so that
 * agents that wait for each other's slots can't hold each other up.
 */
export function askOtherAgent(): BuiltInCall {
  return async (given, { run, idempotencyKey }) => {
    const taskId = await run.operation.write((write) =>
      askAgent(write, run.claim, {
        agentName: String(given['agent']),
        question: String(given['question']),
        callKey: idempotencyKey,
        timeout: longestAnswer,
      }),
    );
    const call = await run.operation.write((write) => collectAnswer(write, taskId));
    switch (call.state) {
      case 'OPEN':
        throw new ToolResultPendingError((operation) => hasAnswer(operation, taskId));
      case 'ANSWERED':
        return call.answer;
      case 'FAILED':
        throw new DomainError('TOOL_FAILED', `The agent gave no answer: ${call.reason}`);
    }
  };
}
