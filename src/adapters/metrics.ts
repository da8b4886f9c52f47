import { collectDefaultMetrics, Gauge, Histogram, Counter as PromCounter, Registry } from 'prom-client';

/** Values of a metric's labels. They come from lists of the code, never from what a user writes or who a user is. */
export type Labels = Readonly<Record<string, string>>;

/** Something that only ever grows. */
export interface Counter<L extends Labels = Labels> {
  add(labels: L, amount?: number): void;
  /** Asks somebody who counts for the sum at each scrape, instead of being added to. */
  watch(labels: L, read: () => number): void;
}

/** Counts of values by size, as somebody else keeps them. */
export interface Distribution {
  /** Upper bounds in milliseconds, and how many values lay above the bound before. */
  readonly buckets: readonly { atMost: number; count: number }[];
  readonly count: number;
  /** In milliseconds. */
  readonly sum: number;
}

/** How long something took, in seconds. */
export interface Timing<L extends Labels = Labels> {
  observe(labels: L, seconds: number): void;
}

/** Something that goes up and down. */
export interface Level<L extends Labels = Labels> {
  set(labels: L, value: number): void;
  /** Drops all values, so that nothing out of date is shown. */
  clear(): void;
  /** Asks for the value at each scrape. @returns a function that ends that and drops the value */
  watch(labels: L, read: () => number): () => void;
}

/** Everything that the service counts. Each process has one; all metrics exist from its start. */
export interface Metrics {
  readonly requests: Timing<{ kind: 'graphql' | 'stream' | 'health' | 'other'; status: string }>;
  readonly errors: Counter<{ code: string }>;
  readonly unauthorized: Counter<{ reason: 'no_token' | 'bad_token' | 'not_owned' }>;
  readonly databaseConnections: Level<{ pool: PoolName; state: 'used' | 'idle' }>;
  readonly databaseLimit: Level<{ pool: PoolName }>;
  readonly databaseWaiting: Level<{ pool: PoolName }>;
  readonly databaseRefused: Counter<{ pool: PoolName }>;
  readonly dependencies: Level<{ dependency: string }>;
  readonly tasksClaimed: Counter<{ kind: string }>;
  readonly attempts: Timing<{ kind: string; outcome: 'ended' | 'failed' | 'abandoned' }>;
  readonly leasesLost: Counter;
  readonly tasksForgotten: Counter;
  readonly tasksRescued: Counter;
  readonly slots: Level<{ state: 'running' | 'free' }>;
  readonly upkeepFailures: Counter<{ work: string }>;
  readonly modelCalls: Timing<{ call: 'chat' | 'embed'; outcome: string }>;
  readonly modelTokens: Counter<{ kind: 'prompt' | 'completion' }>;
  readonly modelWaits: Timing<{ priority: 'interactive' | 'background' }>;
  readonly modelWaiting: Level;
  readonly modelBudget: Level<BudgetLabels>;
  readonly modelBudgetUsed: Counter<BudgetLabels>;
  readonly modelLeftAlone: Level<{ provider: string }>;
  readonly tasks: Level<{ state: string }>;
  readonly oldestTask: Level<{ state: string }>;
  readonly approvalsPending: Level;
  readonly workers: Level;
  readonly memoryCollections: Level;
  readonly memoryPoints: Level;
  readonly memoryBytes: Level;
  readonly streams: Level;
  readonly streamUsers: Level;
  readonly streamGroups: Level;
  readonly eventsDelivered: Counter;
  readonly eventBytes: Counter;
  readonly eventExecutions: Counter;
  readonly eventCatchUps: Counter;
  readonly streamsEnded: Counter<{ reason: 'slow' | 'refused' }>;
  /** Times from commits to their writing to readers. */
  watchEventLag(read: () => Distribution): void;
  /** Adds the process's own figures: CPU, memory, event loop, garbage collection. Once for a process. */
  addProcess(): void;
  /** Name, kind, labels and meaning of every metric of ours, for the documentation and for tests. */
  describe(): MetricDescription[];
  /** All values in Prometheus' text format, with the media type to send it as. */
  render(): Promise<{ contentType: string; text: string }>;
}

/** Providers and budgets are those of the configuration; the budget `*` is that of all models that it does not name. */
export type BudgetLabels = { provider: string; budget: string; kind: 'requests' | 'tokens' };

export type PoolName = 'api' | 'worker';

