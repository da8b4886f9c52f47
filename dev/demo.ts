import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import pg from 'pg';
import { createDemoUser, type Data, type DemoEvent, type DemoUser } from './demo/client.ts';
import { showConsent } from './demo/consent.ts';
import { showTeamwork } from './demo/team.ts';
import { type LocalService, roleUrls, startLocal } from './local.ts';

// `npm run demo`: the main job end to end on real servers, on this machine, in under two minutes.
const dataFolder = '.retinue/demo';
const started = performance.now();
const abort = setTimeout(() => fail(new Error('the demo took longer than two minutes')), 120_000);

function say(line = ''): void {
  console.log(line);
}

function fail(error: unknown): never {
  console.error(error);
  process.exit(1);
}

function expect(condition: boolean, what: string): asserts condition {
  if (!condition) {
    throw new Error(`The demo failed: ${what}`);
  }
}

async function data(user: DemoUser, query: string, variables?: Record<string, unknown>): Promise<Data> {
  const answer = await user.ask(query, variables);
  expect(answer.errors.length === 0, `${user.name} got ${JSON.stringify(answer.errors)}`);
  return answer.data;
}

/** Prints events as they come; the streamed text of an answer goes on one line. */
function printEvents(): (event: DemoEvent) => void {
  let writing = false;
  return (event) => {
    if (event.__typename === 'Heartbeat') {
      return;
    }
    if (event.__typename === 'MessageDelta') {
      process.stdout.write(writing ? (event.text ?? '') : `    ~ ${event.text}`);
      writing = true;
      return;
    }
    if (writing) {
      process.stdout.write('\n');
      writing = false;
    }
    const detail = event.agent
      ? `${event.agent.name} is ${event.status}`
      : event.message
        ? `${event.message.role}: ${event.message.content}`
        : (event.task?.state ?? event.plan?.state ?? event.toolName ?? event.resolved ?? event.note ?? '');
    say(`    ${event.__typename.padEnd(18)} ${detail}`);
  };
}

