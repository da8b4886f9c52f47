import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { listen } from '../../dev/listen.ts';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';

/** A call that reached the world outside. */
interface Reached {
  tool: string;
  key: string;
}

let service: TestService;
let worker: ChildProcess | null = null;
const children = new Set<ChildProcess>();
let outside: Server;
let url: string;
const reached: Reached[] = [];
/** What happens outside before a call is answered. */
let onCall: ((call: Reached) => void) | null = null;

beforeAll(async () => {
  outside = createServer((request, response) => {
    const call = { tool: (request.url ?? '').slice(1), key: String(request.headers['idempotency-key']) };
    reached.push(call);
    request.resume();
    onCall?.(call);
    response.setHeader('content-type', 'text/plain').end(`${call.tool} is done`);
  });
  url = (await listen(outside)).origin;
  service = await startTestService({ worker: false, redis: true, environment: { OUTGOING_ALLOW: url } });
}, 60_000);
beforeEach(() => {
  reached.length = 0;
  onCall = null;
});
afterAll(async () => {
  for (const child of children) {
    child.kill('SIGKILL');
  }
  outside?.closeAllConnections();
  outside?.close();
  await service?.stop();
});

/** A worker in a process of its own, with a short lease so that nobody waits long for what a dead one held. */
async function startWorker(): Promise<void> {
  const child = spawn(process.execPath, ['src/worker.ts'], {
    env: { PATH: process.env['PATH'] ?? '', ...service.environment, TASK_LEASE: '3000', LOG_LEVEL: 'info' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  worker = child;
  children.add(child);
  child.once('exit', () => children.delete(child));
  const { promise: started, resolve, reject } = Promise.withResolvers<void>();
  child.once('exit', () => reject(new Error('the worker ended before it started')));
  child.stdout?.on('data', (chunk: Buffer) => {
    if (chunk.toString().includes('worker started')) {
      resolve();
    }
  });
  await started;
}

async function killWorker(): Promise<void> {
  const child = worker;
  worker = null;
  if (child !== null && child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}

/** An agent with a harmless and a dangerous tool of the world outside, asked to use both. */
async function send(name: string): Promise<{ user: TestUser; task: string }> {
  const user = await service.user(name);
  const tool = (toolName: string, dangerous: boolean) => ({
    name: toolName,
    description: `Can ${toolName.replaceAll('_', ' ')}.`,
    dangerous,
    http: { method: 'POST', url: `${url}/${toolName}` },
  });
  const tools = await user.ask(
    `mutation ($one: CreateToolInput!, $two: CreateToolInput!) {
      one: createTool(input: $one) { tool { id } } two: createTool(input: $two) { tool { id } } }`,
    { one: tool('look_up', false), two: tool('send_mail', true) },
  );
  expect(tools.errors).toEqual([]);
  const made = await user.ask(
    `mutation ($input: CreateAgentInput!) { createAgent(input: $input) { agent { id } } createSession { session { id } } }`,
    {
      input: {
        name: 'Mailer',
        instructions: 'You are Mailer.',
        toolIds: [tools.data.one.tool.id, tools.data.two.tool.id],
      },
    },
  );
  const sent = await user.ask('mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }', {
    input: {
      sessionId: made.data.createSession.session.id,
      targetAgentId: made.data.createAgent.agent.id,
      content: 'Please look up Bob and send a mail to Ada.',
    },
  });
  expect([...made.errors, ...sent.errors]).toEqual([]);
  return { user, task: sent.data.sendMessage.task.id };
}

/** Waits for a question that the user has not answered. */
const question = (user: TestUser) =>
  waitFor('a question', async () => {
    const { data } = await user.ask('{ approvals(states: [PENDING]) { edges { node { id interrupted } } } }');
    return data.approvals.edges[0]?.node as { id: string; interrupted: boolean } | undefined;
  });

async function decide(user: TestUser, id: string, decision: 'APPROVED' | 'REJECTED'): Promise<void> {
  const { errors } = await user.ask(
    'mutation ($id: ID!, $decision: ApprovalDecision!) { decideApproval(id: $id, decision: $decision) { approval { id } } }',
    { id, decision },
  );
  expect(errors).toEqual([]);
}

const answer = (user: TestUser, id: string) =>
  waitFor('the answer', async () => {
    const { data } = await user.ask('query ($id: ID!) { task(id: $id) { state answer { content } } }', { id });
    return data.task.state === 'COMPLETED' && (data.task.answer.content as string);
  });

it('a worker that is killed in the middle of calls makes the harmless one again, and the dangerous one only when told to', async () => {
  for (const again of ['REJECTED', 'APPROVED'] as const) {
    reached.length = 0;
    const died: string[] = [];
    // Each tool's first call is the last thing that its worker does.
    onCall = ({ tool }) => {
      if (!died.includes(tool)) {
        died.push(tool);
        void killWorker();
      }
    };
    await startWorker();
    const { user, task } = await send(`user who says ${again}`);
    await waitFor('the first worker to die', () => worker === null);
    await startWorker();
    const first = await question(user);
    expect(first.interrupted).toBe(false);
    // A harmless call may be made again at any time; what matters is that nothing dangerous was.
    expect(reached.length).toBeGreaterThanOrEqual(2);
    expect(reached.every(({ tool }) => tool === 'look_up')).toBe(true);
    await decide(user, first.id, 'APPROVED');
    await waitFor('the second worker to die', () => worker === null);
    await startWorker();
    const second = await question(user);
    expect(second.interrupted).toBe(true);
    await decide(user, second.id, again);
    const mails = again === 'APPROVED' ? 2 : 1;
    expect(await answer(user, task)).toContain(again === 'APPROVED' ? 'send_mail is done' : 'not known');
    expect(reached.filter(({ tool }) => tool === 'send_mail')).toHaveLength(mails);
    expect(new Set(reached.map(({ key }) => key)).size).toBe(2);
    await killWorker();
  }
}, 150_000);

it('a worker that is killed while its user thinks loses nothing, and the decision is followed by the next one', async () => {
  await startWorker();
  const { user, task } = await send('patient user');
  const { id } = await question(user);
  await killWorker();
  await decide(user, id, 'APPROVED');
  await startWorker();
  expect(await answer(user, task)).toContain('send_mail is done');
  expect(reached.map(({ tool }) => tool)).toEqual(['look_up', 'send_mail']);
  await killWorker();
}, 60_000);
