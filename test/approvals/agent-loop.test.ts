import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { DomainError } from '../../src/errors.ts';
import { ToolResultPendingError } from '../../src/runner/tool.ts';
import { askOtherAgent } from '../../src/runner/tools/ask-agent.ts';
import { rowId } from '../isolation/world.ts';
import { auditCounts } from '../queue/audit.ts';
import { type AgentLoop, type Someone, startAgentLoop } from './agent-loop.ts';

let loop: AgentLoop;

beforeAll(async () => {
  loop = await startAgentLoop();
});
afterEach(() => {
  loop.onEffect(null);
  loop.service.model.reset();
  loop.effects.length = 0;
});
afterAll(async () => {
  expect(await auditCounts(loop.service.database)).toEqual([]);
  await loop?.stop();
});

const request = 'Please look up Bob and send a mail to Ada.';

async function read({ user }: Someone, id: string) {
  const { data } = await user.ask(
    `query ($id: ID!) { task(id: $id) { state attempt errorCode progressNote answer { content } agent { status }
      approvals { edges { node { id state toolName arguments interrupted } } } } }`,
    { id },
  );
  const { approvals, answer, agent, ...task } = data.task;
  return {
    ...task,
    agentStatus: agent.status,
    answer: answer?.content ?? null,
    approvals: approvals.edges.map((edge: { node: unknown }) => edge.node).toReversed(),
  };
}

async function decide({ user }: Someone, id: string, given: Record<string, unknown> = {}): Promise<void> {
  const { errors } = await user.ask(
    `mutation ($id: ID!, $decision: ApprovalDecision!, $note: String, $edited: JSON, $remember: Boolean) {
      decideApproval(id: $id, decision: $decision, note: $note, editedArguments: $edited, remember: $remember) { approval { id } } }`,
    { id, decision: 'APPROVED', ...given },
  );
  expect(errors).toEqual([]);
}

/** What the model was told in the newest request that came to it. */
function toldResults(): string[] {
  const body = loop.service.model.recentRequests().at(-1)?.body as { messages: { role: string; content: string }[] };
  return body.messages.filter(({ role }) => role === 'tool').map(({ content }) => content);
}

const called = () => loop.effects.map(({ tool, arguments: given }) => `${tool} ${String(given['to'])}`);

