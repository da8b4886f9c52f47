import { describe, expect, it } from 'vitest';
import type { ApprovalGrantModel, ApprovalModel } from '../../src/generated/prisma/models.ts';
import { nextStep, type StepRules } from '../../src/runner/step.ts';
import type { ExecutableTool } from '../../src/runner/tool.ts';
import type { AgentRun, ModelStep } from '../../src/services/agent-run.ts';
import { hashArguments } from '../../src/services/arguments.ts';
import { createToolArguments } from '../../src/services/tool-arguments.ts';
import type { CallOutput, CallStep } from '../../src/services/tool-call.ts';

type Known = Parameters<typeof nextStep>[0];

const argumentsSchema = {
  type: 'object',
  properties: { to: { type: 'string' } },
  required: ['to'],
  additionalProperties: false,
};

function tool(name: string, given: Partial<ExecutableTool> = {}): ExecutableTool {
  return {
    toolId: `id of ${name}`,
    name,
    description: '',
    argumentsSchema,
    dangerous: false,
    approvalPolicy: null,
    timeout: 1_000,
    call: () => Promise.reject(new Error('a decision calls nothing')),
    ...given,
  };
}

const rules: StepRules = {
  tools: [tool('look'), tool('mail', { dangerous: true })],
  findFault: createToolArguments().findFault,
  mostCalls: 3,
  maxTurns: 4,
  away: new Set(),
};

const usage = { model: 'm', promptTokens: 1, completionTokens: 1, durationMilliseconds: 1 };

/** A model's answer at a place, with calls as `name arguments`. */
function said(position: number, content: string, ...calls: string[]): ModelStep {
  const toolCalls = calls.map((call, place) => {
    const [name = '', ...rest] = call.split(' ');
    return { id: `call_${position + 1 + place}`, name, arguments: rest.join(' ') };
  });
  return { position, output: { ...usage, content, toolCalls } };
}

function called(position: number, given: Partial<CallOutput> = {}): CallStep {
  const base = { callId: `call_${position}`, toolName: 'mail', arguments: { to: 'ada' }, approvalId: null };
  return { position, output: { ...base, isAway: false, result: null, ...given } };
}

const done = (content: string) => ({ result: { outcome: 'DONE', content } as const });

function approval(position: number, given: Partial<ApprovalModel> = {}): ApprovalModel {
  return {
    id: `approval of ${position}`,
    callId: `call_${position}`,
    toolId: 'id of mail',
    state: 'PENDING',
    arguments: { to: 'ada' },
    argumentsHash: hashArguments('mail', { to: 'ada' }),
    editedArguments: null,
    note: null,
    interrupted: false,
    ...given,
  } as ApprovalModel;
}

/** Only what the decision reads. */
function known(given: Partial<Known> & { policy?: 'ALWAYS' | 'DANGEROUS' | 'NEVER' } = {}): Known {
  const agent = { id: 'me', instructions: 'You are Me.', approvalPolicy: given.policy ?? 'DANGEROUS' };
  const history = [{ role: 'USER', agentId: null, agentName: null, content: 'Hi' }] as AgentRun['history'];
  return {
    agent: agent as AgentRun['agent'],
    history,
    assignment: null,
    steps: [],
    calls: [],
    approvals: [],
    grants: [],
    ...given,
  };
}

const ada = '{"to":"ada"}';

