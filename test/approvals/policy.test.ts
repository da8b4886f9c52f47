import { describe, expect, it } from 'vitest';
import { type ApprovalQuestion, needsApproval } from '../../src/services/approval-policy.ts';

type ToolQuestion = Extract<ApprovalQuestion, { kind: 'TOOL' }>;
type PlanQuestion = Extract<ApprovalQuestion, { kind: 'PLAN' }>;

describe('a call of a tool', () => {
  it.each<[ToolQuestion['agentPolicy'], ToolQuestion['toolPolicy'], boolean, boolean, boolean]>([
    // The agent's policy, where the tool has none.
    ['ALWAYS', null, false, false, true],
    ['ALWAYS', null, true, false, true],
    ['DANGEROUS', null, false, false, false],
    ['DANGEROUS', null, true, false, true],
    ['NEVER', null, false, false, false],
    ['NEVER', null, true, false, false],
    // The tool's own overrides it, to more and to less asking.
    ['NEVER', 'ALWAYS', false, false, true],
    ['NEVER', 'DANGEROUS', true, false, true],
    ['NEVER', 'DANGEROUS', false, false, false],
    ['ALWAYS', 'NEVER', true, false, false],
    ['ALWAYS', 'DANGEROUS', false, false, false],
    ['DANGEROUS', 'ALWAYS', false, false, true],
    ['DANGEROUS', 'NEVER', true, false, false],
    // What was approved for the rest of the session isn't asked, whatever the policy.
    ['ALWAYS', null, true, true, false],
    ['DANGEROUS', 'ALWAYS', true, true, false],
    ['DANGEROUS', null, true, true, false],
  ])('agent %s, tool %s, dangerous %s, granted %s: asks %s', (agentPolicy, toolPolicy, dangerous, granted, asks) => {
    expect(needsApproval({ kind: 'TOOL', agentPolicy, toolPolicy, dangerous, granted })).toBe(asks);
  });
});

describe('a plan', () => {
  it.each<[PlanQuestion['policy'], number, boolean, boolean, boolean]>([
    ['ALWAYS', 1, false, false, true],
    ['ALWAYS', 9, false, false, true],
    ['ALWAYS', 9, false, true, false],
    ['DANGEROUS', 3, false, false, false],
    ['DANGEROUS', 4, false, false, true],
    ['DANGEROUS', 1, true, false, true],
    ['DANGEROUS', 4, true, true, false],
    ['NEVER', 100, true, false, false],
  ])('policy %s, %s tasks where 3 are harmless, dangerous tools %s, granted %s: asks %s', (...row) => {
    const [policy, tasks, dangerousTools, granted, asks] = row;
    expect(needsApproval({ kind: 'PLAN', policy, tasks, harmlessTasks: 3, dangerousTools, granted })).toBe(asks);
  });
});