describe('an agent with tools', () => {
  it('calls them, is told their results, and answers', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'look_up');
    await loop.addTool(ada, 'weather_of');
    const task = await loop.send(ada, 'Please look up Bob and tell me the weather of Rome.');
    await loop.work();
    expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED', approvals: [], agentStatus: 'READY' });
    expect(loop.effects.map(({ tool }) => tool).toSorted()).toEqual(['look_up', 'weather_of']);
    expect(toldResults()).toEqual([
      expect.stringContaining('look_up done'),
      expect.stringContaining('weather_of done'),
    ]);
  });

  it('calls those of one answer at the same time, each with a key of its own', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'look_up');
    loop.service.model.setScript([
      { match: 'both', reply: ['ada', 'bob'].map((to) => ({ name: 'look_up', arguments: { to } })) },
      { match: 'both', reply: 'Found both.' },
    ]);
    const { promise: bothCame, resolve } = Promise.withResolvers<void>();
    loop.onEffect(() => {
      if (loop.effects.length === 2) {
        resolve();
      }
      return bothCame;
    });
    const task = await loop.send(ada, 'both');
    await loop.work();
    expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED', answer: 'Found both.' });
    expect(new Set(loop.effects.map(({ key }) => key))).toEqual(new Set([`${rowId(task)}:2`, `${rowId(task)}:3`]));
  });

  it('tells watchers what it calls', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'look_up');
    await loop.send(ada, 'Please look up Bob.');
    await loop.work();
    const events = await loop.look(
      `SELECT data ->> 'note' AS note FROM events WHERE user_id = $1 AND type = 'task_progress' ORDER BY sequence`,
      [ada.userId],
    );
    expect(events).toEqual([{ note: 'calling look_up' }]);
  });

  it('is offered its own tools only, however the prompt names others', async () => {
    const [ada, eve] = [await loop.addUser(), await loop.addUser()];
    const theirs = await loop.addTool(ada, 'secret_vault');
    await loop.addTool(eve, 'look_up');
    const names = [{ name: 'secret_vault' }, { name: theirs.toolId }, { name: `${ada.userId}/secret_vault` }];
    loop.service.model.setScript([
      { match: 'vault', reply: names.map((name) => ({ ...name, arguments: { to: 'eve' } })) },
      { match: 'vault', reply: 'I could not.' },
    ]);
    const task = await loop.send(eve, `Open the secret_vault of ${ada.userId} with the tool ${theirs.toolId}.`);
    await loop.work();
    expect(await read(eve, task)).toMatchObject({ state: 'COMPLETED', answer: 'I could not.' });
    expect(loop.effects).toEqual([]);
    expect(toldResults()).toEqual(names.map(() => 'There is no tool of that name. You have: look_up.'));
    expect(JSON.stringify(loop.service.model.recentRequests().at(-2)?.body)).not.toContain('Can secret vault');
  });

  it('stops after its turns: the last is asked for without tools', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'look_up');
    loop.service.model.setScript([
      { match: 'forever', reply: [{ name: 'look_up', arguments: { to: 'bob' } }], times: 2 },
      { match: 'forever', reply: 'Enough.' },
    ]);
    const task = await loop.send(ada, 'forever');
    await loop.work({ maxTurns: 3 });
    expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED', answer: 'Enough.' });
    expect(loop.effects).toHaveLength(2);
    expect(loop.service.model.recentRequests().at(-1)?.body).not.toHaveProperty('tools');
  });
});

describe('what goes wrong with a tool is told to the model, and the task goes on', () => {
  it.each<[string, () => Promise<string>, RegExp]>([
    [
      'a failure with a reason',
      () => Promise.reject(new DomainError('NOT_FOUND', 'No such page.')),
      /^Failed: No such page\.$/,
    ],
    [
      'an unexpected fault, without its words',
      () => Promise.reject(new Error('password 1234')),
      /^Failed: the tool failed unexp/,
    ],
    [
      'a fault before there was a promise',
      () => {
        throw new TypeError('odd');
      },
      /^Failed: the tool failed unexpectedly/,
    ],
    [
      'a tool that never answers and hears no signal',
      () => new Promise(() => undefined),
      /^Failed: .* no result in 0.1 seconds/,
    ],
    ['a result that is too long', async () => 'x'.repeat(5_000), /^x{1000}\n… \(cut: 1000 of 5000 characters\)$/],
    ["a result that can't be stored as it is", async () => 'a\u0000b\ud83d', /^ab\ufffd$/],
    ['an empty result', async () => '', /^$/],
  ])('%s', async (_what, call, told) => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'look_up', { call, timeout: 100 });
    const task = await loop.send(ada, 'Please look up Bob.');
    await loop.work({ resultLength: 1_000 });
    expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED', attempt: 1 });
    expect(toldResults()).toEqual([expect.stringMatching(told)]);
  });
});

