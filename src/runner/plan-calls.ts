import type { ToolCall } from '../adapters/llm.ts';
import type { ApprovalModel } from '../generated/prisma/models.ts';
import type { AgentRun } from '../services/agent-run.ts';
import type { Granted } from '../services/approval-grant.ts';
import { needsApproval } from '../services/approval-policy.ts';
import { type Arguments, findStorageFault, hashArguments } from '../services/arguments.ts';
import { type CallResult, type CallStep, callIdAt } from '../services/tool-call.ts';
import type { ExecutableTool } from './tool.ts';

/** What becomes of one call that a model asked for. */
export type CallPlan = { position: number; callId: string; toolName: string } & (
  | { do: 'nothing' }
  /** Its result is known without making it. */
  | { do: 'refuse'; result: CallResult }
  | { do: 'run'; tool: ExecutableTool; arguments: Arguments; approvalId: string | null; isAway: boolean }
  | { do: 'ask'; tool: ExecutableTool; arguments: Arguments; interrupted: boolean }
  /** The user was asked and has not answered. */
  | { do: 'wait' }
);

/** What decides about calls beside the calls themselves. */
export interface CallRules {
  tools: readonly ExecutableTool[];
  /** What is wrong with arguments for a schema; null when nothing is. */
  findFault: (schema: Record<string, unknown>, given: unknown) => string | null;
  /** Most calls of one answer that are made. */
  mostCalls: number;
}

type Known = Pick<AgentRun, 'agent' | 'calls' | 'approvals' | 'grants'>;

/** Plans the calls of a model's answer that stands at `position`; each call has the place behind the one before. */
export function planCalls(
  known: Known,
  answer: { position: number; calls: readonly ToolCall[] },
  rules: CallRules,
): CallPlan[] {
  return answer.calls.map((call, place) => {
    const position = answer.position + 1 + place;
    const base = { position, callId: callIdAt(position), toolName: call.name };
    const step = known.calls.find((one) => one.position === position);
    if (step !== undefined && step.output.result !== null) {
      return { ...base, do: 'nothing' };
    }
    if (place >= rules.mostCalls) {
      return refuse(base, `Not called: at most ${rules.mostCalls} calls of one answer are made. Call it again.`);
    }
    return planCall(known, base, call, step, rules);
  });
}

type Base = { position: number; callId: string; toolName: string };

function planCall(known: Known, base: Base, call: ToolCall, step: CallStep | undefined, rules: CallRules): CallPlan {
  const tool = rules.tools.find((one) => one.name === call.name);
  if (tool === undefined) {
    const names = rules.tools.map((one) => one.name).join(', ');
    return refuse(
      base,
      `There is no tool of that name. ${names === '' ? 'You have no tools.' : `You have: ${names}.`}`,
    );
  }
  const given = parseArguments(call.arguments);
  const fault = given === null ? 'The arguments are not a JSON object.' : findFault(rules, tool, given);
  if (given === null || fault !== null) {
    return refuse(base, `Not called: ${fault}`);
  }
  if (step?.output.isAway === true) {
    return makeAgain(base, tool, given, step);
  }
  const asked = { callId: base.callId, tool, given, begun: step?.output.arguments ?? given };
  const approval = latestApproval(known.approvals, asked);
  const isUsed = step !== undefined && (approval === undefined || step.output.approvalId === approval.id);
  if (approval !== undefined && !isUsed) {
    return followDecision(base, tool, given, approval, rules);
  }
  if (step !== undefined) {
    // It began and nobody knows how it ended. What is harmless is simply called again, the same as before.
    return tool.dangerous
      ? { ...base, do: 'ask', tool, arguments: step.output.arguments ?? given, interrupted: true }
      : makeAgain(base, tool, given, step);
  }
  const { dangerous, approvalPolicy: toolPolicy } = tool;
  const { approvalPolicy: agentPolicy } = known.agent;
  const granted = known.grants.some((grant) => isFor(grant, known.agent.id, tool));
  return needsApproval({ kind: 'TOOL', agentPolicy, toolPolicy, dangerous, granted })
    ? { ...base, do: 'ask', tool, arguments: given, interrupted: false }
    : { ...base, do: 'run', tool, arguments: given, approvalId: null, isAway: false };
}

/** The same call as the one that began, by the same approval. */
function makeAgain(base: Base, tool: ExecutableTool, given: Arguments, { output }: CallStep): CallPlan {
  const { arguments: begun, approvalId, isAway } = output;
  return { ...base, do: 'run', tool, arguments: begun ?? given, approvalId, isAway };
}

/** The decision stands as it was stored: only whether the arguments fit is looked at again. */
function followDecision(
  base: Base,
  tool: ExecutableTool,
  given: Arguments,
  approval: ApprovalModel,
  rules: CallRules,
): CallPlan {
  const unsure = approval.interrupted ? ' An earlier try was interrupted; whether it had its effect is not known.' : '';
  switch (approval.state) {
    case 'PENDING':
      return { ...base, do: 'wait' };
    case 'APPROVED': {
      const approved = (approval.editedArguments ?? approval.arguments ?? given) as Arguments;
      const fault = findFault(rules, tool, approved);
      return fault === null
        ? { ...base, do: 'run', tool, arguments: approved, approvalId: approval.id, isAway: false }
        : refuse(base, `Not called: ${fault}`);
    }
    case 'REJECTED':
      return decline(base, `The user declined this call; it was not made.${unsure}${noteOf(approval)}`);
    default:
      return decline(base, `Nobody approved this call in time; it was not made.${unsure}${noteOf(approval)}`);
  }
}

/** The newest answer to the question whether this very call may be made; another tool or other arguments are another one. */
function latestApproval(
  approvals: readonly ApprovalModel[],
  { callId, tool, given, begun }: { callId: string; tool: ExecutableTool; given: Arguments; begun: Arguments },
): ApprovalModel | undefined {
  const newest = approvals.findLast((approval) => approval.callId === callId);
  if (newest === undefined || newest.toolId !== tool.toolId) {
    return undefined;
  }
  // Whether to call it again is asked about the arguments that it began with, which the user may have edited.
  const shown = newest.interrupted ? begun : given;
  return newest.argumentsHash === hashArguments(tool.name, shown) ? newest : undefined;
}

function isFor(grant: Granted, agentId: string, tool: ExecutableTool): boolean {
  return (
    grant.kind === 'TOOL' && grant.agentId === agentId && grant.toolId === tool.toolId && grant.toolName === tool.name
  );
}

function findFault(rules: CallRules, tool: ExecutableTool, given: Arguments): string | null {
  return findStorageFault(given) ?? rules.findFault(tool.argumentsSchema, given);
}

/** Models leave out the arguments of a tool that takes none. */
function parseArguments(text: string): Arguments | null {
  try {
    const parsed: unknown = JSON.parse(text.trim() === '' ? '{}' : text);
    return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed) ? (parsed as Arguments) : null;
  } catch {
    return null;
  }
}

function refuse(base: Base, content: string): CallPlan {
  return { ...base, do: 'refuse', result: { outcome: 'REFUSED', content } };
}

function decline(base: Base, content: string): CallPlan {
  return { ...base, do: 'refuse', result: { outcome: 'DECLINED', content } };
}

function noteOf({ note }: ApprovalModel): string {
  return note === null ? '' : ` The user's note: ${note}`;
}
