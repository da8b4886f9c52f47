import { createDevelopmentKey, signDevelopmentToken } from '../../dev/identity.ts';
import { type Child, startChild } from '../child.ts';
import { createBenchDatabase, startBenchStack } from '../database.ts';
import { type Bench, type BenchOptions, type Check, inTurns, type Measured, percentile, Recorder } from '../harness.ts';
import { type BenchUser, type Mode, openUser } from './client.ts';
import { type ModelCall, mostAtOnce, type ServiceSettings } from './settings.ts';

const modes: readonly Mode[] = ['direct', 'orchestrated'];
const levels = [1, 10, mostAtOnce];
/** Most milliseconds over the model's time, of nearly all messages. */
const goals: Readonly<Record<Mode, number>> = { direct: 50, orchestrated: 150 };
/** Fewest messages of a level in a round, so that a high percentile means something. */
const fewestMessages = 20;

interface Place {
  readonly users: readonly BenchUser[];
  readonly model: Child<{ url: string }>;
  readonly recorder: Recorder;
  readonly seconds: number;
}

/** What messages cost beside the model: from the request until the end is heard, without the time that a model was at it. */
export const orchestration: Bench = {
  name: 'orchestration',
  summary: "our own overhead over the model's time: direct messages and plans of three tasks, 1, 10 and 50 at once",
  rounds: 3,
  run,
};

async function run(options: BenchOptions): Promise<Measured> {
  await using started = new AsyncDisposableStack();
  const stack = await startBenchStack(options.dataFolder, { redis: true, qdrant: false });
  started.defer(() => stack.stop());
  const database = await createBenchDatabase(stack, 'orchestration');
  started.defer(() => database.close());
  const key = await createDevelopmentKey();
  const start = async <Ready>(file: string, settings: unknown): Promise<Child<Ready>> => {
    const child = await startChild<Ready>(new URL(file, import.meta.url), settings);
    started.defer(() => child.stop());
    return child;
  };
  const model = await start<{ url: string }>('model-process.ts', null);
  const settings: ServiceSettings = {
    appUrl: database.appUrl,
    workerUrl: database.workerUrl,
    redisUrl: stack.redisUrl,
    modelUrl: model.ready.url,
    publicKey: JSON.stringify(key.publicKey),
  };
  const [api] = await Promise.all([
    start<{ url: string }>('api-process.ts', settings),
    start('worker-process.ts', settings),
  ]);
  options.log(`Signing ${mostAtOnce} users in…`);
  const users: BenchUser[] = [];
  for (let place = 0; place < mostAtOnce; place += 1) {
    const user = await openUser(api.ready.url, await signDevelopmentToken(key, `user ${place}`));
    started.defer(() => user.close());
    users.push(user);
  }
  const place: Place = { users, model, recorder: new Recorder(), seconds: options.seconds };
  options.log('Warming up…');
  for (const mode of modes) {
    await measure({ ...place, recorder: new Recorder(), seconds: 1 }, mode, 10);
  }
  const turns = modes.flatMap((mode) => levels.map((atOnce) => ({ mode, atOnce })));
  await inTurns(options.rounds, turns, async ({ mode, atOnce }, round) => {
    options.log(`Round ${round} of ${options.rounds}: ${mode}, ${atOnce} at once`);
    await measure(place, mode, atOnce);
  });
  return { series: place.recorder.series(), checks: judge(place.recorder) };
}

let marks = 0;

/** Sends so many messages at once, again and again, and records what they took beside the model. */
async function measure({ users, model, recorder, seconds }: Place, mode: Mode, atOnce: number): Promise<void> {
  const senders = users.slice(0, atOnce);
  const overheads: number[] = [];
  const end = performance.now() + seconds * 1_000;
  // What was asked of the model before belongs to nobody here.
  await model.ask('take', null, 10_000);
  while (overheads.length < fewestMessages || performance.now() < end) {
    await Promise.all(senders.map((user) => user.prepare(1)));
    const messages = await Promise.all(
      senders.map((user) => {
        marks += 1;
        return user.send(mode, `#m${marks}#`);
      }),
    );
    const calls = Map.groupBy(await model.ask<ModelCall[]>('take', null, 10_000), (call) => call.mark);
    overheads.push(...messages.map(({ mark, sent, heard }) => heard - sent - busyTime(calls.get(mark) ?? [])));
  }
  const name = `${atOnce} at once: time over the model's`;
  recorder.add(mode, `${name}, p50`, 'ms', percentile(overheads, 0.5));
  recorder.add(mode, `${name}, p95`, 'ms', percentile(overheads, 0.95));
}

/** How long at least one of the calls was under way. @throws Error for no calls: then nothing was measured */
function busyTime(calls: readonly ModelCall[]): number {
  if (calls.length === 0) {
    throw new Error('a message was answered without the model');
  }
  let busy = 0;
  let until = Number.NEGATIVE_INFINITY;
  for (const { start, end } of calls.toSorted((one, other) => one.start - other.start)) {
    busy += Math.max(0, end - Math.max(start, until));
    until = Math.max(until, end);
  }
  return busy;
}

function judge(recorder: Recorder): Check[] {
  return modes.flatMap((mode) =>
    levels.map((atOnce) => {
      const value = recorder.median(mode, `${atOnce} at once: time over the model's, p95`);
      return {
        id: `${mode}_p95_${atOnce}`,
        goal: `below ${goals[mode]} ms`,
        value,
        unit: 'ms',
        ok: value < goals[mode],
      };
    }),
  );
}
