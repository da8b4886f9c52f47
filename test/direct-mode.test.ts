import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestService, type TestService, type TestUser, waitFor } from './service.ts';

let service: TestService;
let alice: TestUser;

beforeAll(async () => {
  service = await startTestService();
  alice = await service.user('alice');
});
afterAll(() => service.stop());

async function openSession(user: TestUser): Promise<{ sessionId: string; agentId: string }> {
  const { data } = await user.ask(`mutation { createSession { session { id } } }`);
  const team = await user.ask(`{ agents(first: 1) { edges { node { id } } } }`);
  return { sessionId: data.createSession.session.id, agentId: team.data.agents.edges[0].node.id };
}

const send = `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { message { id } task { id answerId } } }`;
const taskQuery = `query ($id: ID!) { task(id: $id) {
  state attempt errorCode errorMessage startedAt finishedAt answer { id role content position agent { id status } task { id } } } }`;

describe('direct mode', () => {
  it('stores the answer of the agent behind the message', async () => {
    const { sessionId, agentId } = await openSession(alice);
    service.model.setScript([{ match: 'capital of France', reply: 'Paris.' }]);
    const sent = await alice.ask(send, {
      input: { sessionId, targetAgentId: agentId, content: 'What is the capital of France?' },
    });
    const { id, answerId } = sent.data.sendMessage.task;
    const task = await waitFor('the answer', async () => {
      const { data } = await alice.ask(taskQuery, { id });
      return data.task.state === 'COMPLETED' && data.task;
    });
    expect(task).toMatchObject({
      attempt: 1,
      errorCode: null,
      answer: { id: answerId, role: 'AGENT', content: 'Paris.', position: 2, agent: { id: agentId }, task: { id } },
    });
  });

  it('tells the model the instructions and the conversation so far', async () => {
    const { sessionId, agentId } = await openSession(alice);
    service.model.setScript([
      { match: 'second', reply: 'Two.' },
      { match: 'first', reply: 'One.' },
    ]);
    for (const content of ['the first', 'the second']) {
      const sent = await alice.ask(send, { input: { sessionId, targetAgentId: agentId, content } });
      const { id } = sent.data.sendMessage.task;
      await waitFor('the answer', async () => (await alice.ask(taskQuery, { id })).data.task.state === 'COMPLETED');
    }
    const last = service.model.recentRequests().at(-1)?.body as { messages: unknown[] };
    expect(last.messages).toEqual([
      { role: 'system', content: expect.stringContaining('You are Researcher.') },
      { role: 'user', content: 'the first' },
      { role: 'assistant', content: 'One.' },
      { role: 'user', content: 'the second' },
    ]);
  });

  it('keeps every one of many messages sent at once, each in a place of its own, answered in order', async () => {
    const { sessionId, agentId } = await openSession(alice);
    service.model.setScript([]);
    const contents = Array.from({ length: 12 }, (_, place) => `note ${place}`);
    const answers = await Promise.all(
      contents.map((content) => alice.ask(send, { input: { sessionId, targetAgentId: agentId, content } })),
    );
    expect(answers.flatMap((answer) => answer.errors)).toEqual([]);
    const messages = await waitFor('all answers', async () => {
      const { data } = await alice.ask(
        `query ($id: ID!) { session(id: $id) { messages(first: 100) { edges { node { position role content task { message { position } } } } } } }`,
        { id: sessionId },
      );
      const nodes = data.session.messages.edges.map((edge: { node: unknown }) => edge.node);
      return nodes.length === 24 && nodes;
    });
    const own = messages.filter((message: { role: string }) => message.role === 'USER');
    expect(new Set(own.map((message: { content: string }) => message.content))).toEqual(new Set(contents));
    expect(messages.map((message: { position: number }) => message.position)).toEqual(
      Array.from({ length: 24 }, (_, place) => place + 1),
    );
    const answered = messages
      .filter((message: { role: string }) => message.role === 'AGENT')
      .map((message: { task: { message: { position: number } } }) => message.task.message.position);
    expect(answered).toEqual(answered.toSorted((left: number, right: number) => left - right));
  });

  it('fails the task at once when the model refuses the request, and says so on the agent', async () => {
    const { sessionId, agentId } = await openSession(alice);
    service.model.setScript([{ match: 'refuse me', reply: 'no', status: 400 }]);
    const sent = await alice.ask(send, { input: { sessionId, targetAgentId: agentId, content: 'refuse me' } });
    const { id } = sent.data.sendMessage.task;
    const task = await waitFor('the failure', async () => {
      const { data } = await alice.ask(taskQuery, { id });
      return data.task.state === 'FAILED' && data.task;
    });
    expect(task).toMatchObject({ attempt: 1, errorCode: 'MODEL_REFUSED', answer: null });
    const agent = await alice.ask(`query ($id: ID!) { agent(id: $id) { status lastError } }`, { id: agentId });
    expect(agent.data.agent).toEqual({ status: 'ERROR', lastError: expect.stringContaining('rejected') });
  });

  it('tries again after a fault that may pass', async () => {
    const { sessionId, agentId } = await openSession(alice);
    service.model.setScript([]);
    service.model.setBehaviour({ failNext: { status: 503, count: 1 } });
    const sent = await alice.ask(send, { input: { sessionId, targetAgentId: agentId, content: 'hello' } });
    const { id } = sent.data.sendMessage.task;
    const task = await waitFor('the second attempt', async () => {
      const { data } = await alice.ask(taskQuery, { id });
      return data.task.state === 'COMPLETED' && data.task;
    });
    expect(task.attempt).toBe(2);
  });
});
