import pg from 'pg';
import { createBenchDatabase, createEmptyDatabase, redisUrlOf, startBenchStack } from '../database.ts';
import { type Bench, type BenchOptions, type Check, inTurns, type Measured, Recorder } from '../harness.ts';
import type { Producer, Store } from './engine.ts';
import { type EngineName, engineNames, loadEngine } from './engines.ts';
import { agentLimit, measure, metrics } from './measure.ts';
import { measureRecovery } from './recovery.ts';
import { startWorkers } from './workers.ts';

interface Contender {
  readonly who: EngineName;
  readonly store: Store;
  readonly producer: Producer;
}

const retinue: EngineName = 'Retinue';
const graphileWorker: EngineName = 'graphile-worker, no local queue';
const peers = engineNames.filter((name) => name !== retinue);
const postgresPeers = peers.filter((name) => name !== 'BullMQ');
const tasksPerSecond = 500;
const workerProcesses = 2;

export const queue: Bench = {
  name: 'queue',
  summary:
    'the task engine beside pg-boss, graphile-worker and BullMQ: latency, throughput, limits, fairness, recovery',
  rounds: 3,
  run,
};

async function run(options: BenchOptions): Promise<Measured> {
  await using started = new AsyncDisposableStack();
  const stack = await startBenchStack(options.dataFolder, { redis: true, qdrant: false });
  started.defer(() => stack.stop());
  const redisUrl = redisUrlOf(stack);
  const contenders: Contender[] = [];
  for (const [place, who] of engineNames.entries()) {
    options.log(`Preparing: ${who}`);
    const engine = await loadEngine(who);
    let store: Store;
    if (who === retinue) {
      const database = await createBenchDatabase(stack, 'queue');
      started.defer(() => database.close());
      store = { ownerUrl: database.ownerUrl, workerUrl: database.workerUrl, redisUrl };
    } else {
      const url = await createEmptyDatabase(stack, `bench_queue_${place}`);
      store = { ownerUrl: url, workerUrl: url, redisUrl };
    }
    await engine.prepare(store);
    const producer = await engine.openProducer(store);
    started.defer(() => producer.close());
    contenders.push({ who, store, producer });
  }
  const recorder = new Recorder();
  const tasks = Math.round(tasksPerSecond * options.seconds);

  for (const contender of contenders) {
    options.log(`Warming up: ${contender.who}`);
    await takeTurn(contender, { add: () => undefined }, Math.ceil(tasks / 4));
    await settle(contender.store);
  }
  await inTurns(options.rounds, contenders, async (contender, round) => {
    options.log(`Round ${round} of ${options.rounds}: ${contender.who}`);
    await takeTurn(contender, recorder, tasks);
  });
  for (let round = 1; round <= options.rounds; round += 1) {
    options.log(`Round ${round} of ${options.rounds}: recovery of all at once`);
    await Promise.all(
      contenders.map(async ({ who, store, producer }) => {
        recorder.add(who, metrics.recovery, 's', await measureRecovery(who, store, producer));
      }),
    );
  }
  return { series: recorder.series(), checks: judge(recorder) };
}

async function takeTurn(
  { who, store, producer }: Contender,
  recorder: Pick<Recorder, 'add'>,
  tasks: number,
): Promise<void> {
  const workers = await startWorkers(who, store, workerProcesses);
  try {
    await measure({ who, producer, workers, recorder, tasks });
  } finally {
    await workers.stop();
  }
}

/** Lets Postgres know its tables, as it does by itself after a while. */
async function settle(store: Store): Promise<void> {
  const client = new pg.Client({ connectionString: store.ownerUrl });
  await client.connect();
  await client.query('VACUUM (ANALYZE)');
  await client.end();
}

function judge(recorder: Recorder): Check[] {
  const own = (metric: string): number => recorder.median(retinue, metric);
  const least = (names: readonly EngineName[], metric: string): number =>
    Math.min(...names.map((name) => recorder.median(name, metric)));
  const start = own(metrics.startP50) / least(postgresPeers, metrics.startP50);
  const throughput = own(metrics.throughput) / recorder.median(graphileWorker, metrics.throughput);
  const wait = own(metrics.lightP99) / least(peers, metrics.lightP99);
  const most = Math.max(...recorder.values(retinue, metrics.mostRunning));
  const recovery = Math.max(...recorder.values(retinue, metrics.recovery));
  return [
    { id: 'start_p50_vs_best_postgres_peer', goal: 'at most 1', value: start, unit: 'times', ok: start <= 1 },
    { id: 'throughput_vs_graphile_worker', goal: 'at least 1', value: throughput, unit: 'times', ok: throughput >= 1 },
    { id: 'light_wait_p99_vs_best_peer', goal: 'at most 0.05', value: wait, unit: 'times', ok: wait <= 0.05 },
    {
      id: 'most_running_of_an_agent',
      goal: `at most ${agentLimit}`,
      value: most,
      unit: 'tasks',
      ok: most <= agentLimit,
    },
    { id: 'recovery_seconds', goal: 'at most 15', value: recovery, unit: 's', ok: recovery <= 15 },
  ];
}
