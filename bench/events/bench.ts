import { setTimeout as sleep } from 'node:timers/promises';
import { createDevelopmentKey, developmentIssuer, signDevelopmentToken } from '../../dev/identity.ts';
import { type Child, startChild } from '../child.ts';
import { type BenchDatabase, createBenchDatabase, redisUrlOf, startBenchStack } from '../database.ts';
import { type Bench, type BenchOptions, type Check, inTurns, type Measured, percentile, Recorder } from '../harness.ts';
import type {
  OpenReaders,
  Reader,
  Received,
  ServerMemory,
  ServerReady,
  ServerSettings,
  WriteEvents,
} from './settings.ts';

interface Workload {
  readonly name: string;
  readonly users: number;
  readonly connectionsPerUser: number;
  /** Events of each user in a second. */
  readonly rate: number;
}

interface Place {
  readonly settings: ServerSettings;
  readonly readers: readonly Reader[];
  readonly clients: readonly Child<null>[];
  readonly writer: Child<null>;
  readonly recorder: Recorder;
  readonly options: BenchOptions;
}

const retinue = 'Retinue';
const yoga = 'Yoga subscriptions';
const bare = 'floor: bare node:http';
const contenders = [
  { who: retinue, file: 'retinue.ts' },
  { who: yoga, file: 'yoga.ts' },
  { who: bare, file: 'bare.ts' },
] as const;

const oneUser: Workload = { name: '1,000 of one user, 20/s', users: 1, connectionsPerUser: 1_000, rate: 20 };
const many: Workload = { name: '3,000 of 30 users, 2/s each', users: 30, connectionsPerUser: 100, rate: 2 };
const most: Workload = { name: '10,000 of 100 users, 1/s each', users: 100, connectionsPerUser: 100, rate: 1 };
const workloads = [oneUser, many, most];

const metric = {
  delivered: (workload: Workload) => `${workload.name}: delivered`,
  p50: (workload: Workload) => `${workload.name}: p50`,
  p99: (workload: Workload) => `${workload.name}: p99`,
  cpu: (workload: Workload) => `${workload.name}: node CPU`,
  memory: (workload: Workload) => `${workload.name}: memory`,
};

const clientProcesses = 2;
/**
 * Opened and closed so many times before a measurement: what a process needs once, compiled code above all, is not counted
 * as a connection's.
 */
const warmUpConnections = 500;
const warmUpTimes = 4;
const commandDeadline = 300_000;
/** Longest wait for what is still on its way after the last event, in milliseconds. */
const drain = 5_000;

export const events: Bench = {
  name: 'events',
  summary: "event streams to thousands of readers, beside Yoga's own subscriptions and a bare node:http server",
  rounds: 3,
  run,
};

async function run(options: BenchOptions): Promise<Measured> {
  await using started = new AsyncDisposableStack();
  const stack = await startBenchStack(options.dataFolder, { redis: true, qdrant: false });
  started.defer(() => stack.stop());
  const redisUrl = redisUrlOf(stack);
  const database = await createBenchDatabase(stack, 'events');
  started.defer(() => database.close());
  const key = await createDevelopmentKey();
  const settings = { databaseUrl: database.appUrl, redisUrl, publicKey: JSON.stringify(key.publicKey) };
  const readers = await addUsers(database, Math.max(...workloads.map(({ users }) => users)), (subject) =>
    signDevelopmentToken(key, subject),
  );
  const start = async (file: string): Promise<Child<null>> => {
    const child = await startChild<null>(new URL(file, import.meta.url), settings);
    started.defer(() => child.stop());
    return child;
  };
  const clients: Child<null>[] = [];
  for (let number = 0; number < clientProcesses; number += 1) {
    clients.push(await start('readers.ts'));
  }
  const place: Place = {
    settings,
    readers,
    clients,
    writer: await start('writer.ts'),
    recorder: new Recorder(),
    options,
  };
  for (const workload of workloads) {
    // Far past what it can keep up with, its queue alone would take longer than the whole run.
    const able = contenders.filter(({ who }) => who !== yoga || workload === oneUser || workload === many);
    await inTurns(options.rounds, able, async ({ who, file }, round) => {
      options.log(`${workload.name}, round ${round} of ${options.rounds}: ${who}`);
      await measure(place, workload, who, file);
    });
  }
  return { series: place.recorder.series(), checks: judge(place.recorder) };
}

/** Users whose token names them by their id, so that a peer without a database knows their channel. */
async function addUsers(
  database: BenchDatabase,
  count: number,
  sign: (subject: string) => Promise<string>,
): Promise<Reader[]> {
  const rows = await database.owner<{ id: string }>(
    `INSERT INTO users (id, issuer, subject)
     SELECT id, $1, id::text FROM (SELECT uuidv7() AS id FROM generate_series(1, $2::int)) AS made RETURNING id`,
    [developmentIssuer, count],
  );
  await database.owner(`INSERT INTO orchestrators (user_id, name, instructions) SELECT id, 'none', 'none' FROM users`);
  return Promise.all(rows.map(async ({ id }) => ({ userId: id, token: await sign(id) })));
}

