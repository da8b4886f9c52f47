import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { rowId } from '../isolation/world.ts';
import { waitFor } from '../service.ts';
import {
  type Chatter,
  composer,
  createChatter,
  eventsOf,
  planner,
  planReply,
  type SeenPlan,
  startTestService,
  type TestService,
} from './arrange.ts';

let service: TestService;
let users = 0;

beforeAll(async () => {
  service = await startTestService();
});
afterEach(() => service.model.reset());
afterAll(() => service?.stop());

const newUser = (): Promise<Chatter> => {
  users += 1;
  return createChatter(service, `user ${users}`);
};

/** Three branches; one of them goes on. */
const branches = planReply([
  { key: 'facts', agent: 'Researcher', instruction: 'Collect facts.' },
  { key: 'code', agent: 'Coder', instruction: 'Write the code.' },
  { key: 'review', agent: 'Coder', instruction: 'Review it.', dependsOn: ['code'] },
  { key: 'text', agent: 'Writer', instruction: 'Write the text.' },
]);
const planned = { match: '', matchSystem: planner, reply: branches };
const composed = { match: '', matchSystem: composer, reply: 'Facts [Researcher] and text [Writer].', times: 9 };
const facts = { match: 'Collect facts.', reply: 'Tea is a plant.' };
const text = { match: 'Write the text.', reply: 'A text about tea.' };
const refused = { match: 'Write the code.', reply: 'no', status: 400 };

const states = (plan: SeenPlan) => Object.fromEntries(plan.tasks.map(({ key, task }) => [key, task?.state]));
const ids = (plan: SeenPlan) => Object.fromEntries(plan.tasks.map(({ key, task }) => [key, task?.id]));

describe('a plan with a branch that fails', () => {
  it('skips what depends on it, finishes the others, and says what is missing', async () => {
    const alice = await newUser();
    service.model.setScript([planned, facts, text, refused, composed]);
    const plan = await alice.planIn(await alice.send('All about tea'));
    expect(plan).toMatchObject({ state: 'FAILED', progress: 1 });
    expect(states(plan)).toEqual({ facts: 'COMPLETED', code: 'FAILED', review: 'SKIPPED', text: 'COMPLETED' });
    expect(plan.answer?.content).toBe(
      [
        'Facts [Researcher] and text [Writer].',
        '',
        'Missing:',
        '- [Coder] “Write the code.” failed: The model provider rejected the request (HTTP 400).',
        '- [Coder] “Review it.” was skipped, because a task that it depends on did not succeed',
      ].join('\n'),
    );
    expect(plan.mermaid).toMatch(/:::failed[\s\S]*:::skipped/);
    const ended = (await eventsOf(service, alice.sessionId)).filter(({ type }) => type === 'plan_ended');
    expect(ended.map(({ data }) => data['state'])).toEqual(['FAILED']);
  });

  it('tells the composer of the results and of what is missing', async () => {
    const alice = await newUser();
    service.model.setScript([planned, facts, text, refused, composed]);
    await alice.planIn(await alice.send('All about tea'));
    const asked = service.model.recentRequests().at(-1)?.body as { messages: { content: string }[] };
    const material = asked.messages[1]?.content ?? '';
    expect(material).toContain('<request>\nAll about tea\n</request>');
    expect(material).toContain('[Researcher] Tea is a plant.');
    expect(material).toContain('[Writer] A text about tea.');
    expect(material).toContain('- [Coder] “Review it.” was skipped');
  });

  it('asks no composer when nothing succeeded', async () => {
    const alice = await newUser();
    const one = planReply([{ key: 'code', agent: 'Coder', instruction: 'Write the code.' }]);
    service.model.setScript([{ ...planned, reply: one }, refused]);
    const plan = await alice.planIn(await alice.send('A program'));
    expect(plan.state).toBe('FAILED');
    expect(plan.answer?.content).toMatch(/^None of the tasks of the plan succeeded\.\n\nMissing:\n- \[Coder\]/);
  });

  it('gives a single result as it is, with the name of its agent', async () => {
    const alice = await newUser();
    const one = planReply([{ key: 'facts', agent: 'Researcher', instruction: 'Collect facts.' }]);
    service.model.setScript([{ ...planned, reply: one }, facts]);
    const plan = await alice.planIn(await alice.send('Facts'));
    expect(plan).toMatchObject({
      state: 'COMPLETED',
      answer: { content: 'Tea is a plant.\n\nFrom: [Researcher]' },
    });
  });
});

