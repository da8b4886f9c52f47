import { setTimeout as sleep } from 'node:timers/promises';
import { createDevelopmentKey, signDevelopmentToken } from '../../dev/identity.ts';
import { type Child, startChild } from '../child.ts';
import { createBenchDatabase, startBenchStack } from '../database.ts';
import { type Bench, type BenchOptions, type Check, inTurns, type Measured, percentile, Recorder } from '../harness.ts';
import { measureInQuiet } from '../quiet.ts';
import { type Answered, type BenchUser, type Mode, openUser } from './client.ts';
import { type FloorSettings, longestAnswer, type ModelCall, mostAtOnce, type ServiceSettings } from './settings.ts';

const modes: readonly Mode[] = ['direct', 'orchestrated'];
const levels = [1, 10, mostAtOnce];
/** Most milliseconds over the model's time, of nearly all messages. */
const goals: Readonly<Record<Mode, number>> = { direct: 50, orchestrated: 150 };
/** Fewest messages of a level in a round, so that a high percentile means something. */
const fewestMessages = 20;
/** Each sender sends this often at least: the first message finds nobody else at work yet. */
const fewestEach = 2;
/** Bursts before the first measurement of a mode: a service that runs for days has its connections and its code warm. */
const warmUps = 20;
/** How many answers of the model a message takes one after the other: the plan, two tasks at once, the third, the team's answer. */
const answersInRow: Readonly<Record<Mode, number>> = { direct: 1, orchestrated: 4 };

/** Who is measured, by which senders. */
interface Subject {
  readonly name: string;
  readonly mode: Mode;
  readonly users: readonly BenchUser[];
}

/** What messages took beside the model, in milliseconds. */
interface Overheads {
  readonly p50: number;
  readonly p95: number;
}

interface Place {
  readonly model: Child<{ url: string }>;
  readonly recorder: Recorder;
  readonly seconds: number;
  readonly log: (line: string) => void;
}

/**
 * What messages cost beside the model: from the request until the end is heard, without the time that a model was at it. The
 * floor does as little for the same senders as can be done: what it takes is the machine's.
 */
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
  await database.owner(`
    CREATE TABLE floor_messages (id uuid PRIMARY KEY, sender text NOT NULL, role text NOT NULL, content text NOT NULL,
      created_at timestamptz NOT NULL DEFAULT now())`);
  const floorSettings: FloorSettings = { databaseUrl: database.ownerUrl, modelUrl: model.ready.url };
  const floor = await start<{ url: string }>('floor-process.ts', floorSettings);
  options.log(`Signing ${mostAtOnce} users in…`);
  const openUsers = async (url: string): Promise<BenchUser[]> => {
    const users: BenchUser[] = [];
    for (let place = 0; place < mostAtOnce; place += 1) {
      const user = await openUser(url, await signDevelopmentToken(key, `user ${place}`));
      started.defer(() => user.close());
      users.push(user);
    }
    return users;
  };
  const users = await openUsers(api.ready.url);
  const subjects: readonly Subject[] = [
    ...modes.map((mode) => ({ name: mode, mode, users })),
    { name: 'floor: bare node:http and pg', mode: 'direct', users: await openUsers(floor.ready.url) },
  ];
  const place: Place = { model, recorder: new Recorder(), seconds: options.seconds, log: options.log };
  options.log('Warming up…');
  for (const subject of subjects) {
    for (let times = 0; times < warmUps; times += 1) {
      await measureBurst(place, subject);
    }
    await measureSteady(place, subject, mostAtOnce);
  }
  const turns = subjects.flatMap((subject) => levels.map((atOnce) => ({ subject, atOnce })));
  await inTurns(options.rounds, turns, async ({ subject, atOnce }, round) => {
    options.log(`Round ${round} of ${options.rounds}: ${subject.name}, ${atOnce} at once`);
    await record(place, subject, `${atOnce} at once`, () => measureSteady(place, subject, atOnce));
    if (atOnce === mostAtOnce) {
      await record(place, subject, `${atOnce} in the same instant`, () => measureBurst(place, subject));
    }
  });
  return { series: place.recorder.series(), checks: judge(place.recorder) };
}

let marks = 0;

/** Keeps so many messages under way: each sender sends its next one when the last was answered. */
async function measureSteady(place: Place, { mode, users }: Subject, atOnce: number): Promise<Overheads> {
  const each = Math.max(fewestEach, Math.ceil(fewestMessages / atOnce));
  const senders = users.slice(0, atOnce);
  await Promise.all(senders.map((user) => user.prepare()));
  const end = performance.now() + place.seconds * 1_000;
  return await measure(place, (add) =>
    senders.map(async (user) => {
      // Users do not send in step: they begin at any time of a message.
      await sleep(Math.random() * longestAnswer * answersInRow[mode]);
      for (let sent = 0; sent < each || performance.now() < end; sent += 1) {
        add(await sendOne(user, mode));
      }
    }),
  );
}

/** The worst that senders can do: all of them send in the same instant. */
async function measureBurst(place: Place, { mode, users }: Subject): Promise<Overheads> {
  await Promise.all(users.map((user) => user.prepare()));
  return await measure(place, (add) => users.map(async (user) => add(await sendOne(user, mode))));
}

function sendOne(user: BenchUser, mode: Mode): Promise<Answered> {
  marks += 1;
  return user.send(mode, `#m${marks}#`);
}

/** Lets senders work. @returns what their messages took beside the model */
async function measure(
  { model }: Place,
  work: (add: (message: Answered) => void) => Promise<void>[],
): Promise<Overheads> {
  // What was asked of the model before belongs to nobody here.
  await model.ask('take', null, 10_000);
  const messages: Answered[] = [];
  await Promise.all(work((message) => void messages.push(message)));
  const calls = Map.groupBy(await model.ask<ModelCall[]>('take', null, 10_000), (call) => call.mark);
  const overheads = messages.map(({ mark, sent, heard }) => heard - sent - busyTime(calls.get(mark) ?? []));
  return { p50: percentile(overheads, 0.5), p95: percentile(overheads, 0.95) };
}

/** Measures while the machine is left in quiet, and writes down what was kept of it and what was not. */
async function record(
  { recorder, log }: Place,
  { name }: Subject,
  what: string,
  measureOnce: () => Promise<Overheads>,
): Promise<void> {
  const { result, taken, setAside } = await measureInQuiet(measureOnce);
  log(`  the host took ${(taken * 100).toFixed(1)} %, ${setAside.length} set aside`);
  recorder.add(name, `${what}: time over the model's, p50`, 'ms', result.p50);
  recorder.add(name, `${what}: time over the model's, p95`, 'ms', result.p95);
  recorder.add(name, `${what}: processor time that the host took`, '%', taken * 100);
  for (const { p95 } of setAside) {
    recorder.add(name, `${what}: p95 of what was set aside`, 'ms', p95);
  }
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
