import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  type Chatter,
  composer,
  createChatter,
  planner,
  planReply,
  startTestService,
  type TestService,
} from './arrange.ts';

let service: TestService;
let alice: Chatter;

beforeAll(async () => {
  service = await startTestService();
  alice = await createChatter(service, 'alice');
});
afterEach(() => service.model.reset());
afterAll(() => service?.stop());

const diamond = planReply([
  { key: 'facts', agent: 'Researcher', instruction: 'Collect facts about tea.' },
  { key: 'code', agent: 'Coder', instruction: 'Write a timer for tea.' },
  { key: 'text', agent: 'Writer', instruction: 'Write it all up.', dependsOn: ['facts', 'code'] },
]);

describe('a message without a target', () => {
  it('becomes a plan over the team, runs as a graph, and comes back as one answer that cites the agents', async () => {
    service.model.setScript([
      { match: 'Everything about tea', matchSystem: planner, reply: diamond },
      { match: 'Collect facts', reply: 'Tea is a plant.' },
      { match: 'Write a timer', reply: 'setTimeout(brew).' },
      { match: 'Write it all up', reply: 'Tea is a plant, and takes a timer.' },
      { match: '', matchSystem: composer, reply: 'Tea is a plant [Researcher]; use the timer [Coder].' },
    ]);
    const id = await alice.send('Everything about tea');
    const plan = await alice.planIn(id);
    expect(plan).toMatchObject({
      state: 'COMPLETED',
      request: 'Everything about tea',
      progress: 1,
      fallbackReason: null,
      edges: [
        { from: 'facts', to: 'text' },
        { from: 'code', to: 'text' },
      ],
      message: { content: 'Everything about tea' },
      answer: {
        role: 'ORCHESTRATOR',
        content: 'Tea is a plant [Researcher]; use the timer [Coder].',
        plan: { id },
      },
    });
    expect(plan.tasks.map(({ key, agentName, result, task }) => [key, agentName, result, task?.state])).toEqual([
      ['facts', 'Researcher', 'Tea is a plant.', 'COMPLETED'],
      ['code', 'Coder', 'setTimeout(brew).', 'COMPLETED'],
      ['text', 'Writer', 'Tea is a plant, and takes a timer.', 'COMPLETED'],
    ]);
    expect(plan.answer?.id).toBe(plan.composingTask?.answerId);
  });
});
