import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { GraphQLError, type GraphQLSchema } from 'graphql';
import { createYoga, type GraphiQLOptionsOrFactory, type Plugin } from 'graphql-yoga';
import type { Log } from './adapters/log.ts';
import type { Metrics } from './adapters/metrics.ts';
import type { Tracing } from './adapters/trace.ts';
import type { Authenticate, Principal } from './auth.ts';
import { DomainError } from './errors.ts';
import { graphiqlOptions, renderGraphiqlPage } from './graphiql.ts';
import { errorBody, shortened, toClientError, withoutSuggestion } from './graphql-errors.ts';
import type { CheckHealth } from './health.ts';
import {
  createDenials,
  type Denials,
  limitDocuments,
  limitRequests,
  persistedOperations,
  type RequestLimits,
  rateLimitHeaders,
  type ServerContext,
  takeCostly,
} from './http-limits.ts';
import { createObservation, type Observation } from './http-observation.ts';
import type { Operation, Origin } from './operation.ts';
import type { Context } from './schema/builder.ts';
import type { EventFeeds } from './services/event-feeds.ts';
import { once } from './services/idempotency.ts';
import type { StreamHub } from './streams/hub.ts';
import { type RequestContext, serveStreams } from './streams/plugin.ts';
import { countListeners } from './streams/take-over.ts';

export interface HttpOptions {
  schema: GraphQLSchema;
  authenticate: Authenticate;
  openOperation: (userId: string, origin?: Origin) => Operation;
  feeds: EventFeeds;
  streams: StreamHub;
  tools: Context['tools'];
  memory: Context['memory'];
  modelFor: Context['modelFor'];
  log: Log;
  metrics: Metrics;
  tracing: Tracing;
  trustProxy: boolean;
  limits: RequestLimits;
  /** Lets refusals of a document suggest names of the schema. */
  fieldSuggestions: boolean;
  /** Serves GraphiQL, signed in with this token when there is one. */
  graphiql: { token: string | null } | null;
  /** Answers for /health/ready: each dependency's state. */
  health: CheckHealth;
  /** Fires when the service stops: streams end then, and clients reconnect elsewhere. */
  stopping: AbortSignal;
}

/** Largest request body in bytes: a message of 100 kB, escaped, with room for the document around it. */
const maximumBody = 1_048_576;
/** Largest head of a request in bytes: room for the longest token that is looked at. */
const maximumHead = 32_768;
/**
 * How long a connection without a request is kept, in milliseconds: longer than clients and proxies (mostly 60 s) keep theirs. When
 * the server closes first, it may do so in the very moment in which a request is on its way.
 */
const keepAliveTimeout = 75_000;
const graphqlPath = '/graphql';

/** The HTTP server with everything a request meets, in that order. */
export function createHttpServer(options: HttpOptions): Server {
  const observation = createObservation({ ...options, graphqlPath });
  const principals = new WeakMap<Request, Principal>();
  const endSignal = createEndSignals(options.stopping);
  options.stopping.addEventListener('abort', () => void options.streams.stop());
  const denials = createDenials(options.limits, observation);

  const tell = (error: GraphQLError): GraphQLError => (options.fieldSuggestions ? error : withoutSuggestion(error));

  const yoga = createYoga<ServerContext, Context>({
    schema: options.schema,
    graphqlEndpoint: graphqlPath,
    landingPage: false,
    batching: false,
    // The API takes no files.
    multipart: false,
    cors: {
      // Tokens are sent explicitly, never by cookie, so that any origin may ask.
      origin: '*',
      credentials: false,
      methods: ['GET', 'POST', 'OPTIONS'],
      exposedHeaders: ['x-request-id', 'retry-after', ...rateLimitHeaders],
    },
    graphiql: serveGraphiql(options.graphiql),
    renderGraphiQL: renderGraphiqlPage,
    logging: {
      debug: () => undefined,
      info: () => undefined,
      warn: (message: unknown) => observation.log().warn(String(message)),
      // Faults of resolvers were logged when they were masked.
      error: () => undefined,
    },
    maskedErrors: {
      maskError: (error) => tell(toClientError(error, observation.log, observation.requestId())),
    },
    plugins: [
      answerHealth(options),
      authenticateRequest(options, principals, observation, denials),
      limitRequests(options.limits, principals, observation, denials),
      ...(options.limits.manifest === null ? [] : [persistedOperations(options.limits.manifest)]),
      limitDocuments(options.limits, observation),
      explainRefusals(tell),
      observation.errorPlugin(),
      serveStreams({
        hub: options.streams,
        openOperation: options.openOperation,
        contextFor: (principal, operation) => contextFor(options, principal, operation),
        maskError: (error, id) => toClientError(error, () => options.log, id),
      }),
    ],
    context: ({ request, req, res }) =>
      createContext(options, observation, request, { req, res }, principals.get(request), endSignal),
  });

  const settings = { requestTimeout: 30_000, headersTimeout: 10_000, maxHeaderSize: maximumHead, keepAliveTimeout };
  return createServer(settings, (request, response) => {
    // A closing server goes on to serve connections that are kept alive: each ends with the response under way.
    response.once('close', () => {
      if (options.stopping.aborted) {
        request.socket.destroySoon();
      }
    });
    observation.follow(request, response, () => {
      const refusal = refuseBody(request);
      if (refusal === null) {
        return yoga(request, response, { earlier: countListeners(response) });
      }
      observation.countError(refusal.error.code);
      response.writeHead(refusal.status, { ...refusalHeaders, connection: 'close' });
      return response.end(JSON.stringify(errorBody(refusal.error)));
    });
  });
}