describe('a dangerous call', () => {
  it('waits for the user, without a slot, and is made when it is approved', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'look_up');
    await loop.addTool(ada, 'send_mail', { dangerous: true });
    const task = await loop.send(ada, request);
    await loop.work();
    const waiting = await read(ada, task);
    expect(waiting).toMatchObject({ state: 'WAITING', agentStatus: 'READY', approvals: [{ state: 'PENDING' }] });
    expect(loop.effects.map(({ tool }) => tool)).toEqual(['look_up']);
    await decide(ada, waiting.approvals[0].id);
    await loop.work();
    expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED' });
    expect(loop.effects.map(({ tool }) => tool)).toEqual(['look_up', 'send_mail']);
  });

  it('is not made when it is declined, and the model reads the note', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'send_mail', { dangerous: true });
    const task = await loop.send(ada, 'Please send a mail to Ada.');
    await loop.work();
    await decide(ada, (await read(ada, task)).approvals[0].id, { decision: 'REJECTED', note: 'She is on holiday.' });
    await loop.work();
    expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED' });
    expect(loop.effects).toEqual([]);
    expect(toldResults()).toEqual([
      "The user declined this call; it was not made. The user's note: She is on holiday.",
    ]);
  });

  it('is made with what the user made of its arguments', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'send_mail', { dangerous: true });
    const task = await loop.send(ada, 'Please send a mail to Ada.');
    await loop.work();
    await decide(ada, (await read(ada, task)).approvals[0].id, { edited: { to: 'Grace' } });
    await loop.work();
    expect(called()).toEqual(['send_mail Grace']);
  });

  it('is not made when nobody decides in time, and the model is told so', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'send_mail', { dangerous: true });
    const task = await loop.send(ada, 'Please send a mail to Ada.');
    await loop.work();
    // Every process is down meanwhile.
    await loop.look(`UPDATE approvals SET expires_at = now() - interval '1 hour' WHERE user_id = $1`, [ada.userId]);
    await loop.upkeep();
    await loop.work();
    expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED', approvals: [{ state: 'EXPIRED' }] });
    expect(loop.effects).toEqual([]);
    expect(toldResults()).toEqual(['Nobody approved this call in time; it was not made.']);
  });

  it('finds its own decision among three that are answered in reverse', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'send_mail', { dangerous: true });
    loop.service.model.setScript([
      { match: 'three', reply: ['one', 'two', 'three'].map((to) => ({ name: 'send_mail', arguments: { to } })) },
      { match: 'three', reply: 'Done.' },
    ]);
    const task = await loop.send(ada, 'three mails');
    await loop.work();
    const [first, second, third] = (await read(ada, task)).approvals;
    await decide(ada, third.id, { edited: { to: 'three, edited' } });
    await decide(ada, second.id, { decision: 'REJECTED', note: 'not two' });
    await decide(ada, first.id);
    await loop.work();
    expect(called().toSorted()).toEqual(['send_mail one', 'send_mail three, edited']);
    expect(toldResults()).toEqual([
      'send_mail done for one',
      "The user declined this call; it was not made. The user's note: not two",
      'send_mail done for three, edited',
    ]);
  });

  it('is asked about as long as the user was given: by the tool, else by the agent, else by the service', async () => {
    const times = [
      { agent: {}, tool: {}, seconds: 300 },
      { agent: { approvalTimeoutSeconds: 60 }, tool: {}, seconds: 60 },
      { agent: { approvalTimeoutSeconds: 60 }, tool: { approvalTimeout: 20_000 }, seconds: 20 },
    ];
    for (const { agent, tool, seconds } of times) {
      const ada = await loop.addUser(agent);
      await loop.addTool(ada, 'send_mail', { dangerous: true, ...tool });
      await loop.send(ada, 'Please send a mail to Ada.');
      await loop.work();
      const rows = await loop.look(
        `SELECT extract(epoch FROM expires_at - created_at)::float8 AS seconds FROM approvals WHERE user_id = $1`,
        [ada.userId],
      );
      expect(rows).toEqual([{ seconds }]);
    }
  });

  it('approved for the rest of the session is made there without asking, until that is withdrawn', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'send_mail', { dangerous: true });
    const first = await loop.send(ada, 'Please send a mail to Ada.');
    await loop.work();
    await decide(ada, (await read(ada, first)).approvals[0].id, { remember: true });
    await loop.work();

    const second = await loop.send(ada, 'Please send a mail to Bob.');
    await loop.work();
    expect(await read(ada, second)).toMatchObject({ state: 'COMPLETED', approvals: [] });
    expect(loop.effects).toHaveLength(2);

    const elsewhere = await ada.user.ask('mutation { createSession { session { id } } }');
    const other = { ...ada, sessionId: elsewhere.data.createSession.session.id };
    const third = await loop.send(other, 'Please send a mail to Eve.');
    await loop.work();
    expect(await read(ada, third)).toMatchObject({ state: 'WAITING' });

    const { data } = await ada.user.ask(
      'query ($id: ID!) { session(id: $id) { approvalGrants { edges { node { id } } } } }',
      { id: ada.sessionId },
    );
    await ada.user.ask('mutation ($id: ID!) { withdrawApprovalGrant(id: $id) { session { id } } }', {
      id: data.session.approvalGrants.edges[0].node.id,
    });
    const fourth = await loop.send(ada, 'Please send a mail to Mallory.');
    await loop.work();
    expect(await read(ada, fourth)).toMatchObject({ state: 'WAITING' });
  });
});

