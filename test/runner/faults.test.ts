import { afterEach, beforeEach, expect, it } from 'vitest';
import { claimTasks, rescueTasks } from '../../src/queue/claim.ts';
import { wakeWorkers } from '../../src/queue/signal.ts';
import { holdAttempt } from '../../src/queue/task.ts';
import type { TaskHandler } from '../../src/runner/run-task.ts';
import type { Worker } from '../../src/runner/worker.ts';
import { completeAttempt } from '../../src/services/attempt.ts';
import { loseConnections } from '../database/lose-connections.ts';
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
  expect(await auditCounts(queue.database)).toEqual([]);
  await queue.stop();
});

/** A worker that shows life three times a second, and looks for work at wake-ups only. */
async function work(handler: TaskHandler): Promise<Worker> {
  worker = await startQueueWorker(queue, {
    handlers: { AGENT_RUN: handler },
    slots: 5,
    pollInterval: 86_400_000,
    lease: 1_000,
    stopTimeout: 100,
  });
  return worker;
}

const complete: TaskHandler = ({ operation, claim }) => operation.write((write) => completeAttempt(write, claim));
const reaches = (id: string, state: string) =>
  waitFor(`the task to be ${state}`, async () => {
    const task = await queue.task(id);
    return task.state === state && task;
  });

async function addTask(): Promise<string> {
  const user = await queue.addUser();
  const [id] = await queue.addTasks(user, [await queue.addAgent(user)], 1);
  return id ?? '';
}

it('does a task again whose end could not be stored, neither as done nor as failed', async () => {
  const id = await addTask();
  await queue.database.owner(
    `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW
      WHEN (OLD.state = 'RUNNING' AND NEW.state IN ('COMPLETED', 'FAILED')) EXECUTE FUNCTION refuse()`,
  );
  let runs = 0;
  const { running } = await work((run) => {
    runs += 1;
    return complete(run);
  });
  await waitFor('the run to end', () => runs === 1 && running() === 0);
  expect(await queue.task(id)).toMatchObject({ state: 'RUNNING', attempt: 1 });
  await queue.database.owner('DROP TRIGGER refuse ON tasks');
  expect(await reaches(id, 'COMPLETED')).toMatchObject({ attempt: 2, crashes: 1 });
});

it('does a task whose claim was answered to nobody', async () => {
  const { id: workerId } = await work(complete);
  const id = await addTask();
  // The answer goes to the test instead of the worker, as it would get lost with a connection.
  expect(await claimTasks(queue.resources.database, workerId, 1, ['AGENT_RUN'])).toHaveLength(1);
  expect(await reaches(id, 'COMPLETED')).toMatchObject({ attempt: 2, crashes: 1 });
});

it('tries again later when the database was away in the middle of a run', async () => {
  const id = await addTask();
  const { promise: holding, resolve: tellHolding } = Promise.withResolvers<void>();
  const { promise: lost, resolve: lose } = Promise.withResolvers<void>();
  await work(async (run) => {
    if (run.claim.attempt > 1) {
      return complete(run);
    }
    await run.operation.write(async (write) => {
      await holdAttempt(write, run.claim);
      tellHolding();
      await lost;
      await completeAttempt(write, run.claim);
    });
  });
  await holding;
  // The fault is to be stored over a new connection, not over one of whose end nobody has heard yet.
  await loseConnections(queue.database, 'test queue');
  lose();
  expect(await reaches(id, 'RETRYING')).toMatchObject({ error_code: 'SERVICE_BUSY', failures: 1 });
  await queue.database.owner(`UPDATE tasks SET due_at = now()`);
  await waitFor('the retry to be due', async () => (await rescueTasks(queue.resources.database, 1_000)) === 1);
  wakeWorkers(queue.resources.channel);
  expect(await reaches(id, 'COMPLETED')).toMatchObject({ attempt: 2 });
});

it('ends its old run of a task that was taken away and that it has claimed anew', async () => {
  const id = await addTask();
  const begun: number[] = [];
  const ended: number[] = [];
  const { id: workerId, running } = await work(async (run) => {
    begun.push(run.claim.attempt);
    await new Promise<void>((resolve) => run.signal.addEventListener('abort', () => resolve(), { once: true }));
    ended.push(run.claim.attempt);
    throw run.signal.reason;
  });
  await waitFor('the run to begin', () => begun.length === 1);
  // It seemed dead for a moment, as after a pause of the whole process.
  await waitFor('the rescue', async () => {
    await queue.silence(workerId, 60);
    return (await rescueTasks(queue.resources.database, 1_000)) === 1;
  });
  wakeWorkers(queue.resources.channel);
  await waitFor('the old run to end', () => ended.length > 0 && running() === 1);
  expect(ended).toEqual([1]);
  expect(await queue.task(id)).toMatchObject({ state: 'RUNNING', attempt: 2, worker_id: workerId });
});

it('stops although a run ignores its signal, and the late result has no effect', async () => {
  const id = await addTask();
  const { promise: gate, resolve: open } = Promise.withResolvers<void>();
  const { promise: late, resolve: tellLate } = Promise.withResolvers<unknown>();
  const { stop } = await work(async (run) => {
    await gate;
    await complete(run).catch(tellLate);
  });
  await reaches(id, 'RUNNING');
  await stop();
  expect(await queue.task(id)).toMatchObject({ state: 'QUEUED', attempt: 1, crashes: 0 });
  open();
  expect(await late).toMatchObject({ name: 'StaleAttemptError' });
  expect(await queue.task(id)).toMatchObject({ state: 'QUEUED', attempt: 1 });
});
