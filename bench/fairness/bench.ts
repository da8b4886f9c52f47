import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Child, startChild } from '../child.ts';
import { redisUrlOf, startBenchStack } from '../database.ts';
import { type Bench, type BenchOptions, type Check, inTurns, type Measured, percentile, Recorder } from '../harness.ts';
import { machineTime } from '../queue/engine.ts';
import { drawShares } from './chart.ts';
import type { ProviderCounts } from './provider-process.ts';
import {
  type CallRecord,
  type ContenderName,
  contenderNames,
  flooder,
  lightPlayers,
  limits,
  type Player,
  type ProcessSettings,
  processes,
  waitingPlayers,
} from './scenario.ts';

export const fairness: Bench = {
  name: 'fairness',
  summary: 'the model governor beside a FIFO limiter and none: refusals, shares, waits, use of the budget',
  rounds: 3,
  run,
};

const metrics = {
  refused: 'a flooder and 19 light users: refused by the provider',
  failed: 'a flooder and 19 light users: calls of light users given up',
  lightWait: 'a flooder and 19 light users: p99 wait of light ones',
  used: 'a flooder and 19 light users: use of the budget',
  lightServed: 'a flooder and 19 light users: light demand that was served',
  alone: '19 light users alone: p99 wait',
  jain: "20 users who always wait: Jain's index of served tokens",
  waitingRefused: '20 users who always wait: refused by the provider',
  waitingUsed: '20 users who always wait: use of the budget',
} as const;

/** Lets budgets come to their steady state before anything counts, in milliseconds. */
const settleTime = limits.window;
/** They stay in it when only the users change. */
const changeTime = 3_000;
/** Light users alone use half of the budget: only estimates have to be learned. */
const aloneSettleTime = 6_000;
const commandDeadline = 60_000;

async function run(options: BenchOptions): Promise<Measured> {
  await using started = new AsyncDisposableStack();
  const stack = await startBenchStack(options.dataFolder, { redis: true, qdrant: false });
  started.defer(() => stack.stop());
  const redisUrl = redisUrlOf(stack);
  const provider = await startChild<{ url: string }>(new URL('provider-process.ts', import.meta.url), null);
  started.defer(() => provider.stop());
  const recorder = new Recorder();
  const shares = new Map<ContenderName, Map<string, number>>();
  // Less than one window says nothing.
  const measureTime = Math.max(options.seconds * 1_000, limits.window);

  await inTurns(options.rounds, contenderNames, async (contender, round) => {
    options.log(`Round ${round} of ${options.rounds}: ${contender}`);
    await using turn = new AsyncDisposableStack();
    await provider.ask('forget', null, commandDeadline);
    const settings: ProcessSettings = {
      contender,
      baseUrl: provider.ready.url,
      redisUrl,
      budget: `bench-${randomUUID()}`,
    };
    const script = new URL('worker-process.ts', import.meta.url);
    const workers = await Promise.all(Array.from({ length: processes }, () => startChild<null>(script, settings)));
    turn.defer(async () => void (await Promise.all(workers.map((worker) => worker.stop()))));
    const measure = (players: Player[], time: number, settle = settleTime) =>
      observe(provider, workers, players, time, settle);

    const alone = await measure(lightPlayers(false), measureTime / 3, aloneSettleTime);
    recorder.add(contender, metrics.alone, 'ms', percentile(waitsOf(alone.records), 0.99));

    const beside = await measure(lightPlayers(true), measureTime);
    const light = beside.records.filter(({ userId }) => userId !== flooder);
    recorder.add(contender, metrics.refused, 'requests', beside.counts.refused);
    recorder.add(contender, metrics.lightWait, 'ms', percentile(waitsOf(light), 0.99));
    recorder.add(contender, metrics.failed, 'calls', light.filter(({ sent }) => sent === null).length);
    recorder.add(contender, metrics.used, '%', useOf(beside.counts, beside.time));
    recorder.add(contender, metrics.lightServed, '%', servedShare(light, beside.time));
    shares.set(contender, tokensByUser(beside.records));

    const waiting = await measure(waitingPlayers(), measureTime, changeTime);
    recorder.add(contender, metrics.jain, '', jain(waitingPlayers(), waiting.records));
    recorder.add(contender, metrics.waitingRefused, 'requests', waiting.counts.refused);
    recorder.add(contender, metrics.waitingUsed, '%', useOf(waiting.counts, waiting.time));
    const figures = Object.values(metrics).map((metric) => recorder.values(contender, metric).at(-1)?.toFixed(3));
    options.log(`  ${figures.join(' ')}`);
  });
  const pictures = new Map([['fairness.svg', drawShares(shares, recorder, metrics)]]);
  return { series: recorder.series(), checks: judge(recorder), pictures };
}

