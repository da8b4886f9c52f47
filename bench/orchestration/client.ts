import { once } from 'node:events';
import { Agent, type IncomingMessage, request } from 'node:http';
import { createParser } from 'eventsource-parser';
import { machineTime } from './settings.ts';

/** A message that was answered: when it was sent, and when its end was heard. */
export interface Answered {
  readonly mark: string;
  readonly sent: number;
  readonly heard: number;
}

/** A user of the benchmark: sends messages, and hears on the event stream when they are answered. */
export interface BenchUser {
  /** Opens a session, which the messages from now on are sent to. */
  prepare(): Promise<void>;
  /** Sends a message, to one agent or to the team, and waits for its end. */
  send(mode: Mode, mark: string): Promise<Answered>;
  close(): void;
}

export type Mode = 'direct' | 'orchestrated';

const deadline = 60_000;
const ends = `subscription { events(types: [TASK_COMPLETED, TASK_FAILED, PLAN_ENDED]) {
  __typename ... on TaskCompleted { taskId } ... on TaskFailed { taskId } ... on PlanEnded { planId state } } }`;

/**
 * Signs a user in and starts to listen. Plain requests and a parser of events: senders share the machine with what is
 * measured, and shall take little of it.
 */
export async function openUser(url: string, token: string): Promise<BenchUser> {
  const agent = new Agent({ keepAlive: true });
  const post = (accept: string, query: string, variables: Record<string, unknown>): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const body = JSON.stringify({ query, variables });
      const headers = {
        accept,
        authorization: `Bearer ${token}`,
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
      };
      const outgoing = request(url, { agent, method: 'POST', headers, timeout: deadline }, (response) => {
        response.statusCode === 200
          ? resolve(response)
          : reject(new Error(`the service answered ${response.statusCode}`));
      });
      outgoing.on('timeout', () => outgoing.destroy(new Error(`no answer in ${deadline} ms`)));
      outgoing.on('error', reject);
      outgoing.end(body);
    });
  const ask = async (query: string, variables: Record<string, unknown> = {}) => {
    const response = await post('application/json', query, variables);
    const parts: Buffer[] = [];
    response.on('data', (part: Buffer) => parts.push(part));
    await once(response, 'end');
    const { data, errors } = JSON.parse(Buffer.concat(parts).toString('utf8')) as {
      // biome-ignore lint/suspicious/noExplicitAny: what is asked for decides its shape
      data: any;
      errors?: unknown;
    };
    if (errors !== undefined) {
      throw new Error(JSON.stringify(errors));
    }
    return data;
  };
  const team = await ask('{ agents(first: 1) { edges { node { id } } } }');
  const agentId: string = team.agents.edges[0].node.id;
  await ask('mutation { updateOrchestrator(input: { planApprovalPolicy: NEVER }) { orchestrator { id } } }');

  // The end may be heard before the answer that says what to wait for.
  const heard = new Map<string, number>();
  const waiting = new Map<string, (time: number) => void>();
  const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
  const parser = createParser({
    onEvent: ({ event, data }) => {
      begin();
      if (event !== 'next') {
        return;
      }
      const told = JSON.parse(data) as { data: { events: { taskId?: string; planId?: string } } };
      const id = told.data.events.planId ?? told.data.events.taskId;
      if (id !== undefined) {
        heard.set(id, machineTime());
        waiting.get(id)?.(machineTime());
      }
    },
    onComment: () => begin(),
  });
  const stream = await post('text/event-stream', ends, {});
  stream.setEncoding('utf8');
  stream.on('data', (text: string) => parser.feed(text));
  stream.on('error', () => undefined);
  await begun;

  let sessionId: string | null = null;
  return {
    prepare: async () => {
      const { createSession } = await ask('mutation { createSession { session { id } } }');
      sessionId = createSession.session.id;
    },
    send: async (mode, mark) => {
      const target = mode === 'direct' ? { targetAgentId: agentId } : {};
      const sent = machineTime();
      const { sendMessage } = await ask(
        'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } message { plan { id } } } }',
        { input: { sessionId, content: `Work on ${mark}`, ...target } },
      );
      const id: string = mode === 'direct' ? sendMessage.task.id : sendMessage.message.plan.id;
      const end = heard.get(id) ?? (await waitFor(waiting, id));
      return { mark, sent, heard: end };
    },
    close: () => {
      stream.destroy();
      agent.destroy();
    },
  };
}

async function waitFor(waiting: Map<string, (time: number) => void>, id: string): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const timer = setTimeout(() => reject(new Error('a message was not answered in time')), deadline);
  waiting.set(id, resolve);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    waiting.delete(id);
  }
}
