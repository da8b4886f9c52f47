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

type Policy = 'ALWAYS' | 'DANGEROUS' | 'NEVER';

async function newUser(policy: Policy, maxUnapprovedTasks = 5): Promise<Chatter> {
  users += 1;
  const chatter = await createChatter(service, `user ${users}`);
  const { errors } = await chatter.user.ask(
    'mutation ($input: UpdateOrchestratorInput!) { updateOrchestrator(input: $input) { orchestrator { id } } }',
    { input: { planApprovalPolicy: policy, maxUnapprovedTasks } },
  );
  expect(errors).toEqual([]);
  service.model.setScript([
    { match: '', matchSystem: planner, reply: twoTasks, times: 9 },
    { match: '', matchSystem: composer, reply: 'Done by [Researcher] and [Writer].', times: 9 },
    { match: '', reply: 'My part.', times: 99 },
  ]);
  return chatter;
}

const twoTasks = planReply([
  { key: 'facts', agent: 'Researcher', instruction: 'Collect facts.' },
  { key: 'text', agent: 'Writer', instruction: 'Write the text.', dependsOn: ['facts'] },
]);

interface SeenApproval {
  id: string;
  kind: string;
  arguments: { tasks: { key: string; agent: string }[] };
  argumentsHash: string;
  dangerous: boolean;
  plan: { id: string };
  task: { id: string };
}

async function pending({ user, sessionId }: Chatter): Promise<SeenApproval> {
  const { data } = await user.ask(
    `query ($sessionId: ID!) { approvals(sessionId: $sessionId, states: [PENDING]) { edges { node {
      id kind arguments argumentsHash dangerous plan { id } task { id } } } } }`,
    { sessionId },
  );
  expect(data.approvals.edges).toHaveLength(1);
  return data.approvals.edges[0].node;
}

async function decide(
  { user }: Chatter,
  id: string,
  decision: string,
  more: Record<string, unknown> = {},
): Promise<void> {
  const { errors } = await user.ask(
    `mutation ($id: ID!, $decision: ApprovalDecision!, $note: String, $remember: Boolean) {
      decideApproval(id: $id, decision: $decision, note: $note, remember: $remember) { approval { state } } }`,
    { id, decision, ...more },
  );
  expect(errors).toEqual([]);
}

const running = async (chatter: Chatter): Promise<number> => {
  const [row] = await service.database.owner(
    `SELECT count(*)::int AS running FROM tasks WHERE session_id = $1 AND state = 'RUNNING'`,
    [rowId(chatter.sessionId)],
  );
  return Number(row?.['running']);
};

