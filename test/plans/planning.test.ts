import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { rowId } from '../isolation/world.ts';
import {
  type Chatter,
  composer,
  createChatter,
  eventsOf,
  planner,
  planReply,
  startTestService,
  type TestService,
  type WrittenTask,
} from './arrange.ts';

let service: TestService;
let users = 0;

beforeAll(async () => {
  service = await startTestService({ environment: { PLANNING_TIMEOUT: '3000' } });
});
afterEach(() => service.model.reset());
afterAll(() => service?.stop());

const newUser = (): Promise<Chatter> => {
  users += 1;
  return createChatter(service, `user ${users}`);
};

/** Lets the planner write this for every request, and agents and composer answer something. */
function planners(reply: string, more: { delayMs?: number; status?: number } = {}): void {
  service.model.setScript([
    { match: '', matchSystem: planner, reply, times: 50, ...more },
    { match: '', matchSystem: composer, reply: 'All together [Researcher].', times: 50 },
    { match: '', reply: 'My part.', times: 50 },
  ]);
}

const task = (given: Partial<WrittenTask>): WrittenTask => ({
  key: 'a',
  agent: 'Writer',
  instruction: 'Write it.',
  ...given,
});

describe('a planner whose plan can not be run', () => {
  it.each<[string, string, string]>([
    ['writes no JSON', 'I would start with some research.', 'MALFORMED'],
    ['writes JSON that is no plan', '{"steps": []}', 'MALFORMED'],
    ['leaves out what a task needs', '{"tasks": [{"key": "a", "agent": "Writer"}]}', 'MALFORMED'],
    ['writes an empty plan', planReply([]), 'EMPTY'],
    ['names an agent that nobody has', planReply([task({ agent: 'Astronaut' })]), 'UNKNOWN_AGENT'],
    ['names a task twice', planReply([task({}), task({})]), 'DUPLICATE_KEY'],
    ['depends on what is not there', planReply([task({ dependsOn: ['b'] })]), 'UNKNOWN_DEPENDENCY'],
    [
      'lets tasks wait for each other',
      planReply([task({ dependsOn: ['b'] }), task({ key: 'b', dependsOn: ['a'] })]),
      'CYCLE',
    ],
    [
      'writes too many tasks',
      planReply(Array.from({ length: 21 }, (_, place) => task({ key: `t${place}` }))),
      'TOO_MANY_TASKS',
    ],
  ])('%s: a simple plan stands in, and the event says why', async (_what, reply, reason) => {
    const alice = await newUser();
    planners(reply);
    const id = await alice.send('Draft a text about facts and code');
    const plan = await alice.planIn(id);
    expect(plan).toMatchObject({ state: 'COMPLETED', fallbackReason: reason, fallbackMessage: expect.any(String) });
    // One agent after the other.
    expect(plan.edges).toEqual(
      plan.tasks.slice(1).map((one, place) => ({ from: plan.tasks[place]?.key, to: one.key })),
    );
    expect(plan.tasks.length).toBeGreaterThan(1);
    const events = await eventsOf(service, alice.sessionId);
    expect(events.find(({ type }) => type === 'task_plan_created')?.data).toMatchObject({ fallbackReason: reason });
  });

  it('takes too long: it is not waited for', async () => {
    const alice = await newUser();
    planners(planReply([task({})]), { delayMs: 60_000 });
    const plan = await alice.planIn(await alice.send('Draft a text'));
    expect(plan).toMatchObject({ state: 'COMPLETED', fallbackReason: 'TOO_SLOW' });
    expect(plan.fallbackMessage).toContain('3000 ms');
  });

  it('is refused by its model: a simple plan stands in', async () => {
    const alice = await newUser();
    planners('no', { status: 400 });
    const plan = await alice.planIn(await alice.send('Draft a text'));
    expect(plan).toMatchObject({ state: 'COMPLETED', fallbackReason: 'PLANNER_FAILED' });
  });

  it("names another user's agent: it is as unknown as one that nobody has", async () => {
    const [alice, bob] = [await newUser(), await newUser()];
    const made = await bob.user.ask(
      'mutation { createAgent(input: { name: "Confidant", instructions: "You know secrets of Bob." }) { agent { id } } }',
    );
    expect(made.errors).toEqual([]);
    planners(planReply([task({ agent: 'Confidant' })]));
    const plan = await alice.planIn(await alice.send('Draft a text'));
    expect(plan).toMatchObject({ fallbackReason: 'UNKNOWN_AGENT' });
    expect(plan.tasks.map((one) => one.agentName)).not.toContain('Confidant');
    expect(JSON.stringify(plan)).not.toContain('Confidant');
  });

  it('is told of the agents of the team, by name and description, and of nobody else', async () => {
    const alice = await newUser();
    planners(planReply([task({})]));
    await alice.planIn(await alice.send('Draft a text'));
    const asked = service.model
      .recentRequests()
      .map(({ body }) => body as { messages: { content: string }[]; response_format?: unknown })
      .findLast(({ response_format: format }) => format !== undefined);
    const system = asked?.messages[0]?.content ?? '';
    expect(system).toContain('- Writer: Drafts, shortens and improves texts.');
    expect(system).not.toContain('Confidant');
    expect(JSON.stringify(asked?.response_format)).toContain('"enum":["Researcher","Writer","Coder"]');
  });
});