/** A server of its own for each turn: its memory is that of these connections. */
async function measure(place: Place, workload: Workload, who: string, file: string): Promise<void> {
  const { settings, clients, writer, recorder, options } = place;
  const server = await startChild<ServerReady>(new URL(file, import.meta.url), settings);
  try {
    const users = place.readers.slice(0, workload.users);
    const connections = workload.users * workload.connectionsPerUser;
    const warmUp = users.slice(0, 1);
    for (let times = 0; times < warmUpTimes; times += 1) {
      await open(
        clients,
        server.ready.url,
        Array.from({ length: warmUpConnections }, () => warmUp[0] ?? { userId: '', token: '' }),
      );
      await writer.ask(
        'write',
        { userIds: warmUp.map(idOf), rate: 20, seconds: 1 } satisfies WriteEvents,
        commandDeadline,
      );
      await askAll(clients, 'close', null);
      await sleep(500);
    }
    const before = await server.ask<ServerMemory>('memory', null, commandDeadline);
    const wanted = Array.from(
      { length: connections },
      (_, number) => users[number % users.length] ?? { userId: '', token: '' },
    );
    await open(clients, server.ready.url, wanted);
    await sleep(500);
    const after = await server.ask<ServerMemory>('memory', null, commandDeadline);
    recorder.add(
      who,
      metric.memory(workload),
      'kB/connection',
      (after.resident - before.resident) / connections / 1_000,
    );

    await askAll(clients, 'reset', null);
    const cpuBefore = await readCpu(server);
    const written = await writer.ask<number>(
      'write',
      { userIds: users.map(idOf), rate: workload.rate, seconds: options.seconds } satisfies WriteEvents,
      options.seconds * 1_000 + commandDeadline,
    );
    const expected = written * workload.connectionsPerUser;
    const received = await collect(clients, expected);
    const arrived = sumOf(received);
    const latencies = received.flatMap((one) => one.latencies);
    const cpu = (await readCpu(server)) - cpuBefore;
    // One that lags behind went on delivering until it answered.
    const paidFor = sumOf(await askAll<Received>(clients, 'received', null));
    recorder.add(who, metric.delivered(workload), '%', (100 * arrived) / expected);
    recorder.add(who, metric.p50(workload), 'ms', percentile(latencies, 0.5));
    recorder.add(who, metric.p99(workload), 'ms', percentile(latencies, 0.99));
    recorder.add(who, metric.cpu(workload), 'µs/delivery', (1_000 * cpu) / paidFor);
    options.log(
      `  ${arrived} of ${expected} delivered, p99 ${percentile(latencies, 0.99).toFixed(1)} ms, ` +
        `${((1_000 * cpu) / paidFor).toFixed(1)} µs each, ${((after.resident - before.resident) / connections / 1_000).toFixed(1)} kB a connection`,
    );
    await askAll(clients, 'close', null);
  } finally {
    await server.stop();
  }
}

async function open(clients: readonly Child<null>[], url: string, readers: readonly Reader[]): Promise<void> {
  await Promise.all(
    clients.map((client, place) =>
      client.ask(
        'open',
        { url, readers: readers.filter((_, number) => number % clients.length === place) } satisfies OpenReaders,
        commandDeadline,
      ),
    ),
  );
}

/** Waits for what is on its way: until all is there, or nothing more comes in time. */
async function collect(clients: readonly Child<null>[], expected: number): Promise<Received[]> {
  const end = performance.now() + drain;
  for (;;) {
    const received = await askAll<Received>(clients, 'received', null);
    const arrived = sumOf(received);
    if (arrived >= expected || performance.now() > end) {
      return received;
    }
    await sleep(100);
  }
}

function askAll<Result>(clients: readonly Child<null>[], command: string, payload: unknown): Promise<Result[]> {
  return Promise.all(clients.map((client) => client.ask<Result>(command, payload, commandDeadline)));
}

/** A server that is far behind answers late. */
function readCpu(server: Child<ServerReady>): Promise<number> {
  return server.ask<number>('cpu', null, commandDeadline);
}

function sumOf(received: readonly Received[]): number {
  return received.reduce((sum, { events: count }) => sum + count, 0);
}

function idOf({ userId }: Reader): string {
  return userId;
}

function judge(recorder: Recorder): Check[] {
  const own = (name: string): number => recorder.median(retinue, name);
  const p99 = own(metric.p99(oneUser));
  const cpu = own(metric.cpu(oneUser)) / recorder.median(bare, metric.cpu(oneUser));
  const memory = Math.max(own(metric.memory(oneUser)), own(metric.memory(most)));
  const delivered = Math.min(
    ...[oneUser, many, most].flatMap((workload) => recorder.values(retinue, metric.delivered(workload))),
  );
  return [
    { id: 'p99_of_1000_connections', goal: 'below 100 ms', value: p99, unit: 'ms', ok: p99 < 100 },
    { id: 'cpu_per_delivery_vs_bare_server', goal: 'at most 1', value: cpu, unit: 'times', ok: cpu <= 1 },
    { id: 'memory_per_connection', goal: 'below 20 kB', value: memory, unit: 'kB', ok: memory < 20 },
    { id: 'delivered_up_to_10000_connections', goal: 'all', value: delivered, unit: '%', ok: delivered === 100 },
  ];
}
