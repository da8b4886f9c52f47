import { setTimeout as sleep } from 'node:timers/promises';

/** Sends one operation and gives its data; waits as long as the service asks for when it is too busy or asked too often. */
export type GraphqlClient = <Data>(
  query: string,
  variables: Record<string, unknown>,
  signal: AbortSignal,
) => Promise<Data>;

interface Answer {
  data?: unknown;
  errors?: { message: string; extensions?: { code?: string; retryAfter?: number; field?: string } }[];
}

const requestTimeout = 60_000;
/** How often a request is sent at most; the pauses double, and are never shorter than the service asks for. */
const mostTries = 8;
const longestPause = 60;
const passing = new Set(['RATE_LIMITED', 'SERVICE_BUSY', 'AGENT_QUEUE_FULL']);

/** A client for the API at an address, as the user of the token. */
export function createGraphqlClient(url: string, token: string): GraphqlClient {
  const ask = async (query: string, variables: Record<string, unknown>, signal: AbortSignal): Promise<Answer> => {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json', authorization: `Bearer ${token}` },
      body: JSON.stringify({ query, variables }),
      signal: AbortSignal.any([signal, AbortSignal.timeout(requestTimeout)]),
    });
    const text = await response.text();
    try {
      return JSON.parse(text) as Answer;
    } catch {
      return {
        errors: [
          { message: `The service answers with the status ${response.status}.`, extensions: { code: 'SERVICE_BUSY' } },
        ],
      };
    }
  };
  return async <Data>(query: string, variables: Record<string, unknown>, signal: AbortSignal): Promise<Data> => {
    for (let tries = 1; ; tries += 1) {
      const answer = await ask(query, variables, signal).catch((error: unknown) => {
        if (signal.aborted || tries >= mostTries) {
          throw new Error('The service could not be reached.', { cause: error });
        }
        return {
          errors: [{ message: 'The service could not be reached.', extensions: { code: 'SERVICE_BUSY' } }],
        } as Answer;
      });
      const [error] = answer.errors ?? [];
      if (error === undefined) {
        return answer.data as Data;
      }
      const { code = '', retryAfter = 0, field } = error.extensions ?? {};
      if (!passing.has(code) || tries >= mostTries) {
        throw new Error(`${error.message} (${[code, field].filter(Boolean).join(', ')})`);
      }
      await sleep(Math.min(Math.max(2 ** (tries - 2), retryAfter), longestPause) * 1_000, undefined, { signal });
    }
  };
}
