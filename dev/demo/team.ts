import type { DemoEvent, DemoUser } from './client.ts';

/** What the demo does beside it: asks as a user, prints, and stops when something is not as it should be. */
export interface Stage {
  // The demo reads what it asked for; a wrong shape shows as a failed demo.
  // biome-ignore lint/suspicious/noExplicitAny: see above
  data(user: DemoUser, query: string, variables?: Record<string, unknown>): Promise<any>;
  say(line: string): void;
  expect(condition: boolean, what: string): void;
}

const team = [
  {
    name: 'Librarian',
    description: 'Finds books in the library',
    instructions:
      'You are Librarian. Books about tea stand on the third shelf of the library. The library closes at eight.',
  },
  {
    name: 'Gardener',
    description: 'Knows the plants of the garden',
    instructions: 'You are Gardener. Mint and thyme are the plants of the garden. The garden has a pond.',
  },
];
const request =
  'Find the books about tea in the library, describe the plants of the garden, then write a short note about both results';
const deadline = 30_000;

/** A message to the whole team: the orchestrator plans, asks, and composes one answer when the plan is approved. */
export async function showTeamwork(stage: Stage, user: DemoUser, print: (event: DemoEvent) => void): Promise<void> {
  const { data, say, expect } = stage;
  await data(user, `mutation { updateOrchestrator(input: { planApprovalPolicy: ALWAYS }) { orchestrator { id } } }`);
  for (const input of team) {
    await data(user, `mutation ($input: CreateAgentInput!) { createAgent(input: $input) { agent { id } } }`, { input });
  }
  const { createSession } = await data(user, `mutation { createSession(input: { title: "Tea" }) { session { id } } }`);
  const seen: DemoEvent[] = [];
  const stop = await user.follow((event) => {
    seen.push(event);
    print(event);
  });
  say(`\n  ${user.name} writes to the whole team: ${request}`);
  const sent = await data(
    user,
    `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { message { plan { id } } } }`,
    { input: { sessionId: createSession.session.id, content: request } },
  );
  const id: string = sent.sendMessage.message.plan.id;
  const asked = await until(seen, 'PlanRequest');
  const shown = await data(user, `query ($id: ID!) { plan(id: $id) { mermaid tasks { agentName why } } }`, { id });
  say(`\n${shown.plan.mermaid.replaceAll(/^/gm, '      ')}\n`);
  expect(shown.plan.tasks.length >= 2, 'the plan has several tasks');
  say(`  ${user.name} approves the plan`);
  await data(
    user,
    `mutation ($id: ID!) { decideApproval(id: $id, decision: APPROVED, note: "Go ahead.") { approval { state } } }`,
    { id: asked.approval?.id },
  );
  await until(seen, 'PlanEnded');
  stop();
  const { plan } = await data(
    user,
    `query ($id: ID!) { plan(id: $id) { state progress tasks { agentName task { state } } answer { content } } }`,
    { id },
  );
  expect(plan.state === 'COMPLETED' && plan.answer !== null, 'the plan did not come to an answer');
  const agents = plan.tasks.map((task: { agentName: string }) => task.agentName).join(', ');
  say(`  The plan is ${plan.state}; ${agents} took part.`);
}

async function until(seen: readonly DemoEvent[], kind: string): Promise<DemoEvent> {
  const end = performance.now() + deadline;
  for (;;) {
    const found = seen.find((event) => event.__typename === kind);
    if (found !== undefined) {
      return found;
    }
    if (performance.now() > end) {
      throw new Error(`The demo failed: no ${kind} came in time`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
