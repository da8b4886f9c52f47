import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { auditCounts } from '../queue/audit.ts';
import { type ApprovalService, startApprovalService, type Waiting } from './arrange.ts';

let approvals: ApprovalService;

beforeAll(async () => {
  approvals = await startApprovalService();
});
afterAll(async () => {
  expect(await auditCounts(approvals.service.database)).toEqual([]);
  await approvals?.stop();
});

const decision = `mutation ($id: ID!, $decision: ApprovalDecision!, $note: String, $edited: JSON, $remember: Boolean, $hash: String) {
  decideApproval(id: $id, decision: $decision, note: $note, editedArguments: $edited, remember: $remember, argumentsHash: $hash) {
    approval { id state note editedArguments remember decidedAt task { state } } } }`;

async function decide(waiting: Waiting, place: number, given: Record<string, unknown> = {}) {
  const id = waiting.approvalIds[place];
  return waiting.user.ask(decision, { id, decision: 'APPROVED', ...given });
}

async function read(waiting: Waiting) {
  const { data } = await waiting.user.ask(
    `query ($task: ID!, $session: ID!) {
      task(id: $task) { state approvals { edges { node { id state decidedAt note editedArguments } } } agent { status } }
      session(id: $session) { approvalGrants { edges { node { id kind toolName agent { id } } } } }
    }`,
    { task: waiting.taskId, session: waiting.sessionId },
  );
  const edges = (list: { edges: { node: Record<string, unknown> }[] }) => list.edges.map(({ node }) => node);
  return {
    taskState: data.task.state,
    agentStatus: data.task.agent.status,
    approvals: edges(data.task.approvals).toReversed(),
    grants: edges(data.session.approvalGrants),
  };
}

const codes = (answer: { errors: { extensions: Record<string, unknown> }[] }) =>
  answer.errors.map(({ extensions }) => extensions);

async function events(waiting: Waiting): Promise<string[]> {
  const rows = await approvals.look(
    `SELECT concat_ws(' ', type, data ->> 'state') AS line FROM events
    WHERE user_id = $1 AND (type LIKE '%approval%' OR type LIKE '%request%') ORDER BY sequence`,
    [waiting.userId],
  );
  return rows.map((row) => String(row['line']));
}

describe('a task that asks its user', () => {
  it('waits without a slot, with an event for each question, and its agent is ready again', async () => {
    const waiting = await approvals.wait([{}, {}]);
    expect(await read(waiting)).toMatchObject({
      taskState: 'WAITING',
      agentStatus: 'READY',
      approvals: [{ state: 'PENDING' }, { state: 'PENDING' }],
    });
    expect(await events(waiting)).toEqual(['approval_required', 'tool_request', 'approval_required', 'tool_request']);
  });

  it('is listed with what it asks, in which session, for which task and until when', async () => {
    const waiting = await approvals.wait([{ arguments: { to: 'ada' } }]);
    const { data } = await waiting.user.ask(`{ approvals(states: [PENDING]) { edges { node {
      id kind state toolName arguments argumentsHash dangerous interrupted expiresAt createdAt
      session { id } task { id } } } } }`);
    expect(data.approvals.edges).toEqual([
      {
        node: {
          id: waiting.approvalIds[0],
          kind: 'TOOL',
          state: 'PENDING',
          toolName: 'mail',
          arguments: { to: 'ada' },
          argumentsHash: expect.any(String),
          dangerous: true,
          interrupted: false,
          createdAt: expect.any(String),
          expiresAt: expect.any(String),
          session: { id: waiting.sessionId },
          task: { id: waiting.taskId },
        },
      },
    ]);
    const { createdAt, expiresAt } = data.approvals.edges[0].node;
    expect(Date.parse(expiresAt) - Date.parse(createdAt)).toBe(300_000);
  });

  it('goes on when the last of its questions is decided, whatever the order, each decision where it belongs', async () => {
    const waiting = await approvals.wait([{}, {}, {}]);
    await decide(waiting, 2, { note: 'third' });
    expect((await read(waiting)).taskState).toBe('WAITING');
    await decide(waiting, 1, { decision: 'REJECTED', note: 'second' });
    expect((await read(waiting)).taskState).toBe('WAITING');
    await decide(waiting, 0, { note: 'first', edited: { to: 'bob' } });
    expect(await read(waiting)).toMatchObject({
      taskState: 'QUEUED',
      approvals: [
        { state: 'APPROVED', note: 'first', editedArguments: { to: 'bob' } },
        { state: 'REJECTED', note: 'second', editedArguments: null },
        { state: 'APPROVED', note: 'third', editedArguments: null },
      ],
    });
    expect((await events(waiting)).slice(6)).toEqual([
      'approval_resolved APPROVED',
      'approval_resolved REJECTED',
      'approval_resolved APPROVED',
    ]);
  });
});

