import { AsyncLocalStorage } from 'node:async_hooks';
import {
  type Attributes,
  type Context,
  isSpanContextValid,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import {
  BatchSpanProcessor,
  NodeTracerProvider,
  ParentBasedSampler,
  TraceIdRatioBasedSampler,
} from '@opentelemetry/sdk-trace-node';

/** What a span tells of its work: ids, kinds and counts, never a text that a user wrote. */
export type SpanAttributes = Attributes;

export interface SpanOptions {
  kind: 'server' | 'client' | 'consumer' | 'internal';
  attributes?: SpanAttributes;
  /** `traceparent` of the work that led to this one (https://www.w3.org/TR/trace-context/); null begins a trace. */
  parent?: string | null;
}

/** The part of a trace that is under way, to be told more. */
export interface OpenSpan {
  set(attributes: SpanAttributes): void;
}

/** Traces of work over requests, tasks and calls. */
export interface Tracing {
  /** Does the work in a span of its own, below the one that is under way unless `parent` says otherwise. */
  run<Result>(name: string, options: SpanOptions, work: (span: OpenSpan) => Promise<Result>): Promise<Result>;
  /** The span that is under way, as `traceparent`: for work that goes on elsewhere. Null when nothing is traced. */
  traceparent(): string | null;
  /** Id of the trace that is under way, for log lines. */
  traceId(): string | null;
  /** Sends what is left, within a few seconds. */
  close(): Promise<void>;
}

export interface TracingOptions {
  /** Where spans are sent by OTLP over HTTP, as JSON. */
  url: string;
  /** Share of traces that are kept, from 0 to 1. */
  ratio: number;
  /** What the process is, such as `retinue-api`. */
  serviceName: string;
}

/** Longest time for one delivery, in milliseconds, and for the last one when the process stops. */
const exportTimeout = 5_000;
const kinds = {
  server: SpanKind.SERVER,
  client: SpanKind.CLIENT,
  consumer: SpanKind.CONSUMER,
  internal: SpanKind.INTERNAL,
};
const nothing: OpenSpan = { set: () => undefined };

/** Traces to a collector, or not at all. Nothing is registered globally: libraries trace nothing by themselves. */
export function createTracing(options: TracingOptions | null): Tracing {
  return options === null ? noTracing() : exportedTracing(options);
}

function noTracing(): Tracing {
  return {
    run: (_name, _options, work) => work(nothing),
    traceparent: () => null,
    traceId: () => null,
    close: async () => undefined,
  };
}

function exportedTracing(options: TracingOptions): Tracing {
  const provider = new NodeTracerProvider({
    resource: resourceFromAttributes({ 'service.name': options.serviceName }),
    sampler: new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(options.ratio) }),
    // Its queue is bounded: while the collector is away spans are dropped, and nothing waits for it.
    spanProcessors: [
      new BatchSpanProcessor(new OTLPTraceExporter({ url: options.url, timeoutMillis: exportTimeout }), {
        scheduledDelayMillis: 1_000,
        exportTimeoutMillis: exportTimeout,
      }),
    ],
  });
  const tracer = provider.getTracer('retinue');
  const contexts = new AsyncLocalStorage<Context>();
  const current = () => {
    const spanContext = trace.getSpanContext(contexts.getStore() ?? ROOT_CONTEXT);
    return spanContext !== undefined && isSpanContextValid(spanContext) ? spanContext : null;
  };
  return {
    run: (name, span, work) => {
      const parent = span.parent === undefined ? (contexts.getStore() ?? ROOT_CONTEXT) : readTraceparent(span.parent);
      return runSpan(tracer, contexts, name, span, parent, work);
    },
    traceparent: () => {
      const span = current();
      return span === null
        ? null
        : `00-${span.traceId}-${span.spanId}-${span.traceFlags.toString(16).padStart(2, '0')}`;
    },
    traceId: () => current()?.traceId ?? null,
    close: async () => {
      // A collector that is away must not hold the stop.
      await provider.shutdown().catch(() => undefined);
    },
  };
}

async function runSpan<Result>(
  tracer: Tracer,
  contexts: AsyncLocalStorage<Context>,
  name: string,
  options: SpanOptions,
  parent: Context,
  work: (span: OpenSpan) => Promise<Result>,
): Promise<Result> {
  const span: Span = tracer.startSpan(
    name,
    { kind: kinds[options.kind], ...(options.attributes === undefined ? {} : { attributes: options.attributes }) },
    parent,
  );
  try {
    return await contexts.run(trace.setSpan(parent, span), () =>
      work({ set: (attributes) => void span.setAttributes(attributes) }),
    );
  } catch (error) {
    // Only the kind of the fault: its message may hold what a user wrote.
    span.setStatus({ code: SpanStatusCode.ERROR });
    span.setAttribute('error.type', errorType(error));
    throw error;
  } finally {
    span.end();
  }
}

function errorType(error: unknown): string {
  if (error instanceof Error) {
    return 'code' in error && typeof error.code === 'string' ? error.code : error.name;
  }
  return typeof error;
}

/** The context of a `traceparent`; of nothing when there is none or it is malformed. */
function readTraceparent(value: string | null): Context {
  const match = value === null ? null : /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/.exec(value);
  const [, traceId, spanId, flags] = match ?? [];
  if (traceId === undefined || spanId === undefined || flags === undefined) {
    return ROOT_CONTEXT;
  }
  const spanContext = { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true };
  return isSpanContextValid(spanContext) ? trace.setSpanContext(ROOT_CONTEXT, spanContext) : ROOT_CONTEXT;
}
