import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { rowId } from '../isolation/world.ts';
import { waitFor } from '../service.ts';
import { type Chatter, createChatter, eventsOf, startTestService, type TestService } from './arrange.ts';

let service: TestService;
let users = 0;

beforeAll(async () => {
  service = await startTestService();
});
afterEach(() => service.model.reset());
afterAll(() => service?.stop());

/** A user in whose session an agent is at work on a message. */
async function busyUser(): Promise<Chatter & { agent: string; taskId: string }> {
  users += 1;
  const chatter = await createChatter(service, `user ${users}`);
  service.model.setScript([{ match: 'slow', reply: 'at last', delayMs: 60_000, times: 9 }]);
  const agent = await chatter.agentId('Writer');
  const sent = await chatter.trySend('something slow', { targetAgentId: agent });
  const taskId = sent.data.sendMessage.task.id;
  await waitFor('the agent to be at work', async () => (await stateOf(chatter, taskId)) === 'RUNNING');
  return { ...chatter, agent, taskId };
}

async function stateOf({ user }: Chatter, id: string): Promise<string> {
  return (await user.ask('query ($id: ID!) { task(id: $id) { state } }', { id })).data.task.state;
}

async function countMessages({ user, sessionId }: Chatter): Promise<number> {
  const answer = await user.ask('query ($id: ID!) { session(id: $id) { messageCount } }', { id: sessionId });
  return answer.data.session.messageCount;
}

async function setPolicy({ user, sessionId }: Chatter, busyPolicy: string): Promise<void> {
  const answer = await user.ask(
    'mutation ($id: ID!, $input: UpdateSessionInput!) { updateSession(id: $id, input: $input) { session { busyPolicy title } } }',
    { id: sessionId, input: { busyPolicy } },
  );
  expect(answer.data.updateSession.session).toEqual({ busyPolicy, title: 'New session' });
}

describe('a message to a busy session', () => {
  it('waits for its turn by default', async () => {
    const alice = await busyUser();
    const sent = await alice.trySend('and then this', { targetAgentId: alice.agent });
    expect(sent.errors).toEqual([]);
    expect(await stateOf(alice, sent.data.sendMessage.task.id)).toBe('QUEUED');
    expect(await stateOf(alice, alice.taskId)).toBe('RUNNING');
  });

  it.each([
    ['the message says so', 'REJECT', undefined],
    ['the session does so by default', undefined, 'REJECT'],
    ['the message says so, whatever the session does', 'REJECT', 'INTERRUPT'],
  ])('is refused when %s, and nothing is stored', async (_when, busyPolicy, usual) => {
    const alice = await busyUser();
    if (usual !== undefined) {
      await setPolicy(alice, usual);
    }
    for (const target of [{ targetAgentId: alice.agent }, {}]) {
      const { errors } = await alice.trySend('and this?', { ...target, busyPolicy });
      expect(errors.map(({ extensions }) => extensions)).toEqual([
        { code: 'SESSION_BUSY', field: 'input.sessionId', retryAfter: 2 },
      ]);
    }
    expect(await countMessages(alice)).toBe(1);
    expect(await stateOf(alice, alice.taskId)).toBe('RUNNING');
  });

  it.each([
    ['the message says so', 'INTERRUPT', undefined],
    ['the session does so by default', undefined, 'INTERRUPT'],
  ])('cancels what is open when %s, and is next', async (_when, busyPolicy, usual) => {
    const alice = await busyUser();
    if (usual !== undefined) {
      await setPolicy(alice, usual);
    }
    const waiting = await alice.trySend('slow as well', { targetAgentId: alice.agent, busyPolicy: 'QUEUE' });
    const sent = await alice.trySend('this now', { targetAgentId: alice.agent, busyPolicy });
    expect(sent.errors).toEqual([]);
    expect(await stateOf(alice, alice.taskId)).toBe('CANCELLED');
    expect(await stateOf(alice, waiting.data.sendMessage.task.id)).toBe('CANCELLED');
    await waitFor('the answer', async () => (await stateOf(alice, sent.data.sendMessage.task.id)) === 'COMPLETED');
  });

  it('interrupts a plan with all its tasks', async () => {
    users += 1;
    const alice = await createChatter(service, `user ${users}`);
    service.model.setScript([{ match: '<instruction>', reply: 'at last', delayMs: 60_000, times: 9 }]);
    const id = await alice.send('Research tea, and write a text about water');
    await waitFor('the agents to be at work', async () =>
      (await alice.plan(id)).tasks.some(({ task }) => task?.state === 'RUNNING'),
    );
    const next = await alice.send('Never mind', { busyPolicy: 'INTERRUPT' });
    const plan = await alice.plan(id);
    expect(plan.state).toBe('CANCELLED');
    expect(new Set(plan.tasks.map(({ task }) => task?.state))).toEqual(new Set(['CANCELLED']));
    service.model.reset();
    expect((await alice.planIn(next)).state).toBe('COMPLETED');
    // The events of both are one commit: the end of the old comes before the new message.
    const types = (await eventsOf(service, alice.sessionId)).map(({ type }) => type);
    expect(types.indexOf('plan_ended')).toBeLessThan(types.lastIndexOf('message_created'));
  });

  it('leaves other sessions of the user alone', async () => {
    const alice = await busyUser();
    const { data } = await alice.user.ask(
      'mutation { createSession(input: { busyPolicy: INTERRUPT }) { session { id busyPolicy } } }',
    );
    const { id, busyPolicy } = data.createSession.session;
    expect(busyPolicy).toBe('INTERRUPT');
    const sent = await alice.trySend('here', { sessionId: id, targetAgentId: alice.agent });
    expect(sent.errors).toEqual([]);
    expect(await stateOf(alice, alice.taskId)).toBe('RUNNING');
  });

  it('is refused no longer when the session is at rest', async () => {
    users += 1;
    const alice = await createChatter(service, `user ${users}`);
    await setPolicy(alice, 'REJECT');
    const first = await alice.send('Write a line');
    await alice.planIn(first);
    await waitFor('the session to be at rest', async () => {
      const { errors } = await alice.trySend('Write another line');
      return errors.length === 0;
    });
  });
});

describe('many messages at once to a session that interrupts', () => {
  it('leave exactly one that is not cancelled, and no lock in a circle', async () => {
    const alice = await busyUser();
    const agents = await Promise.all(['Writer', 'Coder', 'Researcher'].map((name) => alice.agentId(name)));
    const sent = await Promise.all(
      Array.from({ length: 12 }, (_, place) =>
        alice.trySend(`slow ${place}`, {
          targetAgentId: place % 4 === 3 ? null : agents[place % 4],
          busyPolicy: 'INTERRUPT',
        }),
      ),
    );
    expect(sent.flatMap(({ errors }) => errors)).toEqual([]);
    // What came before the newest message was cancelled by it, or by one in between.
    const open = await service.database.owner(
      `SELECT DISTINCT session_order = max(session_order) OVER () AS newest, finished_at IS NULL AS open
      FROM tasks WHERE session_id = $1 ORDER BY newest, open`,
      [rowId(alice.sessionId)],
    );
    expect(open).toContainEqual({ newest: true, open: true });
    expect(open).not.toContainEqual({ newest: false, open: true });
  });
});
