import { createClient } from 'graphql-sse';
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

/** Signs a user in and starts to listen. */
export async function openUser(url: string, token: string): Promise<BenchUser> {
  const headers = { authorization: `Bearer ${token}` };
  const ask = async (query: string, variables: Record<string, unknown> = {}) => {
    const response = await fetch(url, {
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/json' },
      body: JSON.stringify({ query, variables }),
      signal: AbortSignal.timeout(deadline),
    });
    const { data, errors } = (await response.json()) as {
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
  const { promise: begun, resolve: begin, reject } = Promise.withResolvers<void>();
  const client = createClient({ url, headers, retryAttempts: 0 });
  client.subscribe<{ events: { __typename: string; taskId?: string; planId?: string } }>(
    { query: ends },
    {
      next: ({ data }) => {
        begin();
        const id = data?.events.planId ?? data?.events.taskId;
        if (id !== undefined) {
          heard.set(id, machineTime());
          waiting.get(id)?.(machineTime());
        }
      },
      error: reject,
      complete: () => undefined,
    },
  );
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
    close: () => client.dispose(),
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