function serveGraphiql(graphiql: HttpOptions['graphiql']): GraphiQLOptionsOrFactory<ServerContext> {
  return graphiql === null ? false : (request) => graphiqlOptions(graphiql.token, new URL(request.url));
}

function createContext(
  options: HttpOptions,
  observation: Observation,
  request: Request,
  { req, res }: Pick<ServerContext, 'req' | 'res'>,
  principal: Principal | undefined,
  endSignal: EndSignals,
): Context & Pick<RequestContext, 'endRequest'> {
  if (principal === undefined) {
    throw new DomainError('UNAUTHENTICATED', 'Send a token: `Authorization: Bearer <token>`.');
  }
  const operation = options.openOperation(principal.userId, {
    requestId: observation.requestId(),
    traceparent: options.tracing.traceparent(),
  });
  const { signal, end } = endSignal(res, principal.expiresAt);
  const endRequest = (): void => {
    end();
    void operation.close();
  };
  res.once('close', endRequest);
  const key = request.headers.get('idempotency-key');
  const resumeFrom = request.headers.get('last-event-id');
  return {
    ...contextFor(options, principal, operation),
    clientAddress: clientAddress(req, options.trustProxy),
    signal,
    endRequest,
    takeCostly: (name) => takeCostly(options.limits.rates, name, principal.userId, res),
    // An EventSource that comes back says by itself what it had.
    readEvents: (wanted) =>
      options.feeds.read(principal.userId, { ...wanted, after: wanted.after ?? (resumeFrom || null) }),
    mutate: (field, work) => operation.write((write) => once(write, { key, ...field }, () => work(write))),
  };
}

/** What resolvers may use for a user when there is no request: to execute an event. */
function contextFor(options: HttpOptions, principal: Principal, operation: Operation): Context {
  return {
    principal,
    operation,
    clientAddress: null,
    signal: new AbortController().signal,
    readEvents: (wanted) => options.feeds.read(principal.userId, wanted),
    rates: options.limits.rates,
    takeCostly: (name) => takeCostly(options.limits.rates, name, principal.userId),
    memory: options.memory,
    modelFor: options.modelFor,
    mutate: (field, work) => operation.write((write) => once(write, { key: null, ...field }, () => work(write))),
    tools: options.tools,
  };
}

/** A signal that fires when the token has ended, the service stops, or the request is told to be over. */
type EndSignals = (response: ServerResponse, expiresAt: number) => { signal: AbortSignal; end: () => void };

/** Most milliseconds that a timer can wait. */
const longestTimer = 2 ** 31 - 1;

/** One for all: a reason of its own would take a stack trace for each request that ends. */
const requestOver = new DOMException('The request is over.', 'AbortError');

/**
 * `AbortSignal.any` over a signal that lives as long as the process keeps a record of each request for good: here
 * every request leaves nothing behind.
 */
function createEndSignals(stopping: AbortSignal): EndSignals {
  const open = new Set<() => void>();
  stopping.addEventListener('abort', () => {
    for (const end of [...open]) {
      end();
    }
  });
  return (response, expiresAt) => {
    const controller = new AbortController();
    const end = (): void => {
      clearTimeout(timer);
      open.delete(end);
      controller.abort(requestOver);
    };
    // Not unreferenced: Node.js would keep a list for each different time, until it has come.
    const timer = setTimeout(end, Math.min(Math.max(expiresAt - Date.now(), 0), longestTimer));
    open.add(end);
    if (stopping.aborted || response.closed) {
      end();
    }
    return { signal: controller.signal, end };
  };
}

