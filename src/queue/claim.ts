import { type Database, statement } from '../adapters/postgres.ts';
import type { Claim } from './task.ts';

const claim = statement<Claim & Record<string, unknown>>(
  `SELECT user_id AS "userId", task_id AS "taskId", attempt FROM queue.claim($1, $2)`,
);
const heartbeat = statement(`SELECT queue.heartbeat($1)`);
const rescue = statement<{ rescued: number }>(`SELECT queue.rescue(make_interval(secs => $1), $2) AS rescued`);
const retire = statement(`SELECT queue.retire($1)`);

/** How long a silent worker keeps its tasks, in seconds. */
export const leaseSeconds = 10;
/** How often a worker shows that it is alive, in milliseconds. */
export const heartbeatInterval = 3_000;

const rescueBatch = 500;

/** Takes due tasks for up to `slots` free slots: of all users, in fair order, within every limit. */
export function claimTasks(database: Database, workerId: string, slots: number): Promise<Claim[]> {
  return database.query(claim, [workerId, slots]);
}

/** Shows that the worker is alive, which holds its tasks for another lease. */
export async function beat(database: Database, workerId: string): Promise<void> {
  await database.query(heartbeat, [workerId]);
}

/** Puts tasks of silent workers and retries that are due back into the queue. @returns how many. */
export async function rescueTasks(database: Database): Promise<number> {
  const [row] = await database.query(rescue, [leaseSeconds, rescueBatch]);
  return row?.rescued ?? 0;
}

/** Takes a stopping worker off the list: what it could not finish is rescued at once. */
export async function retireWorker(database: Database, workerId: string): Promise<void> {
  await database.query(retire, [workerId]);
}
