import { AsyncLocalStorage } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { renderGraphiQL } from '@graphql-yoga/render-graphiql';
import { GraphQLError, type GraphQLSchema } from 'graphql';
import { createYoga, type Plugin } from 'graphql-yoga';
import type { Log } from './adapters/log.ts';
import type { Authenticate, Principal } from './auth.ts';
import { DomainError } from './errors.ts';
import { graphiqlTabs } from './graphiql.ts';
import { type Operation, OperationClosedError } from './operation.ts';
import type { Context } from './schema/builder.ts';
import { once } from './services/idempotency.ts';

export interface HttpOptions {
  schema: GraphQLSchema;
  authenticate: Authenticate;
  openOperation: (userId: string) => Operation;
  live: Context['live'];
  log: Log;
  trustProxy: boolean;
  /** Serves GraphiQL, signed in with this token when there is one. */
  graphiql: { token: string | null } | null;
  /** Answers for /health/ready: each dependency's state. */
  readiness: () => Promise<{ ready: boolean; dependencies: Record<string, string> }>;
  /** Fires when the service stops: streams end then, and clients reconnect elsewhere. */
  stopping: AbortSignal;
}

interface ServerContext {
  req: IncomingMessage;
}

/** Largest request body in bytes: a message of 100 kB, escaped, with room for the document around it. */
const maximumBody = 1_048_576;
const graphqlPath = '/graphql';

/** The HTTP server with everything a request meets, in that order. */
export function createHttpServer(options: HttpOptions): Server {
  const traces = new AsyncLocalStorage<string>();
  const principals = new WeakMap<Request, Principal>();
  const traceId = (): string => traces.getStore() ?? 'none';

  const yoga = createYoga<ServerContext, Context>({
    schema: options.schema,
    graphqlEndpoint: graphqlPath,
    landingPage: false,
    batching: false,
    cors: {
      // Tokens are sent explicitly, never by cookie, so that any origin may ask.
      origin: '*',
      credentials: false,
      methods: ['GET', 'POST', 'OPTIONS'],
      exposedHeaders: ['x-request-id', 'retry-after'],
    },
    graphiql:
      options.graphiql === null
        ? false
        : {
            title: 'Retinue',
            subscriptionsProtocol: 'SSE',
            defaultTabs: graphiqlTabs(),
            ...(options.graphiql.token === null
              ? {}
              : { headers: JSON.stringify({ Authorization: `Bearer ${options.graphiql.token}` }) }),
          },
    renderGraphiQL,
    logging: {
      debug: () => undefined,
      info: () => undefined,
      warn: (message: unknown) => options.log.warn({ traceId: traceId() }, String(message)),
      // Faults of resolvers were logged when they were masked.
      error: () => undefined,
    },
    maskedErrors: { maskError: (error) => maskError(error, options.log, traceId()) },
    plugins: [answerHealth(options), authenticateRequest(options, principals, traceId)],
    context: ({ request, req }) => createContext(options, request, req, principals.get(request)),
  });

  return createServer({ requestTimeout: 30_000, headersTimeout: 10_000 }, (request, response) => {
    const id = requestId(request);
    response.setHeader('x-request-id', id);
    const refusal = refuseBody(request);
    if (refusal !== null) {
      response.writeHead(refusal.status, { 'content-type': 'application/json; charset=utf-8', connection: 'close' });
      response.end(JSON.stringify(errorBody(refusal.error)));
      return;
    }
    traces.run(id, () => void yoga(request, response));
  });
}

function createContext(
  options: HttpOptions,
  request: Request,
  incoming: IncomingMessage,
  principal: Principal | undefined,
): Context {
  if (principal === undefined) {
    throw new DomainError('UNAUTHENTICATED', 'Send a token: `Authorization: Bearer <token>`.');
  }
  const operation = options.openOperation(principal.userId);
  request.signal.addEventListener('abort', () => void operation.close(), { once: true });
  const key = request.headers.get('idempotency-key');
  return {
    principal,
    operation,
    clientAddress: clientAddress(incoming, options.trustProxy),
    signal: AbortSignal.any([
      request.signal,
      options.stopping,
      AbortSignal.timeout(Math.min(Math.max(principal.expiresAt - Date.now(), 0), 2 ** 31 - 1)),
    ]),
    live: options.live,
    mutate: (field, work) => operation.write((write) => once(write, { key, ...field }, () => work(write))),
  };
}

/** Answers /health/live and /health/ready, which need no token and tell nothing of any user. */
function answerHealth(options: HttpOptions): Plugin {
  return {
    onRequest: async ({ url, endResponse, fetchAPI }) => {
      if (url.pathname === '/health/live') {
        endResponse(fetchAPI.Response.json({ status: 'live' }));
      } else if (url.pathname === '/health/ready') {
        const { ready, dependencies } = await options.readiness();
        endResponse(
          fetchAPI.Response.json(
            { status: ready ? 'ready' : 'unavailable', dependencies },
            { status: ready ? 200 : 503 },
          ),
        );
      }
    },
  };
}