describe('a plan that needs approval', () => {
  it('is shown and waits without a slot, and runs as it was shown once it is approved', async () => {
    const alice = await newUser('ALWAYS');
    const id = await alice.send('Facts and a text');
    const waiting = await alice.planIn(id, ['WAITING']);
    expect(waiting).toMatchObject({ planningTask: { state: 'WAITING' }, composingTask: null, progress: 0 });
    expect(waiting.tasks.map(({ key, task }) => [key, task])).toEqual([
      ['facts', null],
      ['text', null],
    ]);
    expect(await running(alice)).toBe(0);
    const approval = await pending(alice);
    expect(approval).toMatchObject({ kind: 'PLAN', plan: { id }, task: { id: waiting.planningTask?.id } });
    expect(approval.arguments.tasks.map(({ key, agent }) => [key, agent])).toEqual([
      ['facts', 'Researcher'],
      ['text', 'Writer'],
    ]);
    // What would be planned by now is of no concern: the plan is made once.
    service.model.setScript([{ match: '', reply: 'My part.', times: 9 }]);
    await decide(alice, approval.id, 'APPROVED');
    const plan = await alice.planIn(id);
    expect(plan).toMatchObject({ state: 'COMPLETED', fallbackReason: null });
    expect(plan.tasks.map(({ key, result }) => [key, result])).toEqual([
      ['facts', 'My part.'],
      ['text', 'My part.'],
    ]);
    const types = (await eventsOf(service, alice.sessionId)).map(({ type }) => type);
    expect(types.filter((type) => /plan|approval/.test(type))).toEqual([
      'planning_started',
      'approval_required',
      'plan_request',
      'approval_resolved',
      'task_plan_created',
      'plan_ended',
    ]);
  });

  it('ends with a message that repeats the note when it is rejected', async () => {
    const alice = await newUser('ALWAYS');
    const id = await alice.send('Facts and a text');
    await alice.planIn(id, ['WAITING']);
    await decide(alice, (await pending(alice)).id, 'REJECTED', { note: 'Without research, please.' });
    const plan = await alice.planIn(id);
    expect(plan).toMatchObject({
      state: 'REJECTED',
      answer: {
        role: 'ORCHESTRATOR',
        content: 'The plan was not run, because you rejected it.\n\nYour note: Without research, please.',
      },
    });
    expect(plan.tasks.map(({ task }) => task)).toEqual([null, null]);
    expect((await alice.change('retryPlan', id)).errors[0]?.extensions['code']).toBe('PLAN_NOT_RETRYABLE');
  });

  it('ends when nobody decides in time, and can be asked for again', async () => {
    const alice = await newUser('ALWAYS');
    const id = await alice.send('Facts and a text');
    await alice.planIn(id, ['WAITING']);
    const first = await pending(alice);
    await service.database.owner(`UPDATE approvals SET expires_at = now() WHERE id = $1`, [rowId(first.id)]);
    const expired = await alice.planIn(id);
    expect(expired).toMatchObject({
      state: 'EXPIRED',
      answer: { content: 'The plan was not run, because nobody approved it in time.' },
    });
    const planned = service.model.requests().chat;
    await alice.change('retryPlan', id);
    await alice.planIn(id, ['WAITING']);
    const second = await pending(alice);
    expect(second.id).not.toBe(first.id);
    // The very same plan, asked for again.
    expect(second.argumentsHash).toBe(first.argumentsHash);
    expect(service.model.requests().chat).toBe(planned);
    await decide(alice, second.id, 'APPROVED');
    expect(await alice.planIn(id)).toMatchObject({ state: 'COMPLETED' });
  });

  it('takes its question back when it is cancelled', async () => {
    const alice = await newUser('ALWAYS');
    const id = await alice.send('Facts and a text');
    await alice.planIn(id, ['WAITING']);
    const { id: approvalId } = await pending(alice);
    await alice.change('cancelPlan', id);
    const { data } = await alice.user.ask('query ($id: ID!) { approval(id: $id) { state } }', { id: approvalId });
    expect(data.approval).toEqual({ state: 'CANCELLED' });
    expect(await alice.plan(id)).toMatchObject({ state: 'CANCELLED' });
  });

  it('fails when an agent of it was deleted meanwhile, and can be made anew', async () => {
    const alice = await newUser('ALWAYS');
    const id = await alice.send('Facts and a text');
    await alice.planIn(id, ['WAITING']);
    await alice.user.ask('mutation ($id: ID!) { deleteAgent(id: $id) { deletedAgentId } }', {
      id: await alice.agentId('Writer'),
    });
    await decide(alice, (await pending(alice)).id, 'APPROVED');
    expect(await alice.planIn(id)).toMatchObject({ state: 'FAILED', composingTask: null });
    service.model.setScript([
      { match: '', matchSystem: planner, reply: planReply([{ key: 'one', agent: 'Coder', instruction: 'Do it.' }]) },
    ]);
    await alice.change('retryPlan', id);
    // A new plan was never approved: it is asked for.
    const again = await alice.planIn(id, ['WAITING']);
    expect(again.tasks.map(({ agentName }) => agentName)).toEqual(['Coder']);
    await alice.change('cancelPlan', id);
  });

  it('fails when an agent of it has no room, stores none of its tasks, and runs when it is retried', async () => {
    const alice = await newUser('ALWAYS');
    const id = await alice.send('Facts and a text');
    await alice.planIn(id, ['WAITING']);
    const writer = rowId(await alice.agentId('Writer'));
    await service.database.owner('UPDATE lanes SET max_waiting = 0 WHERE id = $1', [writer]);
    await decide(alice, (await pending(alice)).id, 'APPROVED');
    const full = await alice.planIn(id);
    expect(full).toMatchObject({ state: 'FAILED', composingTask: null });
    const { data } = await alice.user.ask('query ($id: ID!) { task(id: $id) { errorCode } }', {
      id: full.planningTask?.id,
    });
    expect(data.task).toEqual({ errorCode: 'AGENT_QUEUE_FULL' });
    await service.database.owner('UPDATE lanes SET max_waiting = 100 WHERE id = $1', [writer]);
    // It was approved: that holds.
    await alice.change('retryPlan', id);
    expect(await alice.planIn(id)).toMatchObject({ state: 'COMPLETED' });
  });
});

