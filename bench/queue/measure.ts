import { setTimeout as sleep } from 'node:timers/promises';
import { percentile, type Recorder } from '../harness.ts';
import { type Job, machineTime, type Producer, type Run } from './engine.ts';
import type { EngineName } from './engines.ts';
import { burstJobs, floodJobs, lightJobs, singleJob, spreadJobs } from './population.ts';
import type { Workers } from './workers.ts';

/** An engine at work: it has its turn, and nobody else works. */
export interface Turn {
  readonly who: EngineName;
  readonly producer: Producer;
  readonly workers: Workers;
  readonly recorder: Pick<Recorder, 'add'>;
  /** Tasks of one measurement of throughput. */
  readonly tasks: number;
}

/** The names of the metrics that checks look at. */
export const metrics = {
  startP50: 'start latency on an idle system: p50',
  startP99: 'start latency on an idle system: p99',
  throughput: 'no-op throughput',
  limitedThroughput: 'throughput with limit 3, 200 agents, 5 ms tasks',
  mostRunning: 'most running of an agent, limit 3',
  lightP50: 'wait of a light user while another floods: p50',
  lightP99: 'wait of a light user while another floods: p99',
  lightMost: 'wait of a light user while another floods: longest',
  lightP50ByOrder: 'wait of a light user by order alone, no limit per user: p50',
  lightP99ByOrder: 'wait of a light user by order alone, no limit per user: p99',
  recovery: 'recovery after SIGKILL of a worker',
} as const;

export const agentLimit = 3;
const startSamples = 80;
/** Time between two tasks of an idle system, in milliseconds; a part of it is random, so that no timer falls in step. */
const startInterval = 25;
const limitedTaskTime = 5;
const floodTaskTime = 100;
const floodTasks = 1_000;
const lightTasks = 20;
/** The light user sends one task after the other, in milliseconds. */
const lightInterval = 25;
const deadline = 60_000;

/** Measures the engine in everything but recovery. */
export async function measure(turn: Turn): Promise<void> {
  const { who, producer, workers, recorder } = turn;
  await producer.clear();
  await workers.begin({ agentLimit: null, taskTime: 0 });
  await measureStart(turn);
  await measureThroughput(turn);
  await workers.end();
  await producer.clear();
  await workers.begin({ agentLimit, taskTime: limitedTaskTime });
  await measureLimited(turn);
  await workers.end();
  await producer.clear();
  const waits = await measureLightUser(turn);
  recorder.add(who, metrics.lightP50, 'ms', percentile(waits, 0.5));
  recorder.add(who, metrics.lightP99, 'ms', percentile(waits, 0.99));
  recorder.add(who, metrics.lightMost, 'ms', Math.max(...waits));
  if (producer.setUserLimit !== undefined) {
    // The peers know no limit of a user. Without it the flood takes all slots, and nobody is quicker than the next free one.
    await producer.setUserLimit(true);
    const waitsByOrder = await measureLightUser(turn);
    await producer.setUserLimit(false);
    recorder.add(who, metrics.lightP50ByOrder, 'ms', percentile(waitsByOrder, 0.5));
    recorder.add(who, metrics.lightP99ByOrder, 'ms', percentile(waitsByOrder, 0.99));
  }
}

async function measureStart({ who, producer, workers, recorder }: Turn): Promise<void> {
  const sent = new Map<string, number>();
  for (let place = 0; place < startSamples; place += 1) {
    await sleep(startInterval * (0.75 + Math.random() / 2));
    const before = machineTime();
    sent.set(await producer.enqueue(singleJob(), false), before);
  }
  await workers.until('ended', startSamples, deadline);
  const waits = waitsOf(await workers.runs(), sent);
  recorder.add(who, metrics.startP50, 'ms', percentile(waits, 0.5));
  recorder.add(who, metrics.startP99, 'ms', percentile(waits, 0.99));
}

