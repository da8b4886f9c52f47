import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fitTexts } from '../../src/runner/budget.ts';
import { draftFallback, draftPlan } from '../../src/services/plan-draft.ts';
import { drawPlan } from '../../src/services/plan-mermaid.ts';
import { planReply } from './arrange.ts';

const team = [
  { id: '1', name: 'Researcher', description: 'Finds facts.' },
  { id: '2', name: 'Writer', description: 'Drafts texts.' },
  { id: '3', name: 'Coder', description: 'Writes code.' },
];

describe('a draft', () => {
  it('puts tasks behind those they depend on, with the agents that their names mean, whatever the case', () => {
    const written = planReply([
      { key: 'text', agent: 'writer', instruction: 'Write.', dependsOn: ['facts', 'facts'] },
      { key: 'facts', agent: 'RESEARCHER', instruction: 'Search.' },
    ]);
    const { tasks, fallback } = draftPlan(written, 'x', team, 9);
    expect(fallback).toBeNull();
    expect(tasks.map(({ key, agent, agentId, dependsOn }) => ({ key, agent, agentId, dependsOn }))).toEqual([
      { key: 'facts', agent: 'Researcher', agentId: '1', dependsOn: [] },
      { key: 'text', agent: 'Writer', agentId: '2', dependsOn: ['facts'] },
    ]);
  });

  it('holds nothing that the database could not store', () => {
    const written = planReply([{ key: 'a\u0000', agent: 'Writer', instruction: 'Wri\u0000te.' }]);
    expect(JSON.stringify(draftPlan(written, 'x', team, 9))).not.toMatch(/\\u0000/);
  });

  it('of whatever a planner writes can be run: its agents are of the team, and nothing waits for what comes later', () => {
    const key = fc.constantFrom('a', 'b', 'c', 'd');
    const task = fc.record({
      key,
      agent: fc.constantFrom('Researcher', 'Writer', 'Coder', 'coder', 'Nobody'),
      instruction: fc.string(),
      dependsOn: fc.array(key, { maxLength: 3 }),
      why: fc.string(),
    });
    const answer = fc.oneof(
      fc.record({ tasks: fc.array(task, { maxLength: 5 }) }).map((plan) => JSON.stringify(plan)),
      fc.json(),
      fc.string(),
    );
    fc.assert(
      fc.property(answer, fc.string(), fc.integer({ min: 1, max: 4 }), (written, request, most) => {
        const { tasks } = draftPlan(written, request, team, most);
        expect(tasks.length).toBeGreaterThan(0);
        expect(tasks.length).toBeLessThanOrEqual(most);
        const before = new Set<string>();
        for (const one of tasks) {
          expect(team.find(({ id }) => id === one.agentId)?.name).toBe(one.agent);
          expect(one.dependsOn.every((dependency) => before.has(dependency))).toBe(true);
          before.add(one.key);
        }
        expect(before.size).toBe(tasks.length);
      }),
    );
  });
});

describe('the simple plan', () => {
  const fallback = { reason: 'TOO_SLOW', message: 'late' } as const;

  it.each([
    ['the agents that share words with the request', 'Draft code for me', ['Writer', 'Coder']],
    ['the first agent when none does', 'Sing!', ['Researcher']],
  ])('asks %s', (_what, request, agents) => {
    expect(draftFallback(request, team, 9, fallback).tasks.map(({ agent }) => agent)).toEqual(agents);
  });

  it('keeps to the size that plans may have', () => {
    expect(draftFallback('facts, texts and code', team, 1, fallback).tasks).toHaveLength(1);
  });
});

describe('a drawing', () => {
  const node = (key: string, dependsOn: string[] = [], instruction = 'Do it.') =>
    ({ key, agentName: 'Writer', instruction, dependsOn, state: null }) as const;

  it('has a node for each task and an arrow for each dependency', () => {
    expect(drawPlan([node('a'), node('b', ['a'])])).toBe(
      ['flowchart TD', '  task1["Writer<br/>Do it."]', '  task2["Writer<br/>Do it."]', '  task1 --> task2'].join('\n'),
    );
  });

  // Mermaid turns entities back before it looks for these; test/browser/diagrams.test.ts shows them with Mermaid itself.
  it.each([
    ['$$x$$', '#36;#8288;#36;#8288;x#36;#8288;#36;#8288;'],
    ['fa:fa-car', 'fa#58;#8288;fa-car'],
    ['C:\\new', 'C#58;#8288;#92;#8288;new'],
  ])('leaves no formula, icon or line break to be found in %s', (instruction, label) => {
    expect(drawPlan([node('a', [], instruction)])).toBe(`flowchart TD\n  task1["Writer<br/>${label}"]`);
  });

  it('lets nothing out of its label', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.string(), (instruction, name) => {
        const [, line = ''] = drawPlan([{ ...node('a', [], instruction), agentName: name }]).split('\n');
        expect(line).toMatch(/^ {2}task1\["[^"`<>[\]{}|&\\]*<br\/>[^"`<>[\]{}|&\\]*"\]$/);
      }),
    );
  });
});

describe('texts that are to fit a budget', () => {
  it('stay whole when they fit, else the longest are cut to one length', () => {
    expect(fitTexts(['ab', 'x'.repeat(50), 'y'.repeat(60)], 62)).toEqual([
      'ab',
      `${'x'.repeat(22)}\n… (cut)`,
      `${'y'.repeat(22)}\n… (cut)`,
    ]);
  });

  it('keep to it whatever they are, and waste none of it', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ maxLength: 200 }), { maxLength: 8 }), fc.nat(500), (texts, budget) => {
        const fitted = fitTexts(texts, budget);
        const sum = (all: string[]) => all.reduce((total, text) => total + text.length, 0);
        expect(sum(fitted)).toBeLessThanOrEqual(Math.max(budget, sum(texts) <= budget ? sum(texts) : 0));
        if (sum(texts) <= budget) {
          expect(fitted).toEqual(texts);
        }
        expect(fitted.map((text, place) => text === texts[place] || text.length < (texts[place]?.length ?? 0))).toEqual(
          texts.map(() => true),
        );
      }),
    );
  });
});