describe('a run', () => {
  it('asks the model as long as nothing is stored, and offers the tools', () => {
    expect(nextStep(known(), rules)).toMatchObject({ do: 'ask-model', position: 1, tools: rules.tools });
  });

  it('finishes with the stored answer', () => {
    expect(nextStep(known({ steps: [said(1, 'Hello')] }), rules)).toEqual({ do: 'finish', content: 'Hello' });
  });

  it('finishes with an answer of before there were calls', () => {
    const steps = [{ position: 1, output: { ...usage, content: 'Hello' } }];
    expect(nextStep(known({ steps }), rules)).toEqual({ do: 'finish', content: 'Hello' });
  });

  it('makes harmless calls at once, all together', () => {
    expect(nextStep(known({ steps: [said(1, '', `look ${ada}`, 'look {"to":"bob"}')] }), rules)).toMatchObject({
      do: 'make-calls',
      refused: [],
      runs: [
        { position: 2, callId: 'call_2', toolName: 'look', arguments: { to: 'ada' }, approvalId: null },
        { position: 3, callId: 'call_3', toolName: 'look', arguments: { to: 'bob' }, approvalId: null },
      ],
    });
  });

  it('asks about dangerous calls when the harmless ones are done, all together', () => {
    const steps = [said(1, '', `mail ${ada}`, `look ${ada}`, 'mail {"to":"bob"}')];
    expect(nextStep(known({ steps }), rules)).toMatchObject({ do: 'make-calls', runs: [{ position: 3 }] });
    const calls = [called(3, { toolName: 'look', ...done('fine') })];
    expect(nextStep(known({ steps, calls }), rules)).toMatchObject({
      do: 'wait',
      pending: 0,
      asked: [
        { callId: 'call_2', arguments: { to: 'ada' }, interrupted: false },
        { callId: 'call_4', arguments: { to: 'bob' }, interrupted: false },
      ],
    });
  });

  it('goes back to the model with every result, in the order of the calls', () => {
    const steps = [said(1, 'Let me see.', `look ${ada}`, `look ${ada}`)];
    const calls = [called(2, done('first')), called(3, done('second'))];
    expect(nextStep(known({ steps, calls }), rules)).toMatchObject({
      do: 'ask-model',
      position: 4,
      messages: [
        { role: 'system' },
        { role: 'user', content: 'Hi' },
        { role: 'assistant', content: 'Let me see.', toolCalls: [{ id: 'call_2' }, { id: 'call_3' }] },
        { role: 'tool', callId: 'call_2', content: 'first' },
        { role: 'tool', callId: 'call_3', content: 'second' },
      ],
    });
  });

  it.each<[string, string, RegExp]>([
    ['a tool that there is not', `erase ${ada}`, /no tool of that name.*look, mail/],
    ["another user's tool, though the prompt named it", `bobs_mail ${ada}`, /no tool of that name/],
    ['arguments that are no JSON', 'look {"to":', /not a JSON object/],
    ['arguments that are a list', 'look ["ada"]', /not a JSON object/],
    ["arguments that don't fit", 'look {"to":1}', /must be string/],
    ['no arguments where some are needed', 'look', /must have required property 'to'/],
    ["dangerous arguments that don't fit: the user is not asked", 'mail {}', /must have required property 'to'/],
    ["arguments that can't be stored", 'look {"to":"\\u0000"}', /U\+0000/],
  ])('tells the model of %s', (_what, call, content) => {
    expect(nextStep(known({ steps: [said(1, '', call)] }), rules)).toMatchObject({
      do: 'make-calls',
      runs: [],
      refused: [{ position: 2, result: { outcome: 'REFUSED', content: expect.stringMatching(content) } }],
    });
  });

  it('makes only so many calls of one answer, and tells of the others', () => {
    const calls = Array.from({ length: 5 }, () => `look ${ada}`);
    const next = nextStep(known({ steps: [said(1, '', ...calls)] }), rules);
    expect(next).toMatchObject({ do: 'make-calls', runs: [{}, {}, {}], refused: [{ position: 5 }, { position: 6 }] });
  });

  it('offers no tools in its last turn', () => {
    const steps = [said(1, '', `look ${ada}`), said(3, '', `look ${ada}`), said(5, '', `look ${ada}`)];
    const calls = [2, 4, 6].map((position) => called(position, done('so')));
    expect(nextStep(known({ steps, calls }), rules)).toMatchObject({ do: 'ask-model', position: 7, tools: [] });
  });

  it('takes what the model says beside calls beyond its turns for the answer, and fails without', () => {
    const steps = [1, 3, 5].map((position) => said(position, '', `look ${ada}`));
    const calls = [2, 4, 6].map((position) => called(position, done('so')));
    expect(nextStep(known({ steps: [...steps, said(7, 'Well.', `look ${ada}`)], calls }), rules)).toEqual({
      do: 'finish',
      content: 'Well.',
    });
    expect(() => nextStep(known({ steps: [...steps, said(7, '', `look ${ada}`)], calls }), rules)).toThrow(
      expect.objectContaining({ code: 'TURN_LIMIT_REACHED' }),
    );
  });

  it('leaves out old results where all of them are too long, and never the newest', () => {
    const steps = [said(1, '', `look ${ada}`), said(3, '', `look ${ada}`)];
    const calls = [called(2, done('x'.repeat(150_000))), called(4, done('y'.repeat(150_000)))];
    const next = nextStep(known({ steps, calls }), rules);
    const told = next.do === 'ask-model' ? next.messages.filter(({ role }) => role === 'tool') : [];
    expect(told.map(({ content }) => content.slice(0, 24))).toEqual(['(This result was left ou', 'y'.repeat(24)]);
  });
});

