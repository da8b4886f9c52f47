import type { Data, DemoEvent, DemoUser } from './client.ts';
import type { Stage } from './team.ts';

const request = 'Calculate 12 * 7, and send a letter to Carol';
const note = 'Not by letter, please.';
const deadline = 30_000;

/** An agent with two tools: the harmless one is called, the dangerous one is asked for, declined, and not called. */
export async function showConsent(stage: Stage, user: DemoUser, print: (event: DemoEvent) => void): Promise<void> {
  const { data, say, expect } = stage;
  const tools = await data(
    user,
    `mutation ($letter: CreateToolInput!) { createTool(input: $letter) { tool { id } } }`,
    {
      letter: {
        name: 'send_letter',
        description: 'Sends a letter to somebody.',
        http: { method: 'POST', url: 'https://post.example.com/letters' },
        arguments: {
          type: 'object',
          properties: { to: { type: 'string' }, text: { type: 'string' } },
          required: ['to', 'text'],
          additionalProperties: false,
        },
      },
    },
  );
  // A new user's team has it already.
  const owned = await data(user, '{ tools(first: 50) { edges { node { id name } } } }');
  const calculate: Data | undefined = owned.tools.edges.find((edge: Data) => edge.node.name === 'calculate');
  expect(calculate !== undefined, 'the starter team has no calculator');
  const { createAgent, createSession } = await data(
    user,
    `mutation ($input: CreateAgentInput!) {
      createAgent(input: $input) { agent { id } } createSession(input: { title: "Letters" }) { session { id } } }`,
    {
      input: {
        name: 'Secretary',
        instructions: 'You are Secretary. You use your tools.',
        toolIds: [tools.createTool.tool.id, calculate.node.id],
      },
    },
  );
  const seen: DemoEvent[] = [];
  const stop = await user.follow((event) => {
    seen.push(event);
    print(event);
  });
  say(`\n  ${user.name} writes to the Secretary: ${request}`);
  const sent = await data(user, `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }`, {
    input: { sessionId: createSession.session.id, targetAgentId: createAgent.agent.id, content: request },
  });
  const id: string = sent.sendMessage.task.id;
  await until(seen, (event) => event.__typename === 'ToolRequest');
  const asked = await data(
    user,
    `query ($id: ID!) { approvals(states: [PENDING], sessionId: $id) {
      edges { node { id toolName arguments argumentsHash task { state } } } } }`,
    { id: createSession.session.id },
  );
  const approval = asked.approvals.edges[0].node;
  say(
    `  ${user.name} is asked about ${approval.toolName} ${JSON.stringify(approval.arguments)}, and declines: ${note}`,
  );
  await data(
    user,
    `mutation ($id: ID!, $hash: String, $note: String) {
      decideApproval(id: $id, decision: REJECTED, argumentsHash: $hash, note: $note) { approval { state } } }`,
    { id: approval.id, hash: approval.argumentsHash, note },
  );
  await until(seen, (event) => event.__typename === 'TaskCompleted' && event.task?.id === id);
  stop();
  const { task } = await data(user, `query ($id: ID!) { task(id: $id) { state answer { content } } }`, { id });
  expect(task.answer?.content.includes('84') === true, 'the harmless tool was called');
  expect(task.answer?.content.includes('declined') === true, 'the agent was told that its call was declined');
}

async function until(seen: readonly DemoEvent[], matches: (event: DemoEvent) => boolean): Promise<void> {
  const end = performance.now() + deadline;
  while (!seen.some(matches)) {
    if (performance.now() > end) {
      throw new Error('The demo failed: an event did not come in time');
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