/** Lets users call for a while, first until all is steady. @returns what was seen after that */
async function observe(
  provider: Child<unknown>,
  workers: readonly Child<null>[],
  players: Player[],
  time: number,
  settle: number,
): Promise<{ records: CallRecord[]; counts: ProviderCounts; time: number }> {
  const all = <Result>(command: string, payload: unknown): Promise<Result[]> =>
    Promise.all(workers.map((worker) => worker.ask<Result>(command, payload, commandDeadline)));
  await all('begin', players);
  await sleep(settle);
  await Promise.all([all('records', null), provider.ask('counts', null, commandDeadline)]);
  const begun = machineTime();
  await sleep(time);
  const counts = await provider.ask<ProviderCounts>('counts', null, commandDeadline);
  const lasted = machineTime() - begun;
  const records = (await all<CallRecord[]>('records', null)).flat();
  await all('end', null);
  await all('records', null);
  return { records, counts, time: lasted };
}

/** How long calls waited until the request left that was answered. A call that was given up waited for nothing. */
function waitsOf(records: readonly CallRecord[]): number[] {
  return records.map(({ asked, sent, ended }) => (sent ?? ended) - asked);
}

function useOf(counts: ProviderCounts, time: number): number {
  return (counts.tokens / ((limits.tokens / limits.window) * time)) * 100;
}

function servedShare(light: readonly CallRecord[], time: number): number {
  const [player] = lightPlayers(false);
  const asked = (time / (player?.interval ?? 1)) * processes * lightPlayers(false).length;
  return (light.filter(({ tokens }) => tokens > 0).length / asked) * 100;
}

function tokensByUser(records: readonly CallRecord[]): Map<string, number> {
  const tokens = new Map<string, number>();
  for (const record of records) {
    tokens.set(record.userId, (tokens.get(record.userId) ?? 0) + record.tokens);
  }
  return tokens;
}

/** 1 when all got the same, 1 divided by their number when one got all (Jain, Chiu and Hawe, 1984). */
function jain(players: readonly Player[], records: readonly CallRecord[]): number {
  const tokens = tokensByUser(records);
  const values = players.map(({ userId }) => tokens.get(userId) ?? 0);
  const sum = values.reduce((all, value) => all + value, 0);
  return sum ** 2 / (values.length * values.reduce((all, value) => all + value ** 2, 0));
}

function judge(recorder: Recorder): Check[] {
  const own = (metric: string): number => recorder.median('governor', metric);
  const refused = Math.max(
    ...recorder.values('governor', metrics.refused),
    ...recorder.values('governor', metrics.waitingRefused),
  );
  const index = Math.min(...recorder.values('governor', metrics.jain));
  const used = Math.min(own(metrics.used), own(metrics.waitingUsed));
  const wait = own(metrics.lightWait) / recorder.median('FIFO limiter', metrics.lightWait);
  return [
    { id: 'refused_by_provider', goal: '0', value: refused, unit: 'requests', ok: refused === 0 },
    { id: 'jain_index_of_waiting_users', goal: 'at least 0.98', value: index, unit: '', ok: index >= 0.98 },
    { id: 'use_of_budget', goal: 'at least 95 %', value: used, unit: '%', ok: used >= 95 },
    { id: 'light_wait_p99_vs_fifo', goal: 'at most 0.1', value: wait, unit: 'times', ok: wait <= 0.1 },
  ];
}