describe('retryPlan', () => {
  it('runs what failed and was skipped, keeps what is there, and composes a new answer', async () => {
    const alice = await newUser();
    service.model.setScript([planned, facts, text, refused, composed]);
    const failed = await alice.planIn(await alice.send('All about tea'));
    service.model.setScript([
      { match: 'Write the code.', reply: 'brew();' },
      { match: 'Review it.', reply: 'Fine.' },
      { match: '', matchSystem: composer, reply: 'Everything [Coder].' },
    ]);
    const before = service.model.requests().chat;
    const changed = await alice.change('retryPlan', failed.id);
    expect(changed.errors).toEqual([]);
    expect(changed.data.retryPlan.plan).toMatchObject({ state: 'RUNNING', finishedAt: null });
    const plan = await alice.planIn(failed.id);
    expect(plan).toMatchObject({ state: 'COMPLETED', answer: { content: 'Everything [Coder].' } });
    expect(states(plan)).toEqual({ facts: 'COMPLETED', code: 'COMPLETED', review: 'COMPLETED', text: 'COMPLETED' });
    const [old, now] = [ids(failed), ids(plan)];
    expect({ facts: now['facts'], text: now['text'] }).toEqual({ facts: old['facts'], text: old['text'] });
    expect(now['code']).not.toBe(old['code']);
    // The code, its review, and the new answer: nothing else was asked for.
    expect(service.model.requests().chat - before).toBe(3);
    const types = (await eventsOf(service, alice.sessionId)).map(({ type }) => type);
    expect(types.filter((type) => type === 'plan_ended' || type === 'plan_retried')).toEqual([
      'plan_ended',
      'plan_retried',
      'plan_ended',
    ]);
  });

  it('gives a task that runs again the results that were there before', async () => {
    const alice = await newUser();
    const chain = planReply([
      { key: 'facts', agent: 'Researcher', instruction: 'Collect facts.' },
      { key: 'text', agent: 'Writer', instruction: 'Write the text.', dependsOn: ['facts'] },
    ]);
    service.model.setScript([
      { ...planned, reply: chain },
      facts,
      { match: 'Write the text.', reply: 'no', status: 400 },
    ]);
    const failed = await alice.planIn(await alice.send('About tea'));
    expect(states(failed)).toEqual({ facts: 'COMPLETED', text: 'FAILED' });
    service.model.setScript([text, composed]);
    await alice.change('retryPlan', failed.id);
    expect(await alice.planIn(failed.id)).toMatchObject({ state: 'COMPLETED' });
    const asked = service.model.recentRequests().map(({ body }) => JSON.stringify(body));
    const again = asked.findLast((body) => body.includes('Write the text.') && body.includes('<instruction>'));
    expect(again).toContain('[Researcher]\\nTea is a plant.');
  });

  it('makes a plan anew that never came to be', async () => {
    const alice = await newUser();
    service.model.setScript([planned, facts, text, composed]);
    const id = await alice.send('About tea');
    await alice.planIn(id);
    await service.database.owner(`UPDATE plans SET state = 'FAILED', graph = NULL WHERE id = $1`, [rowId(id)]);
    await service.database.owner(`DELETE FROM tasks WHERE plan_id = $1 AND kind <> 'PLAN'`, [rowId(id)]);
    await alice.change('retryPlan', id);
    expect(await alice.planIn(id)).toMatchObject({ state: 'COMPLETED', message: { content: 'About tea' } });
  });

  it('is refused for a plan that runs, and for one of which nothing failed', async () => {
    const alice = await newUser();
    service.model.setScript([planned, { ...facts, delayMs: 60_000 }]);
    const running = await alice.send('About tea');
    await alice.planIn(running, ['RUNNING']);
    const codes = async (id: string) =>
      (await alice.change('retryPlan', id)).errors.map(({ extensions }) => extensions['code']);
    expect(await codes(running)).toEqual(['PLAN_NOT_RETRYABLE']);
    await alice.change('cancelPlan', running);
    service.model.reset();
    const done = await alice.planIn(await alice.send('Find facts about tea'));
    expect(done.state).toBe('COMPLETED');
    expect(await codes(done.id)).toEqual(['PLAN_NOT_RETRYABLE']);
  });

  it('happens once when it is asked for twice at the same moment', async () => {
    const alice = await newUser();
    service.model.setScript([planned, facts, text, refused, composed]);
    const failed = await alice.planIn(await alice.send('All about tea'));
    service.model.setScript([]);
    const answers = await Promise.all([alice.change('retryPlan', failed.id), alice.change('retryPlan', failed.id)]);
    expect(answers.flatMap(({ errors }) => errors.map(({ extensions }) => extensions['code']))).toEqual([
      'PLAN_NOT_RETRYABLE',
    ]);
    await alice.planIn(failed.id);
    const [counted] = await service.database.owner(
      `SELECT count(*)::int AS tasks FROM tasks WHERE plan_id = $1 AND kind = 'COMPOSE'`,
      [rowId(failed.id)],
    );
    expect(counted).toEqual({ tasks: 2 });
  });
});