/** Refuses a request without a valid token before anything of it is read or run. */
function authenticateRequest(
  options: HttpOptions,
  principals: WeakMap<Request, Principal>,
  traceId: () => string,
): Plugin {
  return {
    onRequest: async ({ request, url, endResponse, fetchAPI }) => {
      if (url.pathname !== graphqlPath || request.method === 'OPTIONS' || isGraphiqlPage(options, request, url)) {
        return;
      }
      try {
        principals.set(request, await options.authenticate(request.headers.get('authorization')));
      } catch (error) {
        const fault = toGraphQLError(error, options.log, traceId());
        const { status = 500, headers = {} } = (fault.extensions['http'] ?? {}) as {
          status?: number;
          headers?: Record<string, string>;
        };
        if (status === 401) {
          options.log.warn({ traceId: traceId(), code: fault.extensions['code'] }, 'unauthorized attempt');
        }
        endResponse(fetchAPI.Response.json(errorBody(fault), { status, headers }));
      }
    },
  };
}

/** The page is the same for everyone; what it asks for carries a token. */
function isGraphiqlPage(options: HttpOptions, request: Request, url: URL): boolean {
  return (
    options.graphiql !== null &&
    request.method === 'GET' &&
    !url.searchParams.has('query') &&
    (request.headers.get('accept') ?? '').includes('text/html')
  );
}

function maskError(error: unknown, log: Log, traceId: string): Error {
  if (error instanceof GraphQLError && error.originalError === undefined) {
    // GraphQL's own refusals: syntax, validation, variables of the wrong type.
    return typeof error.extensions['code'] === 'string' ? error : withCode(error, 'BAD_USER_INPUT');
  }
  return toGraphQLError(error, log, traceId);
}

/** Domain errors keep their code and message; everything else is logged and told as INTERNAL. */
function toGraphQLError(error: unknown, log: Log, traceId: string): GraphQLError {
  const located = error instanceof GraphQLError ? error : null;
  const cause = located?.originalError ?? error;
  const place = located === null ? {} : { nodes: located.nodes ?? null, path: located.path ?? null };
  if (cause instanceof GraphQLError) {
    return maskError(cause, log, traceId) as GraphQLError;
  }
  if (cause instanceof DomainError) {
    const { code, field, retryAfter, quota } = cause;
    return new GraphQLError(cause.message, {
      ...place,
      extensions: {
        code,
        ...(field === undefined ? {} : { field }),
        ...(retryAfter === undefined ? {} : { retryAfter }),
        ...(quota === undefined ? {} : { quota }),
        ...httpExtension(cause),
      },
    });
  }
  if (!(cause instanceof OperationClosedError)) {
    log.error({ traceId, err: cause }, 'unexpected fault');
  }
  return new GraphQLError('An unexpected fault. Quote the trace id when you report it.', {
    ...place,
    extensions: { code: 'INTERNAL', traceId },
  });
}

function httpExtension(error: DomainError): { http?: { status: number; headers: Record<string, string> } } {
  if (error.code === 'UNAUTHENTICATED') {
    return { http: { status: 401, headers: { 'www-authenticate': 'Bearer' } } };
  }
  if (error.code === 'SERVICE_BUSY') {
    return { http: { status: 503, headers: { 'retry-after': String(error.retryAfter ?? 1) } } };
  }
  return {};
}

function withCode(error: GraphQLError, code: string): GraphQLError {
  return new GraphQLError(error.message, {
    nodes: error.nodes ?? null,
    source: error.source ?? null,
    positions: error.positions ?? null,
    path: error.path ?? null,
    extensions: { ...error.extensions, code },
  });
}

function errorBody(error: GraphQLError | DomainError): object {
  const extensions =
    error instanceof DomainError
      ? { code: error.code }
      : Object.fromEntries(Object.entries(error.extensions).filter(([name]) => name !== 'http'));
  return { errors: [{ message: error.message, extensions }] };
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

function requestId(request: IncomingMessage): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && /^[\w.-]{1,64}$/.test(given) ? given : randomUUID();
}

function clientAddress(request: IncomingMessage, trustProxy: boolean): string | null {
  const forwarded = trustProxy ? request.headers['x-forwarded-for'] : undefined;
  const first = (Array.isArray(forwarded) ? forwarded[0] : forwarded)?.split(',')[0]?.trim();
  return first !== undefined && first !== '' ? first.slice(0, 64) : (request.socket.remoteAddress ?? null);
}
