import { afterEach, beforeEach, expect, it } from 'vitest';
import { DomainError } from '../../src/errors.ts';
import { wakeTopic } from '../../src/queue/signal.ts';
import type { JobHandler } from '../../src/runner/run-job.ts';
import type { Worker } from '../../src/runner/worker.ts';
import { startTestQueue, type TestQueue } from '../queue/arrange.ts';
import { auditCounts } from '../queue/audit.ts';
import { waitFor } from '../service.ts';
import { startQueueWorker } from './queue-worker.ts';

let queue: TestQueue;
let worker: Worker | undefined;

beforeEach(async () => {
  queue = await startTestQueue();
});
afterEach(async () => {
  await worker?.stop();
  await queue.stop();
});

async function work(job: JobHandler, taskTimeout = 60_000, pollInterval = 50): Promise<void> {
  worker = await startQueueWorker(
    queue,
    { handlers: {}, jobs: { TIDY: job }, slots: 10, pollInterval, lease: 10_000, stopTimeout: 2_000 },
    taskTimeout,
  );
}

async function addJobs(count: number): Promise<{ user: string; ids: string[] }> {
  const user = await queue.addUser();
  const agent = await queue.addAgent(user);
  const ids = await Promise.all(Array.from({ length: count }, () => queue.enqueue(user, agent, { kind: 'TIDY' })));
  return { user, ids };
}

const reach = (ids: string[], state: string) =>
  waitFor(`${ids.length} to be ${state}`, async () => (await queue.states(ids)).every((one) => one === state));

it('completes jobs, tells nobody of them, and counts right', async () => {
  const { user, ids } = await addJobs(12);
  const done = new Set<string>();
  await work(async ({ claim }) => void done.add(claim.taskId));
  await reach(ids, 'COMPLETED');
  expect(done).toEqual(new Set(ids));
  expect(await queue.events(user)).toEqual([]);
  expect(await auditCounts(queue.database)).toEqual([]);
});

it('frees the tasks that wait for a job, and runs them', async () => {
  const { user, ids } = await addJobs(1);
  const [row] = await queue.database.owner('SELECT lane_id FROM tasks WHERE id = $1', [ids[0]]);
  const child = await queue.enqueue(user, String(row?.['lane_id']), { kind: 'TIDY', parentIds: ids });
  await work(async () => undefined);
  await reach([...ids, child], 'COMPLETED');
});

it('tries a job again that failed on a passing fault, and tells of its failure', async () => {
  const { user, ids } = await addJobs(1);
  let attempts = 0;
  await work(async () => {
    attempts += 1;
    if (attempts === 1) {
      throw new DomainError('MODEL_UNAVAILABLE', 'not now');
    }
  });
  await waitFor('the first failure', async () => (await queue.states(ids))[0] === 'RETRYING');
  expect((await queue.events(user)).map(({ type }) => type)).toEqual(['task_failed']);
  await queue.database.owner(`UPDATE tasks SET state = 'QUEUED', due_at = now()`);
  await reach(ids, 'COMPLETED');
  expect(attempts).toBe(2);
});

it('gives a job up that its workers died of too often', async () => {
  const { ids } = await addJobs(1);
  await queue.database.owner('UPDATE tasks SET crashes = 100, attempt = 100');
  await work(async () => expect.unreachable());
  await reach(ids, 'FAILED');
  expect((await queue.task(ids[0] ?? '')).error_code).toBe('TASK_ABANDONED');
});

it('ends a job that runs out of time', async () => {
  const { ids } = await addJobs(1);
  await work(
    ({ signal }) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    100,
  );
  await waitFor('its end', async () => (await queue.task(ids[0] ?? '')).error_code === 'TASK_TIMED_OUT');
});

it('starts a job that it was given in the commit that added it, and without a look into the queue', async () => {
  const done: string[] = [];
  await work(async ({ claim }) => void done.push(claim.taskId), 60_000, 86_400_000);
  await waitFor(
    'its offer',
    async () => (await queue.database.owner('SELECT FROM workers WHERE open_slots = 10')).length > 0,
  );
  const wakeUps: unknown[] = [];
  await queue.resources.channel.subscribe(wakeTopic, (wakeUp) => void wakeUps.push(wakeUp));
  const { ids } = await addJobs(1);
  await reach(ids, 'COMPLETED');
  expect(wakeUps).toEqual([]);
  expect(done).toEqual(ids);
  expect(await queue.task(ids[0] ?? '')).toMatchObject({ attempt: 1, crashes: 0 });
});

it('takes nothing more while it stops, and hands on what comes all the same', async () => {
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  await work(() => ended);
  const first = await addJobs(1);
  await waitFor('the first job to run', () => worker?.running() === 1);
  const stopping = worker?.stop();
  await waitFor(
    'the offer to end',
    async () => (await queue.database.owner('SELECT FROM workers WHERE open_slots = 0')).length > 0,
  );
  // As by a sender who took the slot just before.
  await queue.database.owner('UPDATE workers SET reach = $1', [queue.resources.channel.reach()]);
  await queue.database.owner('UPDATE worker_places SET open_slots = 1');
  const second = await addJobs(1);
  await waitFor('the second job to be queued', async () => (await queue.states(second.ids))[0] === 'QUEUED');
  expect(await queue.task(second.ids[0] ?? '')).toMatchObject({ attempt: 1, crashes: 0 });
  end();
  await stopping;
  expect(await queue.states(first.ids)).toEqual(['COMPLETED']);
});
