import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { readEventCursor } from '../../src/services/event.ts';
import { isLogged, readEvents } from '../http/event-reader.ts';
import type { World } from './world.ts';

/** What a user's client met, in the order of time. Times are of `performance.now()`. */
export interface Attempt {
  kind: 'query' | 'search' | 'message';
  at: number;
  milliseconds: number;
  /** Null when it went well; else a code of an error, or what became of the connection. */
  fault: string | null;
  /** Whether it was answered with less than usual. */
  degraded?: boolean;
}

export interface Load {
  attempts: readonly Attempt[];
  /** Messages that were acknowledged, by their ids. */
  sent: ReadonlySet<string>;
  /** Sequence numbers that each user's stream got, in that order. */
  received: readonly { userId: string; sequences: readonly number[] }[];
  /** Waits until an attempt of each kind that began after that time went well. @returns when the last of them did */
  recovered(since: number): Promise<number>;
  /** Waits until all users' memories are searched by meaning again, and what they hold is found. @returns when */
  remembered(): Promise<number>;
  /** Ends sending; streams go on. */
  endSending(): Promise<void>;
  stop(): void;
}

const users = 8;
const pause = 300;
const attemptDeadline = 8_000;
const documents = [
  { path: 'tea.md', content: 'Green tea is brewed at seventy degrees, and black tea at ninety-five.' },
  { path: 'bread.md', content: 'A dough of rye wants a long night before it is baked.' },
];
const ingestMutation = `mutation ($input: IngestDocumentsInput!) { ingestDocuments(input: $input) { job { __typename } } }`;
const searchQuery = `query ($agentId: ID!) {
  searchMemory(agentId: $agentId, query: "How warm is the water for green tea?") { degraded matches { score } }
}`;
/** A client gives up on a message after so long, in milliseconds. */
const messageDeadline = 60_000;

/**
 * Users as their clients behave: each asks and sends again and again, goes to the other API when one does not answer,
 * sends a message anew under the same Idempotency-Key until it is acknowledged, and resumes its stream from its cursor.
 */
export async function startLoad(world: World, name: string): Promise<Load> {
  const attempts: Attempt[] = [];
  const sent = new Set<string>();
  const received: { userId: string; sequences: number[] }[] = [];
  const ending = new AbortController();
  const stopping = new AbortController();

  const loops = await Promise.all(
    Array.from({ length: users }, async (_, number) => {
      const token = await world.token(`${name} ${number}`);
      const client = createClient(world, token, number, attempts);
      const { viewer, agents } = await persist(() =>
        client.ask('query', '{ viewer { id } agents(first: 1) { edges { node { id } } } }'),
      );
      const { createSession } = await persist(() =>
        client.ask('query', 'mutation { createSession { session { id } } }'),
      );
      const stream = { userId: rawId(viewer.id), sequences: [] };
      const agentId = agents.edges[0].node.id;
      await persist(() => client.ask('query', ingestMutation, { input: { agentId, source: 'notes', documents } }));
      const search = () => client.ask('search', searchQuery, { agentId });
      received.push(stream);
      void follow(world, token, number, stream.sequences, stopping.signal);
      return { client, search, sessionId: createSession.session.id, agentId };
    }),
  );
  const remembered = async (): Promise<number> => {
    for (const { search } of loops) {
      await persist(async () => {
        const { searchMemory } = await search();
        if (searchMemory.degraded || searchMemory.matches.length === 0) {
          throw new Error('the memory is not searched by meaning yet');
        }
      });
    }
    return performance.now();
  };
  await remembered();
  const sending = loops.map(async ({ client, search, sessionId, agentId }) => {
    while (!ending.signal.aborted) {
      await client.ask('query', '{ sessions(first: 5) { edges { node { id title } } } }').catch(() => undefined);
      await search().catch(() => undefined);
      const key = randomUUID();
      const input = { sessionId, targetAgentId: agentId, content: `note ${key}` };
      const { sendMessage } = await persist(() =>
        client.ask(
          'message',
          'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { message { id } } }',
          { input },
          { 'idempotency-key': key },
        ),
      );
      sent.add(sendMessage.message.id);
      await delay(pause);
    }
  });
  return {
    attempts,
    sent,
    received,
    remembered,
    recovered: async (since) => {
      const end = performance.now() + messageDeadline;
      for (;;) {
        const well = (['query', 'message'] as const).map((kind) =>
          attempts.find((one) => one.kind === kind && one.at >= since && one.fault === null),
        );
        if (well.every((one) => one !== undefined)) {
          return Math.max(...well.map((one) => (one?.at ?? 0) + (one?.milliseconds ?? 0)));
        }
        if (performance.now() > end) {
          throw new Error(`nothing went well for ${messageDeadline} ms`);
        }
        await delay(20);
      }
    },
    endSending: async () => {
      ending.abort();
      await Promise.all(sending);
    },
    stop: () => stopping.abort(),
  };
}

