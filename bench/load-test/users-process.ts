import { Agent } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { runChild } from '../child.ts';
import { percentile } from '../harness.ts';
import { type Requester, request, type StreamReader, streamEvents } from './client.ts';

export interface UsersSettings {
  readonly url: string;
  readonly tokens: readonly string[];
}

/** What all users met in one window of time. Latencies are in milliseconds. */
export interface WindowResult {
  readonly seconds: number;
  readonly queries: number;
  readonly messages: number;
  readonly failures: Readonly<Record<string, number>>;
  readonly queryLatency: Latency;
  readonly messageLatency: Latency;
  /** From the sending of a message to its whole answer on the user's stream. */
  readonly answerLatency: Latency;
  /** Events that arrived, and streams that ended by themselves. */
  readonly events: number;
  readonly streamsLost: number;
}

export interface Latency {
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
}

interface User {
  token: string;
  sessionId: string;
  agentId: string;
  stream: StreamReader;
  /** When each message that waits for its answer was sent, by task. */
  waiting: Map<string, number>;
}

/** How long a user thinks between two actions, in milliseconds, and which part of the actions sends a message. */
const [shortestThought, longestThought] = [4_000, 12_000];
const sendingShare = 0.2;
/** Users that sign up at once. */
const signingUp = 16;
const answerDeadline = 60_000;

const readQuery = `{
  sessions(first: 5) { edges { node { id title messages(first: 10) { edges { node { id role content } } } } } }
}`;
const sendMutation = `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }`;

runChild<UsersSettings, null>(async ({ url, tokens }) => {
  const agent = new Agent({ keepAlive: true, maxSockets: 256 });
  const requester: Requester = { agent, url: new URL(url) };
  const users: User[] = [];
  const stopping = new AbortController();
  let window = newWindow();

  const signUp = async (token: string): Promise<void> => {
    const { agents } = await request(requester, token, '{ agents(first: 1) { edges { node { id } } } }');
    const { createSession } = await request(requester, token, 'mutation { createSession { session { id } } }');
    const user: User = {
      token,
      sessionId: createSession.session.id,
      agentId: agents.edges[0].node.id,
      waiting: new Map(),
      stream: streamEvents(requester, token, {
        event: (item) => {
          window.events += item.__typename === 'Heartbeat' ? 0 : 1;
          const taskId = item.__typename === 'TaskCompleted' ? item.task?.id : undefined;
          const sent = taskId === undefined ? undefined : user.waiting.get(taskId);
          if (taskId !== undefined && sent !== undefined) {
            user.waiting.delete(taskId);
            window.answers.push(performance.now() - sent);
          }
        },
        lost: () => {
          window.streamsLost += 1;
        },
      }),
    };
    await user.stream.begun;
    users.push(user);
  };

  const act = async (user: User): Promise<void> => {
    const isMessage = Math.random() < sendingShare;
    const start = performance.now();
    try {
      if (isMessage) {
        const input = { sessionId: user.sessionId, targetAgentId: user.agentId, content: 'How do you do today?' };
        const { sendMessage } = await request(requester, user.token, sendMutation, { input });
        user.waiting.set(sendMessage.task.id, start);
      } else {
        await request(requester, user.token, readQuery);
      }
      (isMessage ? window.messages : window.queries).push(performance.now() - start);
    } catch (error) {
      const what = error instanceof Error ? error.message : String(error);
      window.failures[what] = (window.failures[what] ?? 0) + 1;
    }
  };
  const live = async (user: User): Promise<void> => {
    // Not all at once: each begins somewhere in its first thought.
    await delay(Math.random() * longestThought);
    while (!stopping.signal.aborted) {
      await act(user);
      await delay(shortestThought + Math.random() * (longestThought - shortestThought));
    }
  };

  return {
    ready: null,
    commands: {
      signUp: async () => {
        const left = [...tokens];
        await Promise.all(
          Array.from({ length: signingUp }, async () => {
            for (let token = left.pop(); token !== undefined; token = left.pop()) {
              await signUp(token);
            }
          }),
        );
        for (const user of users) {
          void live(user);
        }
      },
      measure: async (seconds: number): Promise<WindowResult> => {
        window = newWindow();
        const start = performance.now();
        await delay(seconds * 1_000);
        const done = window;
        window = newWindow();
        return summarize(done, (performance.now() - start) / 1_000);
      },
      /** Ends the actions and waits for the answers that are still to come. @returns how many never came */
      settle: async (): Promise<number> => {
        stopping.abort();
        const end = performance.now() + answerDeadline;
        const open = (): number => users.reduce((sum, { waiting }) => sum + waiting.size, 0);
        while (open() > 0 && performance.now() < end) {
          await delay(100);
        }
        return open();
      },
    },
    stop: async () => {
      stopping.abort();
      for (const user of users) {
        user.stream.close();
      }
      agent.destroy();
    },
  };
});

interface Window {
  queries: number[];
  messages: number[];
  answers: number[];
  failures: Record<string, number>;
  events: number;
  streamsLost: number;
}

function newWindow(): Window {
  return { queries: [], messages: [], answers: [], failures: {}, events: 0, streamsLost: 0 };
}

function summarize(window: Window, seconds: number): WindowResult {
  return {
    seconds,
    queries: window.queries.length,
    messages: window.messages.length,
    failures: window.failures,
    queryLatency: latencyOf(window.queries),
    messageLatency: latencyOf(window.messages),
    answerLatency: latencyOf(window.answers),
    events: window.events,
    streamsLost: window.streamsLost,
  };
}

function latencyOf(values: readonly number[]): Latency {
  return { p50: percentile(values, 0.5), p95: percentile(values, 0.95), p99: percentile(values, 0.99) };
}
