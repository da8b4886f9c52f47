import { createDevelopmentKey } from '../../dev/identity.ts';
import { type Child, startChild } from '../child.ts';
import { type BenchDatabase, createBenchDatabase, startBenchStack } from '../database.ts';
import { type Bench, type BenchOptions, type Check, inTurns, type Measured, Recorder } from '../harness.ts';
import { type LoadGenerator, startLoadGenerator } from '../load.ts';
import { type SeededUser, seed, size } from './seed.ts';
import type { ServerReady } from './settings.ts';
import { type Dialect, normalise, type Request, readSessions, renameSession } from './workload.ts';

interface Contender {
  readonly who: string;
  readonly dialect: Dialect;
  readonly server: Child<ServerReady>;
  readonly users: readonly SeededUser[];
}

interface Workload {
  readonly name: string;
  readonly requests: (contender: Contender) => Request[];
}

interface Place {
  readonly database: BenchDatabase;
  readonly load: LoadGenerator;
  readonly recorder: Recorder;
  readonly options: BenchOptions;
}

const retinue = 'Retinue';
const floor = 'floor: one SQL by hand';
const postgraphile = 'PostGraphile 5';
const oneUser = 'Retinue, one user';
const withoutTransaction = 'Retinue, one user, no transaction';

const manyConnections = 32;
const listSizes = [1, 5, 20];
const countedRequests = 50;

const nestedQuery: Workload = {
  name: 'nested query',
  requests: ({ dialect, users }) => shuffle(users.map((user) => readSessions(dialect, user, 20))),
};
const mutation: Workload = {
  name: 'mutation',
  requests: ({ dialect, users }) =>
    shuffle(users.map((user, place) => renameSession(dialect, user, place, `Title ${Math.random()}`))),
};

export const graphql: Bench = {
  name: 'graphql',
  summary: 'a nested query and a small mutation over HTTP, beside PostGraphile 5 and one hand-written SQL statement',
  rounds: 5,
  run,
};

const busyThroughput = `${metricName(nestedQuery, manyConnections)}: throughput`;
const busyCpu = `${metricName(nestedQuery, manyConnections)}: node CPU`;

async function run(options: BenchOptions): Promise<Measured> {
  await using started = new AsyncDisposableStack();
  const stack = await startBenchStack(options.dataFolder, { redis: false, qdrant: false });
  started.defer(() => stack.stop());
  const database = await createBenchDatabase(stack, 'graphql');
  started.defer(() => database.close());
  options.log('Filling the database…');
  const key = await createDevelopmentKey();
  const users = await seed(database, key);
  const single = users.slice(0, 1);

  const start = async (who: string, dialect: Dialect, file: string, served: SeededUser[]): Promise<Contender> => {
    const server = await startChild<ServerReady>(new URL(file, import.meta.url), {
      databaseUrl: database.appUrl,
      publicKey: JSON.stringify(key.publicKey),
      userId: single[0]?.id,
    });
    started.defer(() => server.stop());
    return { who, dialect, server, users: served };
  };
  const contenders = [
    await start(retinue, 'retinue', 'retinue.ts', users),
    await start(postgraphile, 'postgraphile', 'postgraphile.ts', users),
    await start(floor, 'floor', 'floor.ts', users),
  ];
  const pair = [
    await start(oneUser, 'retinue', 'retinue.ts', single),
    await start(withoutTransaction, 'retinue', 'without-transaction.ts', single),
  ];
  const load = await startLoadGenerator();
  started.defer(() => load.stop());
  const place: Place = { database, load, recorder: new Recorder(), options };

  await compareAnswers(contenders, users.slice(0, 3));
  await compareAnswers(pair, single);
  await measureInTurns(place, contenders, nestedQuery, options.rounds);
  for (const contender of contenders) {
    await countStatements(place, contender);
  }
  // The two differ by less than others do, so that more and closer turns are needed to tell them apart.
  await measureInTurns(place, pair, nestedQuery, options.rounds * 2);
  recordTransactionShare(place.recorder);
  // Last, because it leaves dead rows behind that readers would have to step over.
  await measureInTurns(place, contenders, mutation, options.rounds);
  return { series: place.recorder.series(), checks: judge(place.recorder) };
}

/** @throws Error when contenders answer differently: then their figures could not be compared */
async function compareAnswers(contenders: readonly Contender[], users: readonly SeededUser[]): Promise<void> {
  for (const user of users) {
    const answers = await Promise.all(
      contenders.map(async ({ who, dialect, server }) => {
        const { token, body } = readSessions(dialect, user, 20);
        const response = await fetch(server.ready.url, {
          method: 'POST',
          headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
          body,
          signal: AbortSignal.timeout(30_000),
        });
        return { who, text: normalise(await response.json()) };
      }),
    );
    for (const answer of answers) {
      if (answer.text !== answers[0]?.text || !answer.text.includes('"position":12')) {
        throw new Error(
          `${answer.who} answers differently from ${answers[0]?.who}:\n${answer.text.slice(0, 500)}\n${answers[0]?.text.slice(0, 500)}`,
        );
      }
    }
  }
}