describe('what expired and is asked for again after its task has gone on', () => {
  const again = `mutation ($id: ID!) { requestAgain(id: $id) {
    approval { id state arguments interrupted previousId task { id state } } } }`;

  /** A task whose user did not decide in time, and that has told so. */
  async function missed(content: string) {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'look_up');
    await loop.addTool(ada, 'send_mail', { dangerous: true });
    const task = await loop.send(ada, content);
    await loop.work();
    await loop.look(
      `UPDATE approvals SET created_at = created_at - interval '1 hour', expires_at = expires_at - interval '1 hour'
      WHERE user_id = $1`,
      [ada.userId],
    );
    await loop.upkeep();
    await loop.work();
    const before = await read(ada, task);
    expect(before).toMatchObject({ state: 'COMPLETED', approvals: before.approvals.map(() => ({ state: 'EXPIRED' })) });
    return { ada, task, before, id: before.approvals[0].id as string };
  }

  it('is a new run that waits for the answer and takes up at the call: nothing else is done again', async () => {
    const { ada, task, before, id } = await missed(request);
    const { data, errors } = await ada.user.ask(again, { id });
    expect(errors).toEqual([]);
    const { approval } = data.requestAgain;
    expect(approval).toMatchObject({
      state: 'PENDING',
      previousId: id,
      interrupted: false,
      task: { state: 'WAITING' },
    });
    expect(approval.arguments).toEqual(before.approvals[0].arguments);
    expect(approval.task.id).not.toBe(task);
    expect(loop.effects.map(({ tool }) => tool)).toEqual(['look_up']);
    await decide(ada, approval.id, { edited: { to: 'Grace' } });
    await loop.work();
    expect(loop.effects.map(({ tool }) => tool)).toEqual(['look_up', 'send_mail']);
    expect(await read(ada, approval.task.id)).toMatchObject({
      state: 'COMPLETED',
      answer: expect.stringContaining('send_mail done for Grace'),
    });
    expect(await read(ada, task)).toEqual(before);
  });

  it('is asked once, however often it is asked for', async () => {
    const { ada, id } = await missed('Please send a mail to Ada.');
    const answers = await Promise.all(Array.from({ length: 5 }, () => ada.user.ask(again, { id })));
    expect(answers.flatMap(({ errors }) => errors)).toEqual([]);
    expect(new Set(answers.map(({ data }) => data.requestAgain.approval.id)).size).toBe(1);
    expect(await loop.look(`SELECT 1 FROM tasks WHERE user_id = $1`, [ada.userId])).toHaveLength(2);
  });

  it('is each a run of its own for several calls of one answer, and none of them makes the other call', async () => {
    loop.service.model.setScript([
      { match: 'two', reply: ['one', 'two'].map((to) => ({ name: 'send_mail', arguments: { to } })) },
      { match: 'two', reply: 'Done.', times: 3 },
    ]);
    const { ada, before } = await missed('two mails');
    for (const { id } of before.approvals) {
      const { data } = await ada.user.ask(again, { id });
      await decide(ada, data.requestAgain.approval.id);
    }
    await loop.work();
    expect(called().toSorted()).toEqual(['send_mail one', 'send_mail two']);
  });

  it('may be declined, and expire again', async () => {
    const { ada, id } = await missed('Please send a mail to Ada.');
    const first = (await ada.user.ask(again, { id })).data.requestAgain.approval;
    await loop.look(
      `UPDATE approvals SET created_at = created_at - interval '1 hour', expires_at = expires_at - interval '1 hour'
      WHERE user_id = $1 AND state = 'PENDING'`,
      [ada.userId],
    );
    // Before the upkeep has seen it, and by the id of the first.
    const second = (await ada.user.ask(again, { id })).data.requestAgain.approval;
    expect(second).toMatchObject({ state: 'PENDING', previousId: first.id });
    await loop.work();
    await decide(ada, second.id, { decision: 'REJECTED' });
    await loop.work();
    expect(await read(ada, second.task.id)).toMatchObject({ state: 'COMPLETED' });
    expect(loop.effects).toEqual([]);
  });

  it('of an agent that another one asked is a run that answers the message itself', async () => {
    const ada = await loop.addUser();
    await ada.user.ask(
      'mutation { createAgent(input: { name: "Helper", instructions: "You are Helper." }) { agent { id } } }',
    );
    await loop.addTool(ada, 'ask_agent', { call: askOtherAgent(), argumentsSchema: {} });
    await loop.addTool(ada, 'send_mail', { dangerous: true });
    loop.service.model.setScript([
      {
        match: 'mail',
        matchSystem: 'Mailer',
        reply: [{ name: 'ask_agent', arguments: { agent: 'Helper', question: 'mail Bob' } }],
      },
      { match: 'mail', matchSystem: 'Helper', reply: [{ name: 'send_mail', arguments: { to: 'Bob' } }] },
      { match: 'mail', matchSystem: 'Helper', reply: 'I could not.' },
      { match: 'mail', matchSystem: 'Mailer', reply: 'It could not.' },
      { match: 'mail', matchSystem: 'Helper', reply: 'I sent it.' },
    ]);
    const task = await loop.send(ada, 'mail Bob');
    await loop.work();
    await loop.look(
      `UPDATE approvals SET created_at = created_at - interval '1 hour', expires_at = now() - interval '1 minute'
      WHERE user_id = $1`,
      [ada.userId],
    );
    await loop.upkeep();
    await loop.work();
    expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED', answer: 'It could not.' });
    const asked = await ada.user.ask('{ approvals { edges { node { id } } } }');
    const { data, errors } = await ada.user.ask(again, { id: asked.data.approvals.edges[0].node.id });
    expect(errors).toEqual([]);
    await decide(ada, data.requestAgain.approval.id);
    await loop.work();
    expect(called()).toEqual(['send_mail Bob']);
    expect(await read(ada, data.requestAgain.approval.task.id)).toMatchObject({ answer: 'I sent it.' });
  });

  it('is refused when the agent was deleted', async () => {
    const { ada, id } = await missed('Please send a mail to Ada.');
    await ada.user.ask('mutation ($id: ID!) { deleteAgent(id: $id) { deletedAgentId } }', { id: ada.agentId });
    const { errors } = await ada.user.ask(again, { id });
    expect(errors.map(({ extensions }) => extensions)).toEqual([{ code: 'TASK_ENDED', field: 'id' }]);
  });
});

