import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createDeltaPace, createDeltaWriter } from '../../src/runner/delta.ts';
import { composePrompt } from '../../src/runner/prompt.ts';
import type { AgentRun } from '../../src/services/agent-run.ts';

/** Only what the pure functions read. */
function run(history: AgentRun['history']): Pick<AgentRun, 'agent' | 'history' | 'assignment'> {
  return { agent: { id: 'me', instructions: 'You are Me.' } as AgentRun['agent'], history, assignment: null };
}
const user = (content: string) => ({ role: 'USER', agentId: null, agentName: null, content }) as const;
const agent = (id: string | null, name: string | null, content: string) =>
  ({ role: 'AGENT', agentId: id, agentName: name, content }) as const;
const team = (content: string) => ({ role: 'ORCHESTRATOR', agentId: null, agentName: null, content }) as const;

describe('the prompt', () => {
  it.each([
    ['words of the user', user('Hi'), { role: 'user', content: 'Hi' }],
    ['its own words', agent('me', 'Me', 'Hello'), { role: 'assistant', content: 'Hello' }],
    ['words of another agent', agent('other', 'Other', 'Hey'), { role: 'user', content: 'Other answered: Hey' }],
    ['words of the whole team', team('Hey all'), { role: 'user', content: 'The team answered: Hey all' }],
    ['words of a deleted agent', agent(null, null, 'Bye'), { role: 'user', content: 'A former agent answered: Bye' }],
  ])('tells %s as such, behind the instructions', (_case, message, expected) => {
    expect(composePrompt(run([message]))).toEqual([{ role: 'system', content: 'You are Me.' }, expected]);
  });

  it('ends with what a plan wants of the agent, behind the results that it builds on', () => {
    const assignment = {
      instruction: 'Sum it up.',
      results: [
        { taskId: '1', agentName: 'Researcher', content: 'Tea is a plant.' },
        { taskId: '2', agentName: null, content: 'Water boils.' },
      ],
    };
    const messages = composePrompt({ ...run([user('About tea')]), assignment });
    expect(messages.slice(1)).toEqual([
      { role: 'user', content: 'About tea' },
      {
        role: 'user',
        content: expect.stringMatching(/\[Researcher\]\nTea is a plant\.\n\n\[A former agent\]\nWater boils\./),
      },
    ]);
    expect(messages.at(-1)?.content).toMatch(/<instruction>\nSum it up\.\n<\/instruction>$/);
  });

  it('keeps the newest of a long conversation', () => {
    const history = Array.from({ length: 10 }, (_, place) => user(`${place}${'x'.repeat(9_999)}`));
    const kept = composePrompt(run(history)).slice(1);
    expect(kept.map((message) => message.content[0])).toEqual(['6', '7', '8', '9']);
  });

  it('keeps the message to answer, however long it is', () => {
    expect(composePrompt(run([user('old'), user('x'.repeat(90_000))]))).toHaveLength(2);
  });
});

describe('deltas', () => {
  let sent: [number, string][];
  beforeEach(() => {
    vi.useFakeTimers();
    sent = [];
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('send the first piece at once and gather those that follow quickly, each with its place', () => {
    const writer = createDeltaWriter(createDeltaPace(), (offset, text) => sent.push([offset, text]));
    writer.write('Once');
    writer.write(' upon');
    writer.write(' a');
    expect(sent).toEqual([[0, 'Once']]);
    vi.advanceTimersByTime(40);
    expect(sent).toEqual([
      [0, 'Once'],
      [4, ' upon a'],
    ]);
  });

  it('send no more often when text keeps coming, and at once behind a silence', () => {
    const writer = createDeltaWriter(createDeltaPace(), (offset, text) => sent.push([offset, text]));
    for (const word of ['a', 'b', 'c', 'd', 'e']) {
      writer.write(word);
      vi.advanceTimersByTime(25);
    }
    expect(sent).toEqual([
      [0, 'a'],
      [1, 'b'],
      [2, 'cd'],
      [4, 'e'],
    ]);
    vi.advanceTimersByTime(1_000);
    writer.write('f');
    expect(sent.at(-1)).toEqual([5, 'f']);
  });

  it('send what many answers have at the same beat', () => {
    const pace = createDeltaPace();
    const times: number[] = [];
    const writers = Array.from({ length: 15 }, () => createDeltaWriter(pace, () => times.push(performance.now())));
    for (const writer of writers) {
      writer.write('begun');
      vi.advanceTimersByTime(7);
    }
    times.splice(0);
    for (let round = 0; round < 40; round += 1) {
      for (const writer of writers) {
        writer.write('more');
      }
      vi.advanceTimersByTime(25);
    }
    const beats = new Set(times);
    expect(times.length / writers.length).toBeGreaterThanOrEqual(1_000 / 140);
    expect(times.length / writers.length).toBeLessThanOrEqual(1_000 / 80 + 1);
    expect(beats.size).toBeLessThanOrEqual(1_000 / 40 + 1);
  });

  it('send what is left at the end, and nothing after it', () => {
    const writer = createDeltaWriter(createDeltaPace(), (offset, text) => sent.push([offset, text]));
    writer.write('a');
    writer.write('b');
    writer.end();
    vi.advanceTimersByTime(1_000);
    expect(sent).toEqual([
      [0, 'a'],
      [1, 'b'],
    ]);
  });

  it.each([
    ['one answer', 1, 40],
    ['six answers', 6, 40],
    ['15 answers, 100 ms', 15, 80],
    ['a thousand answers, 250 ms', 1_000, 240],
  ])('wait for a later beat, the more answers are written at once: %s', (_case, writers, until) => {
    const pace = createDeltaPace();
    const leave = Array.from({ length: writers - 1 }, () => pace.enter());
    const writer = createDeltaWriter(pace, (offset, text) => sent.push([offset, text]));
    writer.write('a');
    writer.write('b');
    vi.advanceTimersByTime(until - 1);
    expect(sent).toHaveLength(1);
    vi.advanceTimersByTime(1);
    expect(sent).toHaveLength(2);
    writer.end();
    for (const one of leave) {
      one();
      one();
    }
    expect(pace.interval()).toBe(40);
  });
});
