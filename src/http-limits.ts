import { createHash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { usePersistedOperations as createPersistedOperations } from '@graphql-yoga/plugin-persisted-operations';
import { type ExecutionArgs, GraphQLError, NoSchemaIntrospectionCustomRule } from 'graphql';
import type { Plugin } from 'graphql-yoga';
import type { RateLimitName, RateLimits, RateState } from './adapters/rate-limit.ts';
import type { Principal } from './auth.ts';
import { checkDocument, type DocumentLimits, parseWithin } from './document-limits.ts';
import { DomainError } from './errors.ts';
import { errorBody, toClientError } from './graphql-errors.ts';
import type { Observation } from './http-observation.ts';
import type { EarlierListeners } from './streams/take-over.ts';

/** Operations that clients may name, by id. */
export interface OperationManifest {
  operations: ReadonlyMap<string, string>;
  /** Whether nothing else is run. */
  only: boolean;
}

export interface RequestLimits {
  rates: RateLimits;
  documents: DocumentLimits;
  introspection: boolean;
  /** Null: clients send documents only. */
  manifest: OperationManifest | null;
  /** Denied attempts a minute after which answers to them are slowed. */
  slowAfter: number;
}

export interface ServerContext {
  req: IncomingMessage;
  res: ServerResponse;
  /** How many listeners the response had before GraphQL was given it. */
  earlier: EarlierListeners;
}

/** Counts and slows denied attempts. */
export interface Denials {
  /** Notes denied attempts of a user or an address, and waits when there were many. */
  note(kind: 'user' | 'address', who: string, attempts?: number): Promise<void>;
}

/** What each denied attempt beyond the limit adds to the wait for its answer, and the longest wait, in milliseconds. */
const slowStep = 50;
const slowest = 2_000;
/** Most answers that are held back at once: more would be a way to fill the process. */
const mostHeld = 500;

export const rateLimitHeaders = [
  'ratelimit',
  'ratelimit-limit',
  'ratelimit-remaining',
  'ratelimit-reset',
  'ratelimit-policy',
];

/**
 * The wait grows with the attempts, so that guessing gets slow before anybody has to act. Lines of the log carry a hash
 * of who it is, which tells repetition and no person.
 */
export function createDenials(limits: RequestLimits, observation: Observation): Denials {
  let held = 0;
  return {
    note: async (kind, who, attempts = 1) => {
      const hash = createHash('sha256').update(`${kind} ${who}`).digest('base64url').slice(0, 22);
      let count = 0;
      for (let attempt = 0; attempt < Math.min(attempts, 100); attempt += 1) {
        count = await limits.rates.countDenial(hash);
      }
      const surplus = count - limits.slowAfter;
      if (surplus <= 0) {
        return;
      }
      if (Number.isInteger(Math.log2(surplus))) {
        observation.log().warn({ kind, who: hash, denied: count }, 'many denied attempts: answers are slowed');
      }
      if (held < mostHeld) {
        held += 1;
        await delay(Math.min(surplus * slowStep, slowest));
        held -= 1;
      }
    },
  };
}

/** Refuses a user's requests beyond the limit before they are read, and says in every answer what is left. */
export function limitRequests(
  limits: RequestLimits,
  principals: WeakMap<Request, Principal>,
  observation: Observation,
  denials: Denials,
): Plugin<object, ServerContext> {
  /** Requests that may become streams. Opening one is cheap and a client with many does it at once. */
  const streams = new WeakSet<Request>();
  return {
    onRequest: async ({ request, serverContext, endResponse, fetchAPI }) => {
      const principal = principals.get(request);
      if (principal === undefined) {
        return;
      }
      const isStream = request.headers.get('accept')?.includes('text/event-stream') === true;
      if (isStream) {
        streams.add(request);
      }
      const name = isStream ? 'STREAMS' : 'REQUESTS';
      const state = await limits.rates.take(name, principal.userId);
      for (const [header, value] of Object.entries(headersOf(state))) {
        serverContext.res.setHeader(header, value);
      }
      tellLimit(serverContext.res, name, state);
      if (!state.allowed) {
        const refusal = refusalOf(name, state);
        observation.countError(refusal.code);
        await denials.note('user', principal.userId);
        const headers = { 'retry-after': String(refusal.retryAfter), 'access-control-allow-origin': '*' };
        endResponse(fetchAPI.Response.json(errorBody(refusal), { status: 429, headers }));
      }
    },
    // Who asks for a query's answer as a stream gets it, as one of the usual requests.
    onExecute: async ({ args, setResultAndStopExecution }) => {
      const { request } = args.contextValue as { request: Request };
      const principal = principals.get(request);
      if (principal !== undefined && streams.has(request)) {
        try {
          await takeCostly(limits.rates, 'REQUESTS', principal.userId);
        } catch (error) {
          setResultAndStopExecution({ errors: [toClientError(error, observation.log, observation.requestId())] });
        }
      }
    },
    onResultProcess: async ({ request, result }) => {
      const principal = principals.get(request);
      const errors = 'errors' in result ? (result.errors ?? []) : [];
      const denied = errors.filter(({ extensions }) => deniedCodes.has(String(extensions?.['code']))).length;
      if (principal !== undefined && denied > 0) {
        await denials.note('user', principal.userId, denied);
      }
    },
  };
}

const deniedCodes = new Set(['NOT_FOUND', 'RATE_LIMITED']);

/**
 * Counts one use of a costly kind.
 * @param res says what is left, where there is a response
 * @throws DomainError RATE_LIMITED
 */
export async function takeCostly(
  rates: RateLimits,
  name: RateLimitName,
  userId: string,
  res: ServerResponse | null = null,
): Promise<void> {
  const state = await rates.take(name, userId);
  if (res !== null) {
    tellLimit(res, name, state);
  }
  if (!state.allowed) {
    throw refusalOf(name, state);
  }
}

function refusalOf(name: RateLimitName, state: RateState): DomainError & { retryAfter: number } {
  const seconds = Math.max(1, Math.ceil(state.resetsIn / 1_000));
  const most = state.limit;
  const may = {
    REQUESTS: `send ${most} requests`,
    STREAMS: `open ${most} event streams`,
    SEND: `send ${most} messages`,
    INGEST: `change memories ${most} times`,
    SEARCH: `search memories ${most} times`,
    COSTLY: `rebuild memories and refresh MCP servers ${most} times`,
  }[name];
  const error = new DomainError('RATE_LIMITED', `You may ${may} a minute.`, { retryAfter: seconds });
  return Object.assign(error, { retryAfter: seconds });
}

/** Every limit that a request counts for, by name, as draft-ietf-httpapi-ratelimit-headers has it since its eighth. */
function tellLimit(res: ServerResponse, name: RateLimitName, state: RateState): void {
  if (!res.headersSent) {
    const label = `"${name.toLowerCase()}";`;
    const told = String(res.getHeader('ratelimit') ?? '').split(', ');
    const others = told.filter((item) => item !== '' && !item.startsWith(label));
    const item = `${label}r=${state.remaining};t=${Math.ceil(state.resetsIn / 1_000)}`;
    res.setHeader('ratelimit', [...others, item].join(', '));
  }
}

/** The limit of all requests, in the form of the draft's first versions, which most clients know. */
function headersOf(state: RateState): Record<string, string> {
  return {
    'ratelimit-limit': String(state.limit),
    'ratelimit-remaining': String(state.remaining),
    'ratelimit-reset': String(Math.ceil(state.resetsIn / 1_000)),
    'ratelimit-policy': `${state.limit};w=60`,
  };
}

/** Refuses documents that ask too much before anything of them runs. Parsed and validated documents stay cached. */
export function limitDocuments(limits: RequestLimits, observation: Observation): Plugin {
  const parse = parseWithin(limits.documents);
  const check = (args: ExecutionArgs, stop: (result: { errors: GraphQLError[] }) => void): void => {
    try {
      const { schema, document, operationName, variableValues } = args;
      checkDocument(limits.documents, schema, document, operationName ?? null, variableValues ?? {});
    } catch (error) {
      stop({ errors: [toClientError(error, observation.log, observation.requestId())] });
    }
  };
  return {
    onParse: ({ setParseFn }) => setParseFn(parse),
    onValidate: ({ addValidationRule }) => {
      if (!limits.introspection) {
        addValidationRule(NoSchemaIntrospectionCustomRule);
      }
    },
    onExecute: ({ args, setResultAndStopExecution }) => check(args, setResultAndStopExecution),
    onSubscribe: ({ args, setResultAndStopExecution }) => check(args, setResultAndStopExecution),
  };
}

/** Runs operations by their ids, and nothing else where the manifest says so. */
export function persistedOperations(manifest: OperationManifest): Plugin {
  const refuse = (message: string) => () =>
    new GraphQLError(message, { originalError: new DomainError('OPERATION_NOT_IN_MANIFEST', message) });
  return createPersistedOperations({
    allowArbitraryOperations: !manifest.only,
    getPersistedOperation: (id) => manifest.operations.get(id) ?? null,
    customErrors: {
      notFound: refuse('No operation of that id is in the manifest.'),
      keyNotFound: refuse('Send a document as `query`, or the id of an operation of the manifest.'),
      persistedQueryOnly: refuse('Send the id of an operation of the manifest, and no document.'),
    },
  });
}

/** Reads a manifest: ids with their documents, or the form that Apollo's tools write. @throws Error when it is neither */
export function readManifest(text: string): Map<string, string> {
  const value = JSON.parse(text) as unknown;
  if (typeof value !== 'object' || value === null) {
    throw new Error('a manifest of operations is a JSON object');
  }
  const entries =
    'operations' in value && Array.isArray(value.operations)
      ? value.operations.map((one: { id?: unknown; body?: unknown }) => [one.id, one.body] as const)
      : Object.entries(value);
  for (const [id, body] of entries) {
    if (typeof id !== 'string' || typeof body !== 'string') {
      throw new Error('each operation of a manifest has an id and a document');
    }
  }
  return new Map(entries as [string, string][]);
}