describe('a cancel', () => {
  it('reaches a tool at work through its signal, and nothing of it is stored', async () => {
    const ada = await loop.addUser();
    const { promise: working, resolve: begin } = Promise.withResolvers<void>();
    let reason: unknown;
    await loop.addTool(ada, 'look_up', {
      call: (_given, { signal }) => {
        begin();
        return new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => {
            reason = signal.reason;
            reject(signal.reason);
          });
        });
      },
    });
    const task = await loop.send(ada, 'Please look up Bob.');
    const abandon = new AbortController();
    const work = loop.work({ signal: abandon.signal });
    await working;
    const { errors } = await ada.user.ask('mutation ($id: ID!) { cancelTask(id: $id) { task { state } } }', {
      id: task,
    });
    expect(errors).toEqual([]);
    abandon.abort(new Error('cancelled'));
    await work;
    expect(reason).toEqual(new Error('cancelled'));
    expect(await read(ada, task)).toMatchObject({ state: 'CANCELLED', answer: null });
  });

  it('while it waits takes the question back, and the call is never made', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'send_mail', { dangerous: true });
    const task = await loop.send(ada, 'Please send a mail to Ada.');
    await loop.work();
    await ada.user.ask('mutation ($id: ID!) { cancelTask(id: $id) { task { state } } }', { id: task });
    await loop.work();
    expect(await read(ada, task)).toMatchObject({ state: 'CANCELLED', approvals: [{ state: 'CANCELLED' }] });
    expect(loop.effects).toEqual([]);
  });
});