describe('a decision', () => {
  it('is won by one of twenty at once, and the others are told so', async () => {
    const waiting = await approvals.wait([{}]);
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, place) =>
        decide(waiting, 0, { decision: place % 2 === 0 ? 'APPROVED' : 'REJECTED', note: `by device ${place}` }),
      ),
    );
    const won = answers.filter(({ errors }) => errors.length === 0);
    expect(won).toHaveLength(1);
    expect(answers.filter(({ errors }) => errors.length > 0).map(codes)).toEqual(
      Array.from({ length: 19 }, () => [{ code: 'APPROVAL_ALREADY_DECIDED', field: 'id' }]),
    );
    const { id, state, note } = won[0]?.data.decideApproval.approval ?? {};
    expect((await read(waiting)).approvals).toEqual([expect.objectContaining({ id, state, note })]);
    expect((await events(waiting)).filter((line) => line.startsWith('approval_resolved'))).toHaveLength(1);
  });

  it('holds for twenty of three questions at once: one each, and the task goes on once', async () => {
    const waiting = await approvals.wait([{}, {}, {}]);
    const answers = await Promise.all(Array.from({ length: 20 }, (_, place) => decide(waiting, place % 3)));
    expect(answers.filter(({ errors }) => errors.length === 0)).toHaveLength(3);
    expect((await read(waiting)).taskState).toBe('QUEUED');
  });

  it('is repeated with the same Idempotency-Key without harm', async () => {
    const waiting = await approvals.wait([{}]);
    const key = { 'idempotency-key': 'decide-once' };
    const variables = { id: waiting.approvalIds[0], decision: 'APPROVED' };
    const first = await waiting.user.ask(decision, variables, key);
    const second = await waiting.user.ask(decision, variables, key);
    expect(second.errors).toEqual([]);
    expect(second.data).toEqual(first.data);
  });

  it.each<[string, Record<string, unknown>, string, string]>([
    ['with the hash of other arguments', { hash: 'another' }, 'APPROVAL_MISMATCH', 'argumentsHash'],
    ["with arguments that don't fit the schema", { edited: { to: 1 } }, 'BAD_USER_INPUT', 'editedArguments'],
    ['with a member too many', { edited: { to: 'ada', cc: 'bob' } }, 'BAD_USER_INPUT', 'editedArguments'],
    ["with arguments that can't be stored", { edited: { to: '\u0000' } }, 'BAD_USER_INPUT', 'editedArguments'],
    ['with arguments that are no object', { edited: 'ada' }, 'BAD_USER_INPUT', 'editedArguments'],
    [
      'to reject with other arguments',
      { decision: 'REJECTED', edited: { to: 'x' } },
      'BAD_USER_INPUT',
      'editedArguments',
    ],
    ['to reject for the rest of the session', { decision: 'REJECTED', remember: true }, 'BAD_USER_INPUT', 'remember'],
    ['with a note that is too long', { note: 'x'.repeat(2_001) }, 'BAD_USER_INPUT', 'note'],
  ])('%s is refused and leaves the question open', async (_what, given, code, field) => {
    const waiting = await approvals.wait([{}]);
    expect(codes(await decide(waiting, 0, given))).toEqual([{ code, field }]);
    expect(await read(waiting)).toMatchObject({ taskState: 'WAITING', approvals: [{ state: 'PENDING' }], grants: [] });
    expect((await decide(waiting, 0)).errors).toEqual([]);
  });

  it('with the hash that was shown is taken', async () => {
    const waiting = await approvals.wait([{}]);
    const shown = await waiting.user.ask('query ($id: ID!) { approval(id: $id) { argumentsHash } }', {
      id: waiting.approvalIds[0],
    });
    expect((await decide(waiting, 0, { hash: shown.data.approval.argumentsHash })).errors).toEqual([]);
  });

  it('for the rest of the session is listed there, once, and can be withdrawn', async () => {
    const waiting = await approvals.wait([{}, {}]);
    await Promise.all([decide(waiting, 0, { remember: true }), decide(waiting, 1, { remember: true })]);
    const { grants } = await read(waiting);
    expect(grants).toEqual([
      { id: expect.any(String), kind: 'TOOL', toolName: 'mail', agent: { id: waiting.agentId } },
    ]);
    const withdraw = () =>
      waiting.user.ask(
        'mutation ($id: ID!) { withdrawApprovalGrant(id: $id) { withdrawnApprovalGrantId session { id } } }',
        { id: grants[0]?.['id'] },
      );
    expect((await withdraw()).data.withdrawApprovalGrant).toEqual({
      withdrawnApprovalGrantId: grants[0]?.['id'],
      session: { id: waiting.sessionId },
    });
    expect((await read(waiting)).grants).toEqual([]);
    expect(codes(await withdraw())).toEqual([{ code: 'NOT_FOUND', field: 'id' }]);
  });
});

