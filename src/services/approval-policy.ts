import type { ApprovalPolicy } from '../generated/prisma/enums.ts';

/** What is about to be done, with all that decides whether its user is asked first. */
export type ApprovalQuestion =
  | {
      kind: 'TOOL';
      agentPolicy: ApprovalPolicy;
      /** Overrides the agent's; null leaves it to the agent. */
      toolPolicy: ApprovalPolicy | null;
      dangerous: boolean;
      /** Approved for the rest of the session. */
      granted: boolean;
    }
  | {
      kind: 'PLAN';
      policy: ApprovalPolicy;
      tasks: number;
      /** With more tasks than this a plan counts as dangerous. */
      harmlessTasks: number;
      /** Whether one of its agents has a dangerous tool. */
      dangerousTools: boolean;
      granted: boolean;
    };

/** Whether to ask the user first. What was approved for the rest of a session isn't asked again, whatever the policy. */
export function needsApproval(question: ApprovalQuestion): boolean {
  if (question.granted) {
    return false;
  }
  const policy = question.kind === 'TOOL' ? (question.toolPolicy ?? question.agentPolicy) : question.policy;
  const dangerous = question.kind === 'TOOL' ? question.dangerous : isDangerousPlan(question);
  return policy === 'ALWAYS' || (policy === 'DANGEROUS' && dangerous);
}

/** A plan counts as dangerous when it is large, or uses an agent with a dangerous tool. */
export function isDangerousPlan(
  plan: Pick<Extract<ApprovalQuestion, { kind: 'PLAN' }>, 'tasks' | 'harmlessTasks' | 'dangerousTools'>,
): boolean {
  return plan.dangerousTools || plan.tasks > plan.harmlessTasks;
}