describe('a result that comes from elsewhere', () => {
  it('lets the task wait without a slot; the same call with the same key then gives it', async () => {
    const ada = await loop.addUser();
    let result: string | null = null;
    const keys: string[] = [];
    await loop.addTool(ada, 'look_up', {
      call: async (_given, { idempotencyKey }) => {
        keys.push(idempotencyKey);
        if (result === null) {
          throw new ToolResultPendingError();
        }
        return result;
      },
    });
    const task = await loop.send(ada, 'Please look up Bob.');
    await loop.work();
    expect(await read(ada, task)).toMatchObject({ state: 'WAITING', agentStatus: 'READY' });
    result = 'Bob was found';
    await loop.resume(ada, task);
    await loop.work();
    expect(await read(ada, task)).toMatchObject({
      state: 'COMPLETED',
      answer: expect.stringContaining('Bob was found'),
    });
    expect(new Set(keys)).toEqual(new Set([`${rowId(task)}:2`]));
  });

  it('is not missed when it came before the task waited', async () => {
    const ada = await loop.addUser();
    let calls = 0;
    await loop.addTool(ada, 'look_up', {
      call: async () => {
        calls += 1;
        if (calls === 1) {
          throw new ToolResultPendingError(async () => true);
        }
        return 'Bob was found';
      },
    });
    const task = await loop.send(ada, 'Please look up Bob.');
    await loop.work();
    expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED', attempt: 2 });
  });

  it('may come while the user is still asked about another call, and the other way round', async () => {
    const ada = await loop.addUser();
    let result: string | null = null;
    await loop.addTool(ada, 'look_up', {
      call: async () => {
        if (result === null) {
          throw new ToolResultPendingError();
        }
        return result;
      },
    });
    await loop.addTool(ada, 'send_mail', { dangerous: true });
    const task = await loop.send(ada, request);
    await loop.work();
    result = 'Bob was found';
    await loop.resume(ada, task);
    await loop.work();
    const waiting = await read(ada, task);
    expect(waiting).toMatchObject({ state: 'WAITING', approvals: [{ state: 'PENDING' }] });
    await decide(ada, waiting.approvals[0].id);
    await loop.work();
    expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED' });
    expect(loop.effects).toHaveLength(1);
  });
});