describe('what is cancelled', () => {
  it.each([
    ['the task', 'mutation ($task: ID!) { cancelTask(id: $task) { task { state } } }'],
    ['its session', 'mutation ($session: ID!) { cancelSessionTasks(sessionId: $session) { count } }'],
    ['its agent', 'mutation ($agent: ID!) { cancelAgentTasks(agentId: $agent) { count } }'],
    ['by deletion of its agent', 'mutation ($agent: ID!) { deleteAgent(id: $agent) { deletedAgentId } }'],
  ])('%s takes its questions along, with an event, and nothing can be decided', async (_what, document) => {
    const waiting = await approvals.wait([{}, {}]);
    await decide(waiting, 0);
    const { taskId: task, sessionId: session, agentId: agent } = waiting;
    expect((await waiting.user.ask(document, { task, session, agent })).errors).toEqual([]);
    const rows = await approvals.look(`SELECT state FROM approvals WHERE user_id = $1 ORDER BY id`, [waiting.userId]);
    expect(rows).toEqual([{ state: 'APPROVED' }, { state: 'CANCELLED' }]);
    expect((await events(waiting)).at(-1)).toBe('approval_resolved CANCELLED');
    expect(codes(await decide(waiting, 1))).toEqual([{ code: 'APPROVAL_CANCELLED', field: 'id' }]);
  });

  it('with its session is gone', async () => {
    const waiting = await approvals.wait([{}]);
    await waiting.user.ask('mutation ($id: ID!) { deleteSession(id: $id) { deletedSessionId } }', {
      id: waiting.sessionId,
    });
    expect(codes(await decide(waiting, 0))).toEqual([{ code: 'NOT_FOUND', field: 'id' }]);
  });

  it('at the same moment as it is decided ends in one of the two, never in both', async () => {
    for (let round = 0; round < 10; round += 1) {
      const waiting = await approvals.wait([{}]);
      const [decided, cancelled] = await Promise.all([
        decide(waiting, 0),
        waiting.user.ask('mutation ($id: ID!) { cancelTask(id: $id) { task { state } } }', { id: waiting.taskId }),
      ]);
      // A decision that came first leaves a queued task, which can still be cancelled.
      expect(cancelled.errors).toEqual([]);
      const [approval] = (await read(waiting)).approvals;
      expect(approval?.['state']).toBe(decided.errors.length === 0 ? 'APPROVED' : 'CANCELLED');
      expect((await read(waiting)).taskState).toBe('CANCELLED');
    }
  });
});

describe('an approval that nobody decides', () => {
  const againMutation = `mutation ($id: ID!) { requestAgain(id: $id) {
    approval { id state arguments toolName dangerous previousId task { id state } } } }`;

  it('expires while every process is down, can no longer be decided, and its task goes on', async () => {
    const waiting = await approvals.wait([{}]);
    await approvals.age(waiting.approvalIds[0]);
    // Past its time, but no upkeep has seen it: to the user it is over all the same.
    expect(codes(await decide(waiting, 0))).toEqual([{ code: 'APPROVAL_EXPIRED', field: 'id' }]);
    expect(await approvals.upkeep()).toBe(1);
    expect(await read(waiting)).toMatchObject({ taskState: 'QUEUED', approvals: [{ state: 'EXPIRED' }] });
    expect((await events(waiting)).at(-1)).toBe('approval_resolved EXPIRED');
    expect(codes(await decide(waiting, 0))).toEqual([{ code: 'APPROVAL_EXPIRED', field: 'id' }]);
    expect(await approvals.upkeep()).toBe(0);
  });

  it('is asked again for the same call while its task still waits, once', async () => {
    const waiting = await approvals.wait([{ arguments: { to: 'ada' } }, {}]);
    await approvals.age(waiting.approvalIds[0]);
    await approvals.upkeep();
    const answers = await Promise.all(
      Array.from({ length: 5 }, () => waiting.user.ask(againMutation, { id: waiting.approvalIds[0] })),
    );
    const ids = new Set(answers.map(({ data }) => data.requestAgain.approval.id));
    expect(ids.size).toBe(1);
    expect(answers[0]?.data.requestAgain.approval).toMatchObject({
      state: 'PENDING',
      arguments: { to: 'ada' },
      toolName: 'mail',
      dangerous: true,
      previousId: waiting.approvalIds[0],
      task: { id: waiting.taskId, state: 'WAITING' },
    });
    expect((await events(waiting)).slice(4)).toEqual([
      'approval_resolved EXPIRED',
      'approval_required',
      'tool_request',
    ]);
    // The task waits for the new one as well.
    await decide(waiting, 1);
    expect((await read(waiting)).taskState).toBe('WAITING');
  });

  it('gives one that is pending as it is', async () => {
    const waiting = await approvals.wait([{}]);
    const { data } = await waiting.user.ask(againMutation, { id: waiting.approvalIds[0] });
    expect(data.requestAgain.approval).toMatchObject({ id: waiting.approvalIds[0], state: 'PENDING' });
  });

  it('is not asked again when it was decided or cancelled', async () => {
    const waiting = await approvals.wait([{}, {}]);
    await decide(waiting, 0);
    await waiting.user.ask('mutation ($id: ID!) { cancelTask(id: $id) { task { id } } }', { id: waiting.taskId });
    const refusals = await Promise.all(waiting.approvalIds.map((id) => waiting.user.ask(againMutation, { id })));
    expect(refusals.map(codes)).toEqual([
      [{ code: 'APPROVAL_ALREADY_DECIDED', field: 'id' }],
      [{ code: 'APPROVAL_CANCELLED', field: 'id' }],
    ]);
  });
});
