import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import type { Log } from './adapters/log.ts';
import { createMetrics, type Metrics } from './adapters/metrics.ts';
import { createProbe } from './adapters/postgres.ts';
import { type Channel, createChannel } from './adapters/redis.ts';
import { createSharedStore, type SharedStore } from './adapters/shared-store.ts';
import { createTracing, type Tracing, type TracingOptions } from './adapters/trace.ts';
import { type CheckHealth, createHealth, type Dependency } from './health.ts';
import { createMonitorServer } from './monitor.ts';

/** What the parts of one process have in common: API and worker, or one of them alone. */
export interface ProcessParts {
  channel: Channel;
  /** Redis for what processes count together; null without Redis. */
  store: SharedStore | null;
  metrics: Metrics;
  tracing: Tracing;
  health: CheckHealth;
  /** Address of metrics and health; null when they were not asked for. */
  monitorUrl: string | null;
  /** Says from now on that the process is stopping. */
  beginStop(): void;
  close(): Promise<void>;
}

export interface ProcessOptions {
  databaseUrl: string;
  redisUrl: string | null;
  /** Dependencies beside Postgres and Redis. */
  dependencies: Readonly<Record<string, Dependency>>;
  /** Null traces nothing. */
  tracing: TracingOptions | null;
  /** Where to serve metrics and health; null serves none. */
  monitor: { host: string; port: number } | null;
}

/** Longest wait for Postgres when it is asked how it is, in milliseconds. */
const probeTimeout = 2_000;

/** Builds what comes first in a process and is closed last, so that operators see it also while it stops. */
export async function startProcessParts(options: ProcessOptions, log: Log): Promise<ProcessParts> {
  await using started = new AsyncDisposableStack();
  const channel = createChannel({ url: options.redisUrl, log });
  started.defer(() => channel.close());
  const store = options.redisUrl === null ? null : createSharedStore({ url: options.redisUrl, log });
  started.defer(() => store?.close());
  const metrics = createMetrics();
  const tracing = createTracing(options.tracing);
  started.defer(() => tracing.close());
  const probe = createProbe(options.databaseUrl, probeTimeout);
  started.defer(() => probe.close());
  const stopping = new AbortController();
  const health = createHealth(
    {
      postgres: { required: true, ask: () => probe.ask().then(() => 'up') },
      // Redis only makes it fast: without it the service goes on from the log.
      redis: { required: false, ask: async () => channel.status() },
      ...options.dependencies,
    },
    metrics,
    stopping.signal,
  );
  let monitorUrl: string | null = null;
  if (options.monitor !== null) {
    metrics.addProcess();
    const { host, port } = options.monitor;
    const server = createMonitorServer({ metrics, health });
    server.listen(port, host);
    await once(server, 'listening');
    started.defer(async () => {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    });
    monitorUrl = httpUrl(host, (server.address() as AddressInfo).port);
    log.info({ port: (server.address() as AddressInfo).port }, 'metrics listening');
  }
  const all = started.move();
  return {
    channel,
    store,
    metrics,
    tracing,
    health,
    monitorUrl,
    beginStop: () => stopping.abort(),
    close: () => all.disposeAsync(),
  };
}

/** The address of a server that listens there. */
export function httpUrl(host: string, port: number): string {
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