/** Answers /health/live and /health/ready, which need no token and tell nothing of any user. */
function answerHealth(options: HttpOptions): Plugin {
  return {
    onRequest: async ({ url, endResponse, fetchAPI }) => {
      if (url.pathname === '/health/live') {
        endResponse(fetchAPI.Response.json({ status: 'live' }));
      } else if (url.pathname === '/health/ready') {
        const report = await options.health();
        const ready = report.status === 'ready' || report.status === 'degraded';
        endResponse(fetchAPI.Response.json(report, { status: ready ? 200 : 503 }));
      }
    },
  };
}

/** Refuses a request without a valid token before anything of it is read or run. */
function authenticateRequest(
  options: HttpOptions,
  principals: WeakMap<Request, Principal>,
  observation: Observation,
  denials: Denials,
): Plugin<object, ServerContext> {
  return {
    onRequest: async ({ request, url, endResponse, fetchAPI, serverContext }) => {
      if (url.pathname !== graphqlPath || request.method === 'OPTIONS') {
        return;
      }
      try {
        principals.set(request, await options.authenticate(request.headers.get('authorization')));
      } catch (error) {
        const fault = toClientError(error, observation.log, observation.requestId());
        const { status = 500, headers = {} } = (fault.extensions['http'] ?? {}) as {
          status?: number;
          headers?: Record<string, string>;
        };
        const code = String(fault.extensions['code']);
        observation.countError(code);
        if (status === 401) {
          const reason = request.headers.has('authorization') ? 'bad_token' : 'no_token';
          options.metrics.unauthorized.add({ reason });
          observation.log().warn({ code, reason }, 'unauthorized attempt');
          await denials.note('address', clientAddress(serverContext.req, options.trustProxy) ?? 'unknown');
        }
        endResponse(fetchAPI.Response.json(errorBody(fault), { status, headers }));
      }
    },
  };
}

const refusalHeaders = { 'content-type': 'application/json; charset=utf-8', 'access-control-allow-origin': '*' };
const bareRefusals = new Map([
  [404, new DomainError('NOT_FOUND', `Nothing is served at this path; the API is at ${graphqlPath}.`)],
  [
    406,
    new DomainError(
      'BAD_REQUEST',
      'The answer has none of the media types that the request accepts. Subscriptions need `Accept: text/event-stream`.',
    ),
  ],
  [415, new DomainError('BAD_REQUEST', 'Send the request as `Content-Type: application/json`.')],
]);

/** Gives a code and a reason to what Yoga refuses without a word, and keeps long messages short. */
function explainRefusals(tell: (error: GraphQLError) => GraphQLError): Plugin {
  return {
    onValidate:
      () =>
      ({ valid, result, setResult }) => {
        if (!valid) {
          setResult(result.map((error) => (error instanceof GraphQLError ? tell(shortened(error)) : error)));
        }
      },
    onResponse: ({ response, setResponse, fetchAPI }) => {
      const refusal = bareRefusals.get(response.status);
      if (refusal !== undefined && !response.headers.has('content-type')) {
        const headers = new fetchAPI.Headers(response.headers);
        headers.delete('content-length');
        setResponse(fetchAPI.Response.json(errorBody(refusal), { status: response.status, headers }));
      }
    },
  };
}

function refuseBody(request: IncomingMessage): { status: number; error: DomainError } | null {
  const declared = request.headers['content-length'];
  if (declared === undefined && request.headers['transfer-encoding'] !== undefined) {
    // A body of unknown length would have to be read to find that it is too large.
    return { status: 411, error: new DomainError('BAD_REQUEST', 'Send the body with a Content-Length.') };
  }
  if (Number(declared ?? 0) > maximumBody) {
    return {
      status: 413,
      error: new DomainError('PAYLOAD_TOO_LARGE', `A request body may have at most ${maximumBody} bytes.`),
    };
  }
  return null;
}

function clientAddress(request: IncomingMessage, trustProxy: boolean): string | null {
  const forwarded = trustProxy ? request.headers['x-forwarded-for'] : undefined;
  const first = (Array.isArray(forwarded) ? forwarded[0] : forwarded)?.split(',')[0]?.trim();
  return first !== undefined && first !== '' ? first.slice(0, 64) : (request.socket.remoteAddress ?? null);
}