describe('a dangerous call', () => {
  const steps = [said(1, '', `mail ${ada}`)];
  const grant = { kind: 'TOOL', agentId: 'me', toolId: 'id of mail', toolName: 'mail' } as ApprovalGrantModel;

  it.each<[string, Partial<Known> & { policy?: 'ALWAYS' | 'DANGEROUS' | 'NEVER' }, object]>([
    ['is asked about', {}, { do: 'wait', asked: [{ interrupted: false }] }],
    [
      'is made at once where the agent never asks',
      { policy: 'NEVER' },
      { do: 'make-calls', runs: [{ approvalId: null }] },
    ],
    ['is made at once where it was granted', { grants: [grant] }, { do: 'make-calls', runs: [{ approvalId: null }] }],
    ['is asked about where another agent was granted it', { grants: [{ ...grant, agentId: 'you' }] }, { do: 'wait' }],
    ['is asked about where another tool was granted', { grants: [{ ...grant, toolId: 'other' }] }, { do: 'wait' }],
    ['waits while the user thinks', { approvals: [approval(2)] }, { do: 'wait', asked: [], pending: 1 }],
    [
      'is made when it was approved',
      { approvals: [approval(2, { state: 'APPROVED' })] },
      { do: 'make-calls', runs: [{ arguments: { to: 'ada' }, approvalId: 'approval of 2' }] },
    ],
    [
      'is made when it was approved, though the policy has changed since',
      { approvals: [approval(2, { state: 'APPROVED' })], policy: 'ALWAYS' },
      { do: 'make-calls', runs: [{ approvalId: 'approval of 2' }] },
    ],
    [
      'is declined when it was rejected, though nobody would be asked now',
      { approvals: [approval(2, { state: 'REJECTED' })], policy: 'NEVER', grants: [grant] },
      { do: 'make-calls', runs: [], refused: [{ result: { outcome: 'DECLINED' } }] },
    ],
    [
      'is made with what the user made of its arguments',
      { approvals: [approval(2, { state: 'APPROVED', editedArguments: { to: 'bob' } })] },
      { do: 'make-calls', runs: [{ arguments: { to: 'bob' } }] },
    ],
    [
      'is refused when what the user made of it no longer fits',
      { approvals: [approval(2, { state: 'APPROVED', editedArguments: { cc: 'bob' } })] },
      { do: 'make-calls', runs: [], refused: [{ result: { outcome: 'REFUSED' } }] },
    ],
    [
      'is declined with the note of the user',
      { approvals: [approval(2, { state: 'REJECTED', note: 'Not to her.' })] },
      { refused: [{ result: { outcome: 'DECLINED', content: expect.stringMatching(/declined.*Not to her\./) } }] },
    ],
    [
      'is declined when nobody decided in time',
      { approvals: [approval(2, { state: 'EXPIRED' })] },
      { refused: [{ result: { outcome: 'DECLINED', content: expect.stringMatching(/in time/) } }] },
    ],
    [
      'follows the newest of several answers',
      { approvals: [approval(2, { state: 'EXPIRED' }), approval(2, { id: 'second', state: 'APPROVED' })] },
      { do: 'make-calls', runs: [{ approvalId: 'second' }] },
    ],
    [
      'is asked about anew when another tool has taken the name',
      { approvals: [approval(2, { state: 'APPROVED', toolId: 'former' })] },
      { do: 'wait', asked: [{}] },
    ],
    [
      'is asked about anew when other arguments were approved',
      { approvals: [approval(2, { state: 'APPROVED', argumentsHash: hashArguments('mail', { to: 'eve' }) })] },
      { do: 'wait', asked: [{}] },
    ],
  ])('%s', (_what, given, expected) => {
    expect(nextStep(known({ steps, ...given }), rules)).toMatchObject(expected);
  });
});

