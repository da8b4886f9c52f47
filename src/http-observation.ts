import { AsyncLocalStorage } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Plugin } from 'graphql-yoga';
import type { Log } from './adapters/log.ts';
import type { Metrics } from './adapters/metrics.ts';
import type { Tracing } from './adapters/trace.ts';

/** Follows requests for operators: their ids in log lines, their counts and times, their traces. */
export interface Observation {
  /** Does the work of a request. What it leads to knows the request until the answer is over. */
  follow(request: IncomingMessage, response: ServerResponse, work: () => unknown): void;
  /** Id of the request under way, which its answer carries as `x-request-id`. */
  requestId(): string;
  /** Log whose lines carry the ids of the request under way. */
  log(): Log;
  /** Counts what an answer says of errors. */
  countError(code: string): void;
  /** Counts the errors of GraphQL's answers. */
  errorPlugin(): Plugin;
}

export interface ObservationOptions {
  log: Log;
  metrics: Metrics;
  tracing: Tracing;
  /** Whether the trace that a request says it belongs to is believed. */
  trustProxy: boolean;
  graphqlPath: string;
}

/** Builds what follows the requests of one server. */
export function createObservation(options: ObservationOptions): Observation {
  const { metrics, tracing } = options;
  const requestIds = new AsyncLocalStorage<string>();
  const requestId = (): string => requestIds.getStore() ?? 'none';
  const log = (): Log => {
    const traceId = tracing.traceId();
    return options.log.child({ requestId: requestId(), ...(traceId === null ? {} : { traceId }) });
  };
  const countError = (code: string): void => metrics.errors.add({ code });
  return {
    requestId,
    log,
    countError,
    follow: (request, response, work) => {
      const id = readRequestId(request);
      response.setHeader('x-request-id', id);
      countRequest(options, request, response);
      requestIds.run(id, () => void traceRequest(options, id, request, response, work));
    },
    errorPlugin: () => ({
      onResultProcess: ({ result }) => {
        for (const error of 'errors' in result ? (result.errors ?? []) : []) {
          const code = String(error.extensions?.['code'] ?? 'INTERNAL');
          countError(code);
          // One id may be a mistake, many are none. Which exist can't be told apart here: both look alike.
          if (code === 'NOT_FOUND') {
            metrics.unauthorized.add({ reason: 'not_owned' });
            log().info({ code, field: error.extensions?.['field'] }, 'asked for what is not there');
          }
        }
      },
    }),
  };
}

function pathOf(request: IncomingMessage): string {
  return request.url?.split('?', 1)[0] ?? '';
}

/** Follows a request from its head to the end of its answer. */
function countRequest(
  { metrics, graphqlPath }: ObservationOptions,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  const start = performance.now();
  const path = pathOf(request);
  response.once('close', () => {
    const isStream = String(response.getHeader('content-type') ?? '').startsWith('text/event-stream');
    const other = path.startsWith('/health/') ? 'health' : 'other';
    const kind = isStream ? 'stream' : path === graphqlPath ? 'graphql' : other;
    metrics.requests.observe({ kind, status: String(response.statusCode) }, (performance.now() - start) / 1_000);
  });
}

/** The span of a request ends with its answer. */
async function traceRequest(
  { tracing, trustProxy, graphqlPath }: ObservationOptions,
  id: string,
  request: IncomingMessage,
  response: ServerResponse,
  work: () => unknown,
): Promise<void> {
  const path = pathOf(request);
  if (path !== graphqlPath) {
    work();
    return;
  }
  const { traceparent } = request.headers;
  // Anyone could fill the collector with traces that are to be kept: only our own proxy is believed.
  const parent = trustProxy && typeof traceparent === 'string' ? traceparent : null;
  const attributes = { 'http.request.method': request.method ?? '', 'url.path': path, 'retinue.request.id': id };
  await tracing.run(`${request.method} ${path}`, { kind: 'server', parent, attributes }, async (span) => {
    const { promise: closed, resolve } = Promise.withResolvers<void>();
    response.once('close', resolve);
    work();
    await closed;
    span.set({ 'http.response.status_code': response.statusCode });
  });
}

function readRequestId(request: IncomingMessage): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && /^[\w.-]{1,64}$/.test(given) ? given : randomUUID();
}
