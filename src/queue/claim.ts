import { type Statements, statement } from '../adapters/postgres.ts';
import type { Claim } from './task.ts';

const claim = statement<Claim & Record<string, unknown>>(
  `SELECT user_id AS "userId", task_id AS "taskId", attempt, kind FROM queue.claim($1, $2, $3)`,
);
const heartbeat = statement<Attempt & { isLost: boolean } & Record<string, unknown>>(
  `SELECT task_id AS "taskId", attempt, is_lost AS "isLost" FROM queue.heartbeat($1, $2::uuid[], $3::integer[])`,
);
const offer = statement(`SELECT queue.offer($1, $2, $3, $4)`);
const putBack = statement<{ released: number }>(`SELECT queue.put_back($1, $2::uuid[], $3::integer[], $4) AS released`);
const complete = statement<{ taskId: string }>(
  `SELECT task_id AS "taskId" FROM queue.complete($1, $2::uuid[], $3::integer[], $4)`,
);
const rescue = statement<{ rescued: number }>(
  `SELECT queue.rescue(make_interval(secs => $1::float8 / 1000), $2) AS rescued`,
);
const leads = statement<{ leads: boolean }>(
  `SELECT queue.leads($1, make_interval(secs => $2::float8 / 1000)) AS leads`,
);
const retire = statement<{ released: number }>(`SELECT queue.retire($1) AS released`);
const census = statement<Census & Record<string, unknown>>(`
  SELECT noun, state, amount::float8 AS amount, oldest_seconds AS "oldestSeconds"
  FROM queue.census(make_interval(secs => $1::float8 / 1000))`);
const stuck = statement<{ taskId: string; state: string; ageSeconds: number }>(`
  SELECT task_id AS "taskId", state, extract(epoch FROM age)::float8 AS "ageSeconds"
  FROM queue.stuck(make_interval(secs => $1::float8 / 1000), make_interval(secs => $2::float8 / 1000), $3)`);

/** One attempt at a task. */
export type Attempt = Pick<Claim, 'taskId' | 'attempt'>;

/** Where a worker and the table differ. */
export interface Differences {
  /** Attempts that the worker runs and that are no longer its own. */
  lost: Attempt[];
  /** Attempts that are the worker's own and that it does not run. A claim whose answer is under way looks so too. */
  forgotten: Attempt[];
}

const rescueBatch = 500;
const stuckBatch = 20;

/** Takes due tasks of the given kinds for up to `slots` free slots: of all users, in fair order, within every limit. */
export function claimTasks(
  database: Statements,
  workerId: string,
  slots: number,
  kinds: readonly string[],
): Promise<Claim[]> {
  return database.query(claim, [workerId, slots, kinds]);
}

/** What a worker takes unasked. */
export interface Offer {
  /** Tasks that it runs at once, those included that it has. */
  slots: number;
  kinds: readonly string[];
  /** Whose messages reach it; null takes the offer back. */
  reach: string | null;
}

/** Lets those who add tasks give them to the worker at once. Never waits for one of them. */
export async function offerSlots(database: Statements, workerId: string, given: Offer): Promise<void> {
  await database.query(offer, [workerId, given.slots, given.kinds, given.reach]);
}

/** Shows that the worker is alive. @returns where the table differs from the attempts that it runs */
export async function beat(database: Statements, workerId: string, running: readonly Attempt[]): Promise<Differences> {
  const rows = await database.query(heartbeat, [
    workerId,
    running.map((run) => run.taskId),
    running.map((run) => run.attempt),
  ]);
  return { lost: rows.filter((row) => row.isLost), forgotten: rows.filter((row) => !row.isLost) };
}

/**
 * Completes attempts of one worker at once, for tasks that tell nobody of their end: over all users without waiting, or of
 * the given user alone, whose locks it waits for.
 * @returns ids of tasks that could not be ended so and still run: others wait for them, or someone holds what it would not
 * wait for
 */
export async function completeAttempts(
  database: Statements,
  workerId: string,
  attempts: readonly Attempt[],
  waitingUserId: string | null = null,
): Promise<ReadonlySet<string>> {
  const left = await database.query(complete, [
    workerId,
    attempts.map((attempt) => attempt.taskId),
    attempts.map((attempt) => attempt.attempt),
    waitingUserId,
  ]);
  return new Set(left.map(({ taskId }) => taskId));
}

/** Queues tasks of a worker again that it does not run, and counts that as a crash where it is one. @returns how many. */
export async function putBackTasks(
  database: Statements,
  workerId: string,
  held: readonly Attempt[],
  isCrash: boolean,
): Promise<number> {
  const [row] = await database.query(putBack, [
    workerId,
    held.map((attempt) => attempt.taskId),
    held.map((attempt) => attempt.attempt),
    isCrash,
  ]);
  return row?.released ?? 0;
}

/** Puts tasks of workers silent for `lease` milliseconds, and retries that are due, back. @returns how many. */
export async function rescueTasks(database: Statements, lease: number): Promise<number> {
  const [row] = await database.query(rescue, [lease, rescueBatch]);
  return row?.rescued ?? 0;
}

/** Whether this worker is the one to do what one is enough for. For a moment two may be told so. */
export async function leadsUpkeep(database: Statements, workerId: string, lease: number): Promise<boolean> {
  const [row] = await database.query(leads, [workerId, lease]);
  return row?.leads ?? false;
}

/** Takes a stopping worker off the list and hands back what it still held. @returns how many tasks. */
export async function retireWorker(database: Statements, workerId: string): Promise<number> {
  const [row] = await database.query(retire, [workerId]);
  return row?.released ?? 0;
}

/** How much of something is open over all users, and how long its oldest has been, in seconds. */
export interface Census {
  noun: 'task' | 'approval' | 'worker';
  state: string;
  amount: number;
  oldestSeconds: number;
}

/** Counts what is open, for operators. A worker counts as alive within `lease` milliseconds of its last sign. */
export function takeCensus(database: Statements, lease: number): Promise<Census[]> {
  return database.query(census, [lease]);
}

/** Some of the tasks that run, or are due and wait for a worker, for longer than the limits in milliseconds. */
export function findStuckTasks(
  database: Statements,
  limits: { running: number; queued: number },
): Promise<{ taskId: string; state: string; ageSeconds: number }[]> {
  return database.query(stuck, [limits.running, limits.queued, stuckBatch]);
}