async function measureInTurns(
  place: Place,
  contenders: readonly Contender[],
  workload: Workload,
  rounds: number,
): Promise<void> {
  const { load, options } = place;
  for (const contender of contenders) {
    options.log(`Warming up for the ${workload.name}: ${contender.who}`);
    await load.run({
      url: contender.server.ready.url,
      connections: 8,
      until: { requests: size.users },
      requests: workload.requests(contender),
    });
  }
  await inTurns(rounds, contenders, async (contender, round) => {
    options.log(`${workload.name}, round ${round} of ${rounds}: ${contender.who}`);
    await measure(place, contender, workload, manyConnections);
    await measure(place, contender, workload, 1);
  });
}

async function measure(place: Place, contender: Contender, workload: Workload, connections: number): Promise<void> {
  const { load, recorder, options } = place;
  const { who, server } = contender;
  const before = await server.cpu();
  const result = await load.run({
    url: server.ready.url,
    connections,
    until: { seconds: options.seconds },
    requests: workload.requests(contender),
  });
  const cpu = (await server.cpu()) - before;
  const name = metricName(workload, connections);
  recorder.add(who, `${name}: node CPU`, 'ms/request', cpu / result.requests);
  recorder.add(who, `${name}: throughput`, 'requests/s', result.requests / result.seconds);
  recorder.add(who, `${name}: p50`, 'ms', result.p50);
  recorder.add(who, `${name}: p99`, 'ms', result.p99);
}

function metricName(workload: Workload, connections: number): string {
  return `${workload.name}, ${connections} ${connections === 1 ? 'connection' : 'connections'}`;
}

/** Counts what arrives at Postgres, transaction commands included, over the same requests at each size of the list. */
async function countStatements(place: Place, contender: Contender): Promise<void> {
  const { database, load, recorder } = place;
  for (const first of listSizes) {
    await untilQuiet(database);
    await database.owner('SELECT pg_stat_statements_reset()');
    await load.run({
      url: contender.server.ready.url,
      connections: 1,
      until: { requests: countedRequests },
      requests: contender.users.map((user) => readSessions(contender.dialect, user, first)),
    });
    await untilQuiet(database);
    const [counted] = await database.owner<{ calls: number }>(`
      SELECT coalesce(sum(calls), 0)::int AS calls FROM pg_stat_statements
      JOIN pg_roles ON pg_roles.oid = userid WHERE rolname = 'app_user'`);
    recorder.add(
      contender.who,
      `SQL statements, list of ${first}`,
      'per request',
      (counted?.calls ?? 0) / countedRequests,
    );
  }
}

/** Waits until the contenders' connections rest: a read's COMMIT may follow its answer. @throws Error after 10 s */
async function untilQuiet(database: BenchDatabase): Promise<void> {
  const end = performance.now() + 10_000;
  while (performance.now() < end) {
    const [active] = await database.owner<{ count: number }>(
      `SELECT count(*)::int AS count FROM pg_stat_activity WHERE usename = 'app_user' AND state <> 'idle'`,
    );
    if (active?.count === 0) {
      return;
    }
  }
  throw new Error('statements still run after the last answer');
}

/**
 * What a request would save without BEGIN, set_config and COMMIT, as a share of what it costs with them. Both servers ran
 * one after the other in each round, and each round gives a share of its own.
 */
function recordTransactionShare(recorder: Recorder): void {
  const shareOf = (metric: string, cost: (value: number) => number): void => {
    const without = recorder.values(withoutTransaction, metric);
    for (const [round, value] of recorder.values(oneUser, metric).entries()) {
      const share = 1 - cost(without[round] ?? Number.NaN) / cost(value);
      recorder.add(oneUser, `${metric}: share of the transaction`, '%', 100 * share);
    }
  };
  // With all connections busy, a request costs the whole machine one over the throughput.
  shareOf(busyThroughput, (throughput) => 1 / throughput);
  shareOf(busyCpu, (cpu) => cpu);
  shareOf(`${metricName(nestedQuery, 1)}: p50`, (latency) => latency);
}

function judge(recorder: Recorder): Check[] {
  const cpuRatio = recorder.median(retinue, busyCpu) / recorder.median(postgraphile, busyCpu);
  const share = recorder.median(oneUser, `${busyThroughput}: share of the transaction`);
  const counts = listSizes.map((first) => recorder.median(retinue, `SQL statements, list of ${first}`));
  const growth = Math.max(...counts) - Math.min(...counts);
  return [
    { id: 'cpu_vs_postgraphile', goal: 'at most 2.5', value: cpuRatio, unit: 'times', ok: cpuRatio <= 2.5 },
    { id: 'transaction_share', goal: 'below 25 %', value: share, unit: '%', ok: share < 25 },
    {
      id: 'statements_constant',
      goal: `no more at ${listSizes.at(-1)} sessions than at ${listSizes[0]}`,
      value: growth,
      unit: 'more',
      ok: growth === 0,
    },
  ];
}

function shuffle<Value>(values: readonly Value[]): Value[] {
  return values
    .map((value) => ({ value, order: Math.random() }))
    .toSorted((a, b) => a.order - b.order)
    .map(({ value }) => value);
}