async function measureThroughput(turn: Turn): Promise<void> {
  const { perSecond } = await runAll(turn, spreadJobs(turn.tasks), false);
  turn.recorder.add(turn.who, metrics.throughput, 'tasks/s', perSecond);
}

async function measureLimited(turn: Turn): Promise<void> {
  const jobs = burstJobs(turn.tasks);
  const { perSecond, runs, keys } = await runAll(turn, jobs, true);
  const agents = new Map(jobs.map((job, place) => [keys[place] ?? '', job.agent]));
  turn.recorder.add(turn.who, metrics.limitedThroughput, 'tasks/s', perSecond);
  turn.recorder.add(turn.who, metrics.mostRunning, 'tasks', mostAtOnce(runs, agents));
}

/** @returns waits of a user who sends one task after the other while another user's tasks wait */
async function measureLightUser({ producer, workers }: Turn): Promise<number[]> {
  await workers.begin({ agentLimit, taskTime: floodTaskTime });
  await producer.enqueueAll(floodJobs(floodTasks), true);
  await workers.until('started', 1, deadline);
  const sent = new Map<string, number>();
  for (const job of lightJobs(lightTasks)) {
    await sleep(lightInterval);
    const before = machineTime();
    sent.set(await producer.enqueue(job, true), before);
  }
  const found: Run[] = [];
  const end = machineTime() + deadline;
  while (found.length < lightTasks && machineTime() < end) {
    await sleep(lightInterval);
    found.push(...(await workers.runs()).filter((run) => sent.has(run.key)));
  }
  await workers.end();
  await producer.clear();
  return waitsOf(found, sent);
}

/** Adds tasks at once and waits until all are stored as ended. Time counts from the start of the first. */
async function runAll(
  { who, producer, workers }: Turn,
  jobs: readonly Job[],
  isLimited: boolean,
): Promise<{ perSecond: number; runs: Run[]; keys: string[] }> {
  const keys = await producer.enqueueAll(jobs, isLimited);
  await workers.until('ended', jobs.length, deadline);
  const late = machineTime() + deadline;
  let end = machineTime();
  while ((await producer.unfinished()) > 0) {
    if (end > late) {
      throw new Error(`${who}: tasks that ran are not stored as ended`);
    }
    end = machineTime();
  }
  const runs = await workers.runs();
  const start = runs.reduce((first, run) => Math.min(first, run.start), Number.POSITIVE_INFINITY);
  if (new Set(runs.map((run) => run.key)).size !== jobs.length) {
    throw new Error(`${who}: of ${jobs.length} tasks ${runs.length} runs were seen`);
  }
  return { perSecond: (jobs.length / (end - start)) * 1_000, runs, keys };
}

/** From the moment at which a task was handed in to the start of its first run. @throws Error when one never ran */
function waitsOf(runs: readonly Run[], sent: ReadonlyMap<string, number>): number[] {
  const starts = new Map(runs.toSorted((a, b) => b.start - a.start).map((run) => [run.key, run.start]));
  return [...sent].map(([key, time]) => {
    const start = starts.get(key);
    if (start === undefined) {
      throw new Error('a task never ran');
    }
    return start - time;
  });
}

/** The most runs of one agent at the same moment. */
export function mostAtOnce(runs: readonly Run[], agents: ReadonlyMap<string, number>): number {
  const changes = runs.flatMap(({ key, start, end }) => {
    const agent = agents.get(key) ?? -1;
    return [
      { agent, time: start, step: 1 },
      { agent, time: end ?? Number.POSITIVE_INFINITY, step: -1 },
    ];
  });
  // Ends first, so that a run that starts as another ends is not counted beside it.
  changes.sort((a, b) => a.time - b.time || a.step - b.step);
  const running = new Map<number, number>();
  let most = 0;
  for (const { agent, step } of changes) {
    const now = (running.get(agent) ?? 0) + step;
    running.set(agent, now);
    most = Math.max(most, now);
  }
  return most;
}