export interface MetricDescription {
  name: string;
  kind: 'counter' | 'gauge' | 'histogram';
  labels: readonly string[];
  help: string;
}

/** From a fast read to the longest that a request may take. */
const requestBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
/** From a quick model's answer to the longest run of a task. */
const workBuckets = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600];

/** Builds the metrics in a registry of their own: two parts of one process, or two tests, never share one by accident. */
export function createMetrics(): Metrics {
  const registry = new Registry();
  const described: MetricDescription[] = [];

  const describe = (kind: MetricDescription['kind'], name: string, help: string, labels: readonly string[]) => {
    described.push({ name, kind, labels, help });
    return { name, help, labelNames: [...labels], registers: [registry] };
  };
  const counter = <L extends Labels>(name: string, help: string, ...labels: (keyof L & string)[]): Counter<L> => {
    const watched: { values: L; read: () => number }[] = [];
    const metric = new PromCounter({
      ...describe('counter', name, help, labels),
      collect() {
        if (watched.length > 0) {
          this.reset();
        }
        for (const { values, read } of watched) {
          this.inc(values, read());
        }
      },
    });
    return {
      add: (values, amount = 1) => metric.inc(values, amount),
      watch: (values, read) => void watched.push({ values, read }),
    };
  };
  const timing = <L extends Labels>(
    name: string,
    help: string,
    buckets: number[],
    ...labels: (keyof L & string)[]
  ): Timing<L> => {
    const metric = new Histogram({ ...describe('histogram', name, help, labels), buckets });
    return { observe: (values, seconds) => metric.observe(values, seconds) };
  };
  const distribution = (name: string, help: string) => {
    const shown = describe('histogram', name, help, []);
    let read: (() => Distribution) | null = null;
    const metric = {
      name,
      get: async () => ({
        name,
        help: shown.help,
        type: 'histogram',
        aggregator: 'sum',
        values: read === null ? [] : histogramValues(name, read()),
      }),
    };
    // The library has no histogram whose counts are kept elsewhere, but takes whatever can be asked for its values.
    registry.registerMetric(metric as unknown as Histogram);
    return (reader: () => Distribution): void => {
      read = reader;
    };
  };
  const level = <L extends Labels>(name: string, help: string, ...labels: (keyof L & string)[]): Level<L> => {
    const watched = new Map<() => number, L>();
    const metric = new Gauge({
      ...describe('gauge', name, help, labels),
      collect() {
        for (const [read, values] of watched) {
          this.set(values, read());
        }
      },
    });
    return {
      set: (values, value) => metric.set(values, value),
      clear: () => metric.reset(),
      watch: (values, read) => {
        // Two watchers of one function would be one; each gets a function of its own.
        const own = () => read();
        watched.set(own, values);
        return () => {
          watched.delete(own);
          metric.remove(values);
        };
      },
    };
  };

  return {
    requests: timing(
      'retinue_http_request_duration_seconds',
      'Time from the head of a request to the end of its answer; for streams to their end.',
      requestBuckets,
      'kind',
      'status',
    ),
    errors: counter('retinue_errors_total', 'Errors told to clients, by code.', 'code'),
    unauthorized: counter(
      'retinue_unauthorized_attempts_total',
      'Requests without a valid token, and ids that the caller does not own or that do not exist.',
      'reason',
    ),
    databaseConnections: level('retinue_database_connections', 'Open Postgres connections.', 'pool', 'state'),
    databaseLimit: level('retinue_database_connections_limit', 'Most Postgres connections of the pool.', 'pool'),
    databaseWaiting: level('retinue_database_waiting', 'Callers that wait for a Postgres connection.', 'pool'),
    databaseRefused: counter(
      'retinue_database_refused_total',
      'Callers that waited for a Postgres connection until their time was over.',
      'pool',
    ),
    dependencies: level(
      'retinue_dependency_up',
      'Whether the process reached the dependency when it last looked: 1 or 0.',
      'dependency',
    ),
    tasksClaimed: counter('retinue_tasks_claimed_total', 'Attempts that this worker took.', 'kind'),
    attempts: timing(
      'retinue_task_attempt_duration_seconds',
      'Time from a claim to the end of the attempt: ended by its handler, failed, or abandoned to another attempt.',
      workBuckets,
      'kind',
      'outcome',
    ),
    leasesLost: counter('retinue_task_leases_lost_total', 'Attempts taken away from this worker while it ran them.'),
    tasksForgotten: counter(
      'retinue_tasks_forgotten_total',
      'Tasks in the name of this worker that it did not run, and that it gave back.',
    ),
    tasksRescued: counter(
      'retinue_tasks_rescued_total',
      'Tasks put back into the queue: of silent workers, and retries whose time had come.',
    ),
    slots: level('retinue_worker_slots', 'Slots of this worker.', 'state'),
    upkeepFailures: counter('retinue_upkeep_failures_total', 'Rounds of upkeep that failed.', 'work'),
    modelCalls: timing(
      'retinue_model_call_duration_seconds',
      'Time of a call to the model: `ok`, `aborted`, or the code of its failure.',
      workBuckets,
      'call',
      'outcome',
    ),
    modelTokens: counter('retinue_model_tokens_total', 'Tokens that models reported.', 'kind'),
    modelWaits: timing(
      'retinue_model_wait_duration_seconds',
      'Time that a call waited for its turn with the model, whether it got one or not.',
      workBuckets,
      'priority',
    ),
    modelWaiting: level(
      'retinue_model_calls_waiting',
      'Calls that wait for their turn with the model in this process.',
    ),
    modelBudget: level(
      'retinue_model_budget_limit',
      'What the provider allows in a minute, over all processes.',
      'provider',
      'budget',
      'kind',
    ),
    modelBudgetUsed: counter(
      'retinue_model_budget_used_total',
      'What this process used of it.',
      'provider',
      'budget',
      'kind',
    ),
    modelLeftAlone: level(
      'retinue_model_provider_left_alone',
      'Whether this process leaves the provider alone after faults in a row: 1 or 0.',
      'provider',
    ),
    tasks: level('retinue_tasks', 'Open tasks of all users by state. Only the leading worker shows it.', 'state'),
    oldestTask: level(
      'retinue_task_oldest_seconds',
      'How long the oldest task has been due (queued), running or waiting. Only the leading worker shows it.',
      'state',
    ),
    approvalsPending: level(
      'retinue_approvals_pending',
      'Approvals that wait for a decision. Only the leading worker shows it.',
    ),
    workers: level(
      'retinue_workers',
      'Workers that showed a sign of life within the lease. Only the leading worker shows it.',
    ),
    memoryCollections: level(
      'retinue_memory_collections',
      'Collections of the vector store, or memories that share one. Only the leading worker shows it.',
    ),
    memoryPoints: level('retinue_memory_points', 'Vectors in them. Only the leading worker shows it.'),
    memoryBytes: level('retinue_memory_vector_bytes', 'Size of these vectors. Only the leading worker shows it.'),
    streams: level('retinue_event_streams', 'Open event streams.'),
    streamUsers: level('retinue_event_stream_users', 'Users with open event streams.'),
    streamGroups: level('retinue_event_stream_groups', 'Groups of equal subscriptions, each executed once an event.'),
    eventsDelivered: counter('retinue_events_delivered_total', 'Events written to streams.'),
    eventBytes: counter('retinue_event_bytes_total', 'Bytes of the events written to streams.'),
    eventExecutions: counter('retinue_event_executions_total', 'Executions of subscriptions.'),
    eventCatchUps: counter('retinue_event_catch_ups_total', 'Pages of the log read for streams that were behind.'),
    streamsEnded: counter(
      'retinue_event_streams_ended_total',
      'Streams ended because their readers were slow, or refused by a limit.',
      'reason',
    ),
    watchEventLag: distribution('retinue_event_lag_seconds', "Time from an event's commit to its writing to streams."),
    addProcess: () => collectDefaultMetrics({ register: registry }),
    describe: () => described,
    render: async () => ({ contentType: registry.contentType, text: await registry.metrics() }),
  };
}

function histogramValues(name: string, { buckets, count, sum }: Distribution) {
  let upTo = 0;
  return [
    ...buckets.map((bucket) => {
      upTo += bucket.count;
      const le = Number.isFinite(bucket.atMost) ? bucket.atMost / 1_000 : '+Inf';
      return { metricName: `${name}_bucket`, labels: { le }, value: upTo };
    }),
    { metricName: `${name}_sum`, labels: {}, value: sum / 1_000 },
    { metricName: `${name}_count`, labels: {}, value: count },
  ];
}
