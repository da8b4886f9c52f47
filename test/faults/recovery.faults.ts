import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { waitUntil } from '../../dev/process.ts';
import { createWatch } from '../queue/invariants.ts';
import { type Load, rawId, startLoad } from './load.ts';
import type { Part } from './part.ts';
import { type Row, summarize, writeReport } from './report.ts';
import { startWorld, type World } from './world.ts';

/** How long a server stays away, and load goes on before and after, in milliseconds. */
const faultLasts = 4_000;
const before = 1_500;
const after = 2_000;
/** Longest time for all tasks to be done after a fault: retries back off. */
const drainDeadline = 90_000;

let world: World;
const rows: Row[] = [];
let planned = 0;

beforeAll(async () => {
  world = await startWorld('.retinue/faults');
});
afterAll(async () => {
  await world.stop();
  // Figures of a part of the suite, or of one that failed, are not written down.
  if (rows.length === planned) {
    await writeReport(rows, new Date());
  }
});

interface Fault {
  name: string;
  part: (world: World) => Part;
}

const servers: Fault[] = [
  { name: 'Postgres', part: ({ postgres }) => postgres },
  { name: 'Redis', part: ({ redis }) => redis },
  { name: 'Qdrant', part: ({ qdrant }) => qdrant },
  { name: 'The model', part: ({ model }) => model },
];

const deeds: { name: string; doIt: (part: Part) => Promise<void> }[] = [
  {
    name: 'killed, 4 s away',
    doIt: async (part) => {
      await part.kill();
      await delay(faultLasts);
      await part.start();
    },
  },
  {
    name: 'paused for 4 s',
    doIt: async (part) => {
      part.pause();
      await delay(faultLasts);
      part.resume();
    },
  },
  {
    name: 'restarted',
    doIt: async (part) => {
      await part.stop();
      await part.start();
    },
  },
];

/** One after the other, the next one when the one before is up again. */
async function roll(parts: readonly Part[]): Promise<void> {
  for (const part of parts) {
    await part.stop();
    await part.start();
  }
}

/** Lets users work while the deed is done, and then holds what they were told against what is stored. */
async function underLoad(name: string, deed: () => Promise<void>): Promise<void> {
  const load = await startLoad(world, name);
  try {
    await delay(before);
    const begin = performance.now();
    await deed();
    const end = performance.now();
    const recovered = await load.recovered(end);
    const remembered = await load.remembered();
    await delay(after);
    await load.endSending();
    const drained = await untilDone(load);
    await expectNothingLost(load);
    rows.push(summarize(name, load.attempts, { begin, end, recovered, remembered, drained }, load.sent.size));
  } finally {
    load.stop();
  }
}

async function untilDone(load: Load): Promise<number> {
  const users = load.received.map(({ userId }) => userId);
  const isDone = async (): Promise<boolean> => {
    const [row] = await world.owner(
      `SELECT count(*)::int AS open FROM tasks
       WHERE user_id = ANY ($1) AND state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')`,
      [users],
    );
    return row?.['open'] === 0;
  };
  expect(await waitUntil(isDone, drainDeadline, 100), 'all tasks end').toBe(true);
  return performance.now();
}

async function expectNothingLost(load: Load): Promise<void> {
  const users = load.received.map(({ userId }) => userId);
  const stored = await world.owner(
    `SELECT messages.id, tasks.state,
       (SELECT count(*)::int FROM messages AS answer WHERE answer.task_id = tasks.id) AS answers
     FROM messages LEFT JOIN tasks ON tasks.user_id = messages.user_id AND tasks.message_id = messages.id
     WHERE messages.user_id = ANY ($1) AND messages.role = 'USER'`,
    [users],
  );
  // Exactly what was acknowledged: a message more would be one that was stored twice for one key.
  expect(stored.map(({ id }) => id).sort()).toEqual([...load.sent].map(rawId).sort());
  expect(stored.filter(({ state, answers }) => state !== 'COMPLETED' || answers !== 1)).toEqual([]);
  const faults = await createWatch(world).look();
  expect(faults).toEqual([]);

  for (const { userId, sequences } of load.received) {
    const [row] = await world.owner('SELECT event_sequence::int AS last FROM users WHERE id = $1', [userId]);
    const last = Number(row?.['last']);
    await waitUntil(() => (sequences.at(-1) ?? 0) >= last, 15_000, 50);
    // From the stream's beginning on: each event once, and in order.
    const first = sequences[0] ?? last + 1;
    expect(sequences).toEqual(Array.from({ length: last - first + 1 }, (_, place) => first + place));
  }
}

function plan(name: string, deed: () => Promise<void>): void {
  planned += 1;
  it(name, () => underLoad(name, deed));
}

describe('users lose nothing and are soon served again, when', () => {
  for (const { name, part } of servers) {
    for (const deed of deeds) {
      plan(`${name} ${deed.name}`, () => deed.doIt(part(world)));
    }
  }
  plan('Qdrant stopped, its disk wiped, and started', async () => {
    await world.qdrant.stop();
    await world.wipeQdrant();
    await world.qdrant.start();
  });
  for (const [name, parts] of [
    ['API', ({ apis }: World) => apis],
    ['Worker', ({ workers }: World) => workers],
  ] as const) {
    plan(`${name} process killed, 4 s away`, async () => {
      const [first] = parts(world);
      await first?.kill();
      await delay(faultLasts);
      await first?.start();
    });
    plan(`${name} process paused for 4 s`, async () => {
      const [first] = parts(world);
      first?.pause();
      await delay(faultLasts);
      first?.resume();
    });
    plan(`${name} processes rolled, one by one`, () => roll(parts(world)));
  }
  for (const [words, milliseconds] of [
    ['an hour ahead', 3_600_000],
    ['an hour behind', -3_600_000],
  ] as const) {
    plan(`A third worker's clock is ${words}, for 4 s`, async () => {
      const worker = await world.startSkewedWorker(milliseconds);
      await delay(faultLasts);
      await worker.stop();
    });
  }
});