describe('a call that began and whose end is not known', () => {
  it('is simply made again when it is harmless, as it was', () => {
    const steps = [said(1, '', `look ${ada}`)];
    const calls = [called(2, { toolName: 'look', arguments: { to: 'bob' }, approvalId: 'x' })];
    expect(nextStep(known({ steps, calls }), rules)).toMatchObject({
      do: 'make-calls',
      runs: [{ arguments: { to: 'bob' }, approvalId: 'x' }],
    });
  });

  const steps = [said(1, '', `mail ${ada}`)];
  const begun = called(2, { approvalId: 'approval of 2', arguments: { to: 'bob' } });
  const used = approval(2, { state: 'APPROVED', editedArguments: { to: 'bob' } });
  const second = approval(2, {
    id: 'second',
    interrupted: true,
    arguments: { to: 'bob' },
    argumentsHash: hashArguments('mail', { to: 'bob' }),
  });

  it.each<[string, Partial<Known> & { policy?: 'NEVER' }, object]>([
    [
      'is asked about once more when it is dangerous, with what it began with',
      { calls: [begun], approvals: [used] },
      { do: 'wait', asked: [{ interrupted: true, arguments: { to: 'bob' } }] },
    ],
    [
      'is asked about also where nobody was asked before',
      { calls: [called(2)], policy: 'NEVER' },
      { do: 'wait', asked: [{ interrupted: true, arguments: { to: 'ada' } }] },
    ],
    ['waits for that answer', { calls: [begun], approvals: [used, second] }, { do: 'wait', asked: [], pending: 1 }],
    [
      'is made again when that is approved',
      { calls: [begun], approvals: [used, { ...second, state: 'APPROVED' }] },
      { do: 'make-calls', runs: [{ arguments: { to: 'bob' }, approvalId: 'second' }] },
    ],
    [
      'is told as unknown when that is declined',
      { calls: [begun], approvals: [used, { ...second, state: 'REJECTED' }] },
      { refused: [{ result: { outcome: 'DECLINED', content: expect.stringMatching(/not known/) } }] },
    ],
    [
      'is asked about a third time when it was interrupted again',
      {
        calls: [{ ...begun, output: { ...begun.output, approvalId: 'second' } }],
        approvals: [used, { ...second, state: 'APPROVED' }],
      },
      { do: 'wait', asked: [{ interrupted: true }] },
    ],
    [
      'is asked for its result when it runs elsewhere',
      { calls: [called(2, { isAway: true })] },
      { do: 'make-calls', runs: [{ isAway: true, arguments: { to: 'ada' } }] },
    ],
  ])('%s', (_what, given, expected) => {
    expect(nextStep(known({ steps, ...given }), rules)).toMatchObject(expected);
  });

  it('waits for what runs elsewhere once that was found to be still away', () => {
    const calls = [called(2, { isAway: true })];
    expect(nextStep(known({ steps, calls }), { ...rules, away: new Set([2]) })).toEqual({
      do: 'wait',
      asked: [],
      pending: 0,
    });
  });
});