async function chat(
  user: DemoUser,
  content: string,
  agentId: string,
  sessionId: string,
  seen: DemoEvent[],
): Promise<void> {
  say(`\n  ${user.name} writes: ${content}`);
  const sent = await data(user, `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }`, {
    input: { sessionId, targetAgentId: agentId, content },
  });
  const taskId: string = sent.sendMessage.task.id;
  const end = performance.now() + 20_000;
  const ended = (event: DemoEvent): boolean =>
    event.task?.id === taskId && (event.__typename === 'TaskCompleted' || event.__typename === 'TaskFailed');
  while (!seen.some(ended)) {
    expect(performance.now() < end, 'the answer did not come in time');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  expect(seen.find(ended)?.__typename === 'TaskCompleted', 'the task failed');
}

async function showTeam(user: DemoUser): Promise<{ agentId: string; sessionId: string }> {
  const { agents } = await data(user, `{ agents { edges { node { name } } } }`);
  say(`  ${user.name} has a starter team: ${agents.edges.map((edge: Data) => edge.node.name).join(', ')}`);
  const name = `Guide ${randomUUID().slice(0, 8)}`;
  const created = await data(
    user,
    `mutation ($input: CreateAgentInput!) { createAgent(input: $input) { agent { id name } } }`,
    {
      input: {
        name,
        description: 'Knows the house',
        instructions: `You are Guide. The library is on the second floor. The garden closes at sunset. The kitchen of ${user.name} has the colour blue.`,
      },
    },
  );
  const session = await data(
    user,
    `mutation { createSession(input: { title: "A tour of the house" }) { session { id } } }`,
  );
  say(`  ${user.name} made the agent ${created.createAgent.agent.name} and opened a session`);
  return { agentId: created.createAgent.agent.id, sessionId: session.createSession.session.id };
}

async function showIsolation(
  service: LocalService,
  bob: DemoUser,
  alices: { agentId: string; sessionId: string },
): Promise<void> {
  say("\n6. Bob tries Alice's ids, and ids that he made up");
  const query = `query ($agent: ID!, $session: ID!) { agent(id: $agent) { name } session(id: $session) { title } }`;
  const send = `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }`;
  const madeUp = (noun: string): string => Buffer.from(`${noun}:${randomUUID()}`).toString('base64url');
  const theirs = { agent: alices.agentId, session: alices.sessionId };
  const invented = { agent: madeUp('Agent'), session: madeUp('Session') };
  const answers: string[] = [];
  for (const ids of [theirs, invented]) {
    const read = await bob.ask(query, ids);
    const written = await bob.ask(send, {
      input: { sessionId: ids.session, targetAgentId: ids.agent, content: 'Hello?' },
    });
    answers.push(JSON.stringify([read, written]));
    say(`  read: ${JSON.stringify(read.data)}   send: ${written.errors[0]?.extensions.code}`);
  }
  expect(answers[0] === answers[1], "another user's id was answered differently from a made-up one");

  const { ownerUrl, ownerPassword } = service.stack.postgres;
  const client = new pg.Client({ connectionString: roleUrls(ownerUrl, ownerPassword).app });
  await client.connect();
  const count = async (): Promise<number> =>
    Number((await client.query('SELECT count(*) AS rows FROM messages')).rows[0]?.rows);
  const unknown = await count();
  const bobs = await data(bob, '{ viewer { id } }');
  const bobsId = Buffer.from(bobs.viewer.id, 'base64url').toString().replace('User:', '');
  await client.query(`SELECT set_config('app.user_id', $1, false)`, [bobsId]);
  const asBob = await count();
  await client.end();
  say(`  Postgres itself, asked for all messages: as nobody ${unknown} rows, as Bob ${asBob} (his own)`);
  expect(unknown === 0 && asBob > 0, 'row-level security did not hold');
}

say('1. Starting Postgres, Redis, Qdrant, the offline model, the API and a worker');
await mkdir(dataFolder, { recursive: true });
const service = await startLocal({
  dataFolder,
  environment: { ...process.env, PORT: '0' },
  log: (line) => say(`  ${line}`),
}).catch(fail);
try {
  const [alice, bob] = await Promise.all(
    ['Alice', 'Bob'].map(async (name) =>
      createDemoUser(service.api.url, name, await service.token(`${name} ${randomUUID().slice(0, 8)}`)),
    ),
  );
  expect(alice !== undefined && bob !== undefined, 'two users');

  say('\n2. Two users sign in');
  const alices = await showTeam(alice);
  const bobs = await showTeam(bob);

  say('\n3. They chat with their agents; the live events of each:');
  for (const [user, own, question] of [
    [alice, alices, 'Where is the library?'],
    [bob, bobs, 'When does the garden close?'],
  ] as const) {
    const seen: DemoEvent[] = [];
    const print = printEvents();
    const stop = await user.follow((event) => {
      seen.push(event);
      print(event);
    });
    await chat(user, question, own.agentId, own.sessionId, seen);
    await chat(user, 'And which colour has the kitchen?', own.agentId, own.sessionId, seen);
    stop();
  }

  say('\n4. Alice writes to her whole team: a plan, an approval, one answer');
  await showTeamwork({ data, say, expect }, alice, printEvents());

  say('\n5. Bob declines a dangerous call of a tool');
  await showConsent({ data, say, expect }, bob, printEvents());

  await showIsolation(service, bob, alices);
} catch (error) {
  await service.stop().catch(() => undefined);
  fail(error);
}
say('\n7. Stopping everything');
await service.stop().catch(fail);
clearTimeout(abort);
say(`Done in ${((performance.now() - started) / 1_000).toFixed(1)} s. \`npm start\` leaves it running, with GraphiQL.`);
process.exit(0);