describe('a worker that dies', () => {
  /** Lets it die at one place, and the user answer as soon as there is something to answer. */
  async function liveThrough(
    place: { commit: number; when: 'before' | 'after' } | null,
    again: 'APPROVED' | 'REJECTED',
  ) {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'look_up');
    await loop.addTool(ada, 'send_mail', { dangerous: true });
    const task = await loop.send(ada, request);
    let commits = 0;
    let death = place;
    for (let round = 0; round < 8; round += 1) {
      const made = await loop.work({ death });
      commits += made;
      // Only one of them dies: where it lived, the commits of the next rounds are counted on.
      death = death === null || death.commit <= made ? null : { ...death, commit: death.commit - made };
      const { state, approvals } = await read(ada, task);
      if (state !== 'WAITING') {
        break;
      }
      for (const { id, interrupted } of approvals.filter((one: { state: string }) => one.state === 'PENDING')) {
        await decide(ada, id, { decision: interrupted ? again : 'APPROVED' });
      }
    }
    const events = await loop.look(
      `SELECT type FROM events WHERE user_id = $1 AND type IN ('task_completed', 'message_created') ORDER BY sequence`,
      [ada.userId],
    );
    const mails = loop.effects.filter(({ tool }) => tool === 'send_mail');
    const result = { ada, task: await read(ada, task), commits, mails, events: events.map((event) => event['type']) };
    loop.effects.length = 0;
    return result;
  }

  it('at any commit of a run leaves a task that ends the same, and its dangerous call had its effect at most once', async () => {
    const healthy = await liveThrough(null, 'REJECTED');
    expect(healthy).toMatchObject({ task: { state: 'COMPLETED' }, mails: [{}] });
    expect(healthy.commits).toBeGreaterThanOrEqual(9);
    for (let commit = 1; commit <= healthy.commits; commit += 1) {
      for (const when of ['before', 'after'] as const) {
        const { task, mails, events } = await liveThrough({ commit, when }, 'REJECTED');
        const where = `${when} commit ${commit}`;
        expect(task.state, where).toBe('COMPLETED');
        expect(mails.length, where).toBeLessThanOrEqual(1);
        expect(events, where).toEqual(healthy.events);
        // Only where the call may have been under way is the user asked again.
        const interrupted = task.approvals.filter((approval: { interrupted: boolean }) => approval.interrupted);
        expect(interrupted.length, where).toBeLessThanOrEqual(1);
        expect(task.answer, where).toContain(interrupted.length === 0 ? 'send_mail done' : 'not known');
      }
    }
  }, 120_000);

  it('in the middle of a dangerous call has it made again only when the user says so, with the same key', async () => {
    for (const again of ['APPROVED', 'REJECTED'] as const) {
      const ada = await loop.addUser();
      await loop.addTool(ada, 'send_mail', { dangerous: true });
      const task = await loop.send(ada, 'Please send a mail to Ada.');
      await loop.work();
      await decide(ada, (await read(ada, task)).approvals[0].id, { edited: { to: 'Grace' } });
      let die: () => void = () => undefined;
      loop.onEffect(() => {
        loop.onEffect(null);
        die();
      });
      await loop.work({
        onStart: (kill) => {
          die = kill;
        },
      });
      const asked = await read(ada, task);
      expect(asked).toMatchObject({
        state: 'WAITING',
        approvals: [{ state: 'APPROVED' }, { state: 'PENDING', interrupted: true, arguments: { to: 'Grace' } }],
      });
      expect(called()).toEqual(['send_mail Grace']);
      await decide(ada, asked.approvals[1].id, { decision: again });
      await loop.work();
      expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED' });
      expect(called()).toEqual(again === 'APPROVED' ? ['send_mail Grace', 'send_mail Grace'] : ['send_mail Grace']);
      expect(new Set(loop.effects.map(({ key }) => key)).size).toBe(1);
      loop.effects.length = 0;
    }
  });

  it('in the middle of a harmless call has it simply made again', async () => {
    const ada = await loop.addUser();
    await loop.addTool(ada, 'look_up');
    const task = await loop.send(ada, 'Please look up Bob.');
    let die: () => void = () => undefined;
    loop.onEffect(() => {
      loop.onEffect(null);
      die();
    });
    await loop.work({
      onStart: (kill) => {
        die = kill;
      },
    });
    expect(await read(ada, task)).toMatchObject({ state: 'COMPLETED', attempt: 2, approvals: [] });
    expect(loop.effects.map(({ key }) => key)).toEqual([`${rowId(task)}:2`, `${rowId(task)}:2`]);
  });
});
