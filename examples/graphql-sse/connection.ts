import { setTimeout as sleep } from 'node:timers/promises';
import { type Client, createClient, NetworkError } from 'graphql-sse';
import { EventsDocument, type EventsSubscription, type TypedDocumentString } from './generated/graphql.ts';

export type Event = EventsSubscription['events'];

/** What the service refuses; the same request would be refused again. */
export class RefusedError extends Error {}

/** Codes of failures that pass by themselves. */
const passing = new Set<unknown>(['SERVICE_BUSY', 'INTERNAL', 'STREAM_LIMIT', 'RATE_LIMITED']);

export interface Connection {
  /** Sends one query or mutation. @throws RefusedError or, when the service does not answer, Error */
  ask<Result, Variables extends Record<string, unknown>>(
    document: TypedDocumentString<Result, Variables>,
    variables: Variables,
  ): Promise<Result>;
  /**
   * All events of a session, each one once, over as many connections as it takes.
   * @throws RefusedError, or the signal's reason when that was aborted
   */
  follow(sessionId: string, signal: AbortSignal): AsyncGenerator<Event>;
}

const answerLimit = 20_000;
/** The service sends a heartbeat every 15 seconds: after three of them without one the connection is dead. */
const silenceLimit = 45_000;
const firstPause = 250;
const longestPause = 10_000;

/** Speaks to the service with `graphql-sse`; `notice` is told of every break and its pause in milliseconds. */
export function connect(url: string, token: string, notice: (reason: string, pause: number) => void): Connection {
  // The client's own retry would send the first cursor again: this one sends the newest.
  const client = createClient({ url, headers: { authorization: `Bearer ${token}` }, retryAttempts: 0 });
  return {
    ask: async (document, variables) => {
      for await (const data of results(client, document, variables, answerLimit)) {
        return data;
      }
      throw new Error('the service ended the connection without an answer');
    },
    follow: async function* (sessionId, signal) {
      let after: string | undefined;
      for (let failures = 0; ; failures += 1) {
        let reason = 'the service ended the stream';
        let leastPause = 0;
        try {
          for await (const { events } of results(client, EventsDocument, { sessionId, after }, silenceLimit)) {
            signal.throwIfAborted();
            failures = 0;
            after = events.cursor;
            if (events.__typename !== 'StreamEnded') {
              yield events;
            } else if (events.reason === 'TOKEN_EXPIRED') {
              throw new RefusedError('the token has ended');
            } else {
              leastPause = events.reconnectAfter ?? 0;
            }
          }
        } catch (error) {
          signal.throwIfAborted();
          if (isFinal(error)) {
            throw error;
          }
          reason = error instanceof Error ? error.message : String(error);
        }
        // Exponential, with full jitter: clients that lost the same server must not come back together.
        const pause = Math.max(leastPause, Math.random() * Math.min(longestPause, firstPause * 2 ** failures));
        notice(reason, pause);
        await sleep(pause, undefined, { signal });
      }
    },
  };
}

/** What one connection brings. @throws Error when nothing comes for so many milliseconds */
async function* results<Result, Variables extends Record<string, unknown>>(
  client: Client,
  document: TypedDocumentString<Result, Variables>,
  variables: Variables,
  limit: number,
): AsyncGenerator<Result> {
  const stream = client.iterate<Result>({ query: document.toString(), variables });
  const silence = setTimeout(() => stream.throw?.(new Error(`nothing came for ${limit / 1000} seconds`)), limit);
  try {
    for await (const { data, errors } of stream) {
      silence.refresh();
      if (errors !== undefined || !data) {
        const message = errors?.map((error) => error.message).join('; ') ?? 'the answer is empty';
        const willPass = errors?.every(({ extensions }) => passing.has(extensions['code'])) ?? false;
        throw willPass ? new Error(message) : new RefusedError(message);
      }
      yield data;
    }
  } finally {
    clearTimeout(silence);
    await stream.return?.();
  }
}

/** Whether another attempt would fail as well: a bad token or a bad request stays one. */
function isFinal(error: unknown): boolean {
  const status = error instanceof NetworkError ? error.response?.status : undefined;
  return error instanceof RefusedError || (status !== undefined && status < 500 && status !== 429);
}
