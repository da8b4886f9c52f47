import { createDevelopmentKey, signDevelopmentToken } from '../../dev/identity.ts';
import { type Child, startChild } from '../child.ts';
import { createBenchDatabase, startBenchStack } from '../database.ts';
import { type Bench, type BenchOptions, type Check, type Measured, Recorder } from '../harness.ts';
import type { Memory, ServiceSettings } from './settings.ts';
import type { UsersSettings, WindowResult } from './users-process.ts';

const users = 1_000;
/** Two, so that the users' own work is not what is measured. */
const userProcesses = 2;
const signUpDeadline = 300_000;
const settleDeadline = 90_000;
const memoryDeadline = 30_000;

export const load: Bench = {
  name: 'load',
  summary: '1,000 users at once who read, send messages and follow their events: errors, latencies, memory over time',
  rounds: 3,
  run,
};

/** A round is a window of one long run: what matters is whether the last one is like the first. */
async function run(options: BenchOptions): Promise<Measured> {
  await using started = new AsyncDisposableStack();
  const stack = await startBenchStack(options.dataFolder, { redis: true, qdrant: false });
  started.defer(() => stack.stop());
  const database = await createBenchDatabase(stack, 'load');
  started.defer(() => database.close());
  const start = async <Ready>(script: string, settings: unknown): Promise<Child<Ready>> => {
    const child = await startChild<Ready>(new URL(script, import.meta.url), settings);
    started.defer(() => child.stop());
    return child;
  };
  const model = await start<{ url: string; key: string }>('model-process.ts', null);
  const key = await createDevelopmentKey();
  const settings: ServiceSettings = {
    appUrl: database.appUrl,
    workerUrl: database.workerUrl,
    redisUrl: stack.redisUrl,
    modelUrl: model.ready.url,
    modelKey: model.ready.key,
    publicKey: JSON.stringify(key.publicKey),
  };
  const worker = await start<null>('worker-process.ts', settings);
  const api = await start<{ url: string }>('api-process.ts', settings);

  const tokens = await Promise.all(
    Array.from({ length: users }, (_, number) => signDevelopmentToken(key, `user ${number}`)),
  );
  const crowds = await Promise.all(
    Array.from({ length: userProcesses }, (_, place) =>
      start<null>('users-process.ts', {
        url: api.ready.url,
        tokens: tokens.filter((_token, number) => number % userProcesses === place),
      } satisfies UsersSettings),
    ),
  );
  options.log(`${users} users sign up and open their streams`);
  await Promise.all(crowds.map((crowd) => crowd.ask('signUp', null, signUpDeadline)));
  // Everybody has begun by then, and what is compiled and cached at first use is.
  await ask(crowds, 15);

  const recorder = new Recorder();
  for (let round = 1; round <= options.rounds; round += 1) {
    const windows = await ask(crowds, options.seconds);
    const memory = {
      API: await api.ask<Memory>('memory', null, memoryDeadline),
      worker: await worker.ask<Memory>('memory', null, memoryDeadline),
    };
    record(recorder, windows, memory);
    options.log(`window ${round} of ${options.rounds}: ${describe(windows)}`);
  }
  const unanswered = await Promise.all(crowds.map((crowd) => crowd.ask<number>('settle', null, settleDeadline)));
  return {
    series: recorder.series(),
    checks: checksOf(
      recorder,
      unanswered.reduce((sum, count) => sum + count, 0),
    ),
  };
}

function ask(crowds: readonly Child<null>[], seconds: number): Promise<WindowResult[]> {
  return Promise.all(crowds.map((crowd) => crowd.ask<WindowResult>('measure', seconds, seconds * 1_000 + 60_000)));
}

const who = 'Retinue';
const mebibyte = 2 ** 20;

function record(recorder: Recorder, windows: readonly WindowResult[], memory: Record<'API' | 'worker', Memory>): void {
  const sum = (read: (window: WindowResult) => number): number =>
    windows.reduce((total, window) => total + read(window), 0);
  const seconds = windows[0]?.seconds ?? 1;
  const failures = sum((window) => Object.values(window.failures).reduce((total, count) => total + count, 0));
  const requests = sum(({ queries, messages }) => queries + messages) + failures;
  recorder.add(who, 'requests', 'requests/s', requests / seconds);
  recorder.add(who, 'failed requests', '%', (100 * failures) / Math.max(requests, 1));
  recorder.add(who, 'events delivered', 'events/s', sum(({ events }) => events) / seconds);
  recorder.add(
    who,
    'streams that ended and were resumed',
    'streams',
    sum(({ streamsLost }) => streamsLost),
  );
  for (const [name, read] of [
    ['query', ({ queryLatency }: WindowResult) => queryLatency],
    ['sending of a message', ({ messageLatency }: WindowResult) => messageLatency],
    ['message to whole answer', ({ answerLatency }: WindowResult) => answerLatency],
  ] as const) {
    for (const rank of ['p50', 'p95', 'p99'] as const) {
      // Halves of the users can't be put together exactly: the worse half is the one that is told.
      recorder.add(who, `${name}: ${rank}`, 'ms', Math.max(...windows.map((window) => read(window)[rank])));
    }
  }
  for (const [name, { resident, live }] of Object.entries(memory)) {
    recorder.add(who, `memory of the ${name} process`, 'MiB', resident / mebibyte);
    recorder.add(who, `live memory of the ${name} process`, 'MiB', live / mebibyte);
  }
}

function checksOf(recorder: Recorder, unanswered: number): Check[] {
  const growth = (name: string): number => {
    const values = recorder.values(who, `live memory of the ${name} process`);
    return (values.at(-1) ?? Number.NaN) / (values[0] ?? Number.NaN);
  };
  const failed = Math.max(...recorder.values(who, 'failed requests'));
  const lost = recorder.values(who, 'streams that ended and were resumed').reduce((sum, count) => sum + count, 0);
  return [
    { id: 'failed-requests', goal: 'none of 1,000 users’ requests fails', value: failed, unit: '%', ok: failed === 0 },
    { id: 'unanswered', goal: 'every message is answered', value: unanswered, unit: 'messages', ok: unanswered === 0 },
    { id: 'streams-lost', goal: 'no stream ends by itself', value: lost, unit: 'streams', ok: lost === 0 },
    ...(['API', 'worker'] as const).map((name) => ({
      id: `memory-${name.toLowerCase()}`,
      goal: `live memory of the ${name} process at the end is at most 1.15 times that after the first window`,
      value: growth(name),
      unit: 'times',
      ok: growth(name) <= 1.15,
    })),
  ];
}

function describe(windows: readonly WindowResult[]): string {
  const failures: Record<string, number> = {};
  for (const [what, count] of windows.flatMap((window) => Object.entries(window.failures))) {
    failures[what] = (failures[what] ?? 0) + count;
  }
  const done = windows.reduce((sum, { queries, messages }) => sum + queries + messages, 0);
  return `${done} requests, failures ${JSON.stringify(failures)}`;
}