/** Tries again until it goes well. @throws the last fault when it never does */
async function persist<Result>(work: () => Promise<Result>): Promise<Result> {
  const end = performance.now() + messageDeadline;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (performance.now() > end) {
        throw error;
      }
      await delay(pause);
    }
  }
}

/** The row's own id, as the database has it, of a global id. */
export function rawId(id: string): string {
  return Buffer.from(id, 'base64url').toString('utf8').split(':')[1] ?? '';
}

interface Client {
  // What is asked for decides the shape of the answer; what is made of it is checked against the database.
  // biome-ignore lint/suspicious/noExplicitAny: see above
  ask(kind: Attempt['kind'], query: string, variables?: object, headers?: Record<string, string>): Promise<any>;
}

function createClient(world: World, token: string, number: number, attempts: Attempt[]): Client {
  let turn = number;
  return {
    ask: async (kind, query, variables = {}, headers = {}) => {
      const at = performance.now();
      const record = (fault: string | null, degraded = false) =>
        void attempts.push({ kind, at, milliseconds: performance.now() - at, fault, degraded });
      try {
        const response = await fetch(world.urls[turn % world.urls.length] ?? '', {
          method: 'POST',
          headers: { 'content-type': 'application/json', authorization: `Bearer ${token}`, ...headers },
          body: JSON.stringify({ query, variables }),
          signal: AbortSignal.timeout(attemptDeadline),
        });
        const { data, errors } = (await response.json()) as {
          data?: unknown;
          errors?: { extensions: { code: string } }[];
        };
        if (errors?.[0] !== undefined) {
          throw new Fault(`${errors[0].extensions.code} (${response.status})`);
        }
        record(null, isDegraded(data));
        return data;
      } catch (error) {
        record(error instanceof Fault ? error.message : faultOf(error));
        // As a balancer or a client's own retry would: the next attempt goes to the other one.
        turn += 1;
        throw error;
      }
    },
  };
}

function isDegraded(data: unknown): boolean {
  return (data as { searchMemory?: { degraded: boolean } }).searchMemory?.degraded === true;
}

class Fault extends Error {}

function faultOf(error: unknown): string {
  if (error instanceof Error && error.name === 'TimeoutError') {
    return `no answer in ${attemptDeadline / 1_000} s`;
  }
  const cause = error instanceof Error ? (error.cause as { code?: string } | undefined) : undefined;
  return cause?.code === 'ECONNREFUSED' ? 'connection refused' : 'connection lost';
}

/** Follows a user's events over every end of the stream, as a client with a cursor does. */
async function follow(
  world: World,
  token: string,
  number: number,
  sequences: number[],
  stopping: AbortSignal,
): Promise<void> {
  let after: string | undefined;
  for (let turn = number; !stopping.aborted; turn += 1) {
    const reader = readEvents(world.urls[turn % world.urls.length] ?? '', token, { after });
    let taken = 0;
    while (!stopping.aborted && reader.ended() === null && reader.errors.length === 0) {
      for (const item of reader.items.slice(taken)) {
        taken += 1;
        after = item.cursor;
        if (isLogged(item)) {
          sequences.push(readEventCursor(item.cursor));
        }
      }
      await delay(20);
    }
    reader.close();
    await delay(pause);
  }
}