describe('the policy', () => {
  it.each<[Policy, number, boolean, 'WAITING' | 'COMPLETED']>([
    ['ALWAYS', 5, false, 'WAITING'],
    ['DANGEROUS', 2, false, 'COMPLETED'],
    ['DANGEROUS', 1, false, 'WAITING'],
    ['DANGEROUS', 5, true, 'WAITING'],
    ['NEVER', 0, true, 'COMPLETED'],
  ])(
    '%s, with %s tasks unasked and a dangerous tool %s: a plan of two is %s',
    async (policy, most, dangerous, state) => {
      const alice = await newUser(policy, most);
      if (dangerous) {
        await service.database.owner(
          `WITH tool AS (
          INSERT INTO tools (user_id, name, description, kind, arguments_schema)
          SELECT user_id, 'mail', 'x', 'HTTP', '{}' FROM agents WHERE id = $1 RETURNING user_id, id
        )
        INSERT INTO agent_tools (user_id, agent_id, tool_id) SELECT user_id, $1, id FROM tool`,
          [rowId(await alice.agentId('Writer'))],
        );
      }
      const plan = await alice.planIn(await alice.send('Facts and a text'), ['WAITING', 'COMPLETED']);
      expect(plan.state).toBe(state);
      if (state === 'WAITING') {
        expect((await pending(alice)).dangerous).toBe(dangerous || most < 2);
      }
    },
  );

  it('asks no more in a session for which plans were approved', async () => {
    const alice = await newUser('ALWAYS');
    const first = await alice.send('Facts and a text');
    await alice.planIn(first, ['WAITING']);
    await decide(alice, (await pending(alice)).id, 'APPROVED', { remember: true });
    await alice.planIn(first);
    expect(await alice.planIn(await alice.send('Facts and another text'))).toMatchObject({ state: 'COMPLETED' });
    const [asked] = await service.database.owner(
      'SELECT count(*)::int AS approvals FROM approvals WHERE session_id = $1',
      [rowId(alice.sessionId)],
    );
    expect(asked).toEqual({ approvals: 1 });
  });
});

describe('a decision', () => {
  it('queues the next message of the session behind the plan that it lets run', async () => {
    const alice = await newUser('ALWAYS');
    const id = await alice.send('Facts and a text');
    await alice.planIn(id, ['WAITING']);
    const next = await alice.trySend('And then?', { targetAgentId: await alice.agentId('Coder') });
    const taskId = next.data.sendMessage.task.id;
    const stateOf = async () =>
      (await alice.user.ask('query ($id: ID!) { task(id: $id) { state } }', { id: taskId })).data.task.state;
    expect(await stateOf()).toBe('QUEUED');
    await decide(alice, (await pending(alice)).id, 'APPROVED');
    await waitFor('the next message to be answered', async () => (await stateOf()) === 'COMPLETED');
    const [order] = await service.database.owner(
      `SELECT plans.finished_at <= tasks.started_at AS "isInOrder" FROM plans, tasks WHERE plans.id = $1 AND tasks.id = $2`,
      [rowId(id), rowId(taskId)],
    );
    expect(order).toEqual({ isInOrder: true });
  });
});