describe('a plan in the cache', () => {
  const plannersAsked = (): number =>
    service.model.recentRequests().filter(({ body }) => JSON.stringify(body).includes(planner)).length;

  /** Sends a request and tells how often a planner was asked for it. */
  async function askedFor(chatter: Chatter, content: string): Promise<number> {
    const before = plannersAsked();
    const plan = await chatter.planIn(await chatter.send(content));
    expect(plan).toMatchObject({ state: 'COMPLETED', fallbackReason: null });
    return plannersAsked() - before;
  }

  it('is used again for an equal request to an equal team', async () => {
    const alice = await newUser();
    planners(planReply([task({})]));
    expect([await askedFor(alice, 'Draft a poem'), await askedFor(alice, 'Draft a poem')]).toEqual([1, 0]);
    expect(await askedFor(alice, 'Draft a song')).toBe(1);
  });

  it.each<[string, (chatter: Chatter) => Promise<unknown>]>([
    [
      'an agent changed',
      async ({ user, agentId }) =>
        user.ask(
          'mutation ($id: ID!) { updateAgent(id: $id, input: { description: "Writes verse." }) { agent { id } } }',
          {
            id: await agentId('Writer'),
          },
        ),
    ],
    [
      'an agent was added',
      ({ user }) => user.ask('mutation { createAgent(input: { name: "Poet", instructions: "x" }) { agent { id } } }'),
    ],
    [
      'an agent was deleted',
      async ({ user, agentId }) =>
        user.ask('mutation ($id: ID!) { deleteAgent(id: $id) { deletedAgentId } }', { id: await agentId('Coder') }),
    ],
    [
      'the orchestrator changed',
      ({ user }) =>
        user.ask('mutation { updateOrchestrator(input: { instructions: "Use few tasks." }) { orchestrator { id } } }'),
    ],
    ['its time is over', () => service.database.owner(`UPDATE plan_cache SET expires_at = now()`)],
  ])('is not used when %s', async (_what, change) => {
    const alice = await newUser();
    planners(planReply([task({})]));
    expect(await askedFor(alice, 'Draft a poem')).toBe(1);
    await change(alice);
    expect(await askedFor(alice, 'Draft a poem')).toBe(1);
  });

  it("is never another user's", async () => {
    const [alice, bob] = [await newUser(), await newUser()];
    planners(planReply([task({})]));
    expect([await askedFor(alice, 'Draft a poem'), await askedFor(bob, 'Draft a poem')]).toEqual([1, 1]);
  });

  it('is not kept when it is the simple one', async () => {
    const alice = await newUser();
    planners('no plan');
    await alice.planIn(await alice.send('Draft a poem'));
    planners(planReply([task({})]));
    expect(await askedFor(alice, 'Draft a poem')).toBe(1);
  });
});

describe('a team without agents', () => {
  it('is told at once, and nothing is stored', async () => {
    const alice = await newUser();
    for (const name of ['Researcher', 'Writer', 'Coder']) {
      await alice.user.ask('mutation ($id: ID!) { deleteAgent(id: $id) { deletedAgentId } }', {
        id: await alice.agentId(name),
      });
    }
    const { errors } = await alice.trySend('Anyone?');
    expect(errors.map(({ extensions }) => extensions['code'])).toEqual(['NO_AGENTS']);
    const { data } = await alice.user.ask(
      'query ($id: ID!) { session(id: $id) { messageCount plans { edges { node { id } } } } }',
      {
        id: alice.sessionId,
      },
    );
    expect(data.session).toEqual({ messageCount: 0, plans: { edges: [] } });
  });
});

describe('a plan with more tasks than its user may have at once', () => {
  it('fails with the quota as its reason, and stores none of its tasks', async () => {
    const alice = await newUser();
    const { data } = await alice.user.ask('{ viewer { id } }');
    await service.database.owner(
      `INSERT INTO quotas (user_id, concurrent_tasks) VALUES ($1, 1)
      ON CONFLICT (user_id) DO UPDATE SET concurrent_tasks = 1`,
      [rowId(data.viewer.id)],
    );
    planners(planReply([task({}), task({ key: 'b', agent: 'Coder' })]));
    const plan = await alice.planIn(await alice.send('Draft a song and its code'));
    expect(plan).toMatchObject({ state: 'FAILED', tasks: [], composingTask: null });
    const failed = await alice.user.ask('query ($id: ID!) { task(id: $id) { errorCode } }', {
      id: plan.planningTask?.id,
    });
    expect(failed.data.task.errorCode).toBe('QUOTA_EXCEEDED');
  });
});