describe('cancelPlan', () => {
  it('cancels all that is open, keeps results, and lets the rest be retried', async () => {
    const alice = await newUser();
    service.model.setScript([planned, facts, { ...text, delayMs: 60_000 }, { ...refused, delayMs: 60_000 }]);
    const id = await alice.send('All about tea');
    await waitFor('the facts', async () => states(await alice.plan(id))['facts'] === 'COMPLETED');
    const changed = await alice.change('cancelPlan', id);
    expect(changed.errors).toEqual([]);
    const plan: SeenPlan = changed.data.cancelPlan.plan;
    expect(plan).toMatchObject({ state: 'CANCELLED', answer: null, composingTask: { state: 'CANCELLED' } });
    expect(states(plan)).toEqual({
      facts: 'COMPLETED',
      code: 'CANCELLED',
      review: 'CANCELLED',
      text: 'CANCELLED',
    });
    expect((await alice.change('cancelPlan', id)).errors[0]?.extensions['code']).toBe('PLAN_ENDED');
    service.model.setScript([{ match: 'Write the code.', reply: 'brew();' }, text, composed]);
    await alice.change('retryPlan', id);
    expect(await alice.planIn(id)).toMatchObject({ state: 'COMPLETED' });
  });

  it('cancels a plan that is still being made', async () => {
    const alice = await newUser();
    service.model.setScript([{ ...planned, delayMs: 4_000 }]);
    const id = await alice.send('All about tea');
    await waitFor('planning to begin', async () =>
      (await eventsOf(service, alice.sessionId)).some(({ type }) => type === 'planning_started'),
    );
    await alice.change('cancelPlan', id);
    expect(await alice.plan(id)).toMatchObject({ state: 'CANCELLED', tasks: [] });
  });

  it('of one task alone lets the plan go on without it', async () => {
    const alice = await newUser();
    service.model.setScript([planned, facts, text, { ...refused, delayMs: 60_000 }, composed]);
    const id = await alice.send('All about tea');
    const running = await waitFor('the code to be written', async () => {
      const plan = await alice.plan(id);
      return states(plan)['code'] === 'RUNNING' && states(plan)['text'] === 'COMPLETED' && plan;
    });
    await alice.user.ask('mutation ($id: ID!) { cancelTask(id: $id) { task { state } } }', {
      id: ids(running)['code'],
    });
    const plan = await alice.planIn(id);
    expect(states(plan)).toMatchObject({ code: 'CANCELLED', review: 'SKIPPED' });
    expect(plan).toMatchObject({ state: 'FAILED', answer: { content: expect.stringContaining('was cancelled') } });
  });

  it('of the composing task alone ends the plan without an answer', async () => {
    const alice = await newUser();
    service.model.setScript([planned, facts, text, { ...refused, delayMs: 400 }]);
    const id = await alice.send('All about tea');
    const plan = await alice.planIn(id, ['RUNNING']);
    await alice.user.ask('mutation ($id: ID!) { cancelTask(id: $id) { task { state } } }', {
      id: plan.composingTask?.id,
    });
    const ended = await alice.planIn(id);
    expect(ended).toMatchObject({ state: expect.stringMatching(/FAILED|CANCELLED/), answer: null });
  });
});
