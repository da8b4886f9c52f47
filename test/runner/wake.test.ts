import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { wakeTopic, wakeWorkers } from '../../src/queue/signal.ts';
import type { TaskHandler } from '../../src/runner/run-task.ts';
import type { Worker } from '../../src/runner/worker.ts';
import { completeAttempt } from '../../src/services/attempt.ts';
import { startTestQueue, type TestQueue } from '../queue/arrange.ts';
import { auditCounts } from '../queue/audit.ts';
import { waitFor } from '../service.ts';
import { startQueueWorker } from './queue-worker.ts';

const complete: TaskHandler = ({ operation, claim }) => operation.write((write) => completeAttempt(write, claim));

let queue: TestQueue;
let user: string;
const workers: Worker[] = [];

beforeEach(async () => {
  queue = await startTestQueue();
  user = await queue.addUser();
});
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop()));
  expect(await auditCounts(queue.database)).toEqual([]);
  await queue.stop();
});

/** A worker that looks for work when it is woken, and never by itself. */
async function work(handler: TaskHandler): Promise<Worker> {
  const worker = await startQueueWorker(queue, {
    handlers: { AGENT_RUN: handler },
    slots: 5,
    pollInterval: 86_400_000,
    lease: 60_000,
    stopTimeout: 20_000,
  });
  workers.push(worker);
  return worker;
}

const reach = (ids: string[], state: string) =>
  waitFor(`the tasks to be ${state}`, async () => (await queue.states(ids)).every((each) => each === state));

describe('a worker at the end of an attempt', () => {
  it('looks for more by itself, and wakes nobody', async () => {
    const ids = await queue.addTasks(user, [await queue.addAgent(user, { maxRunning: 1 })], 3);
    let wakeUps = 0;
    await queue.resources.channel.subscribe(wakeTopic, () => {
      wakeUps += 1;
    });
    await work(complete);
    await reach(ids, 'COMPLETED');
    expect(wakeUps).toBe(0);
  });

  it('wakes the others for tasks that waited for it alone', async () => {
    const agentId = await queue.addAgent(user);
    const parent = await queue.enqueue(user, agentId);
    const child = await queue.enqueue(user, agentId, { parentIds: [parent] });
    let wakeUps = 0;
    await queue.resources.channel.subscribe(wakeTopic, () => {
      wakeUps += 1;
    });
    await work(complete);
    await reach([parent, child], 'COMPLETED');
    expect(wakeUps).toBe(1);
  });

  it('wakes the others when it is about to stop: what may run now is theirs, while it still runs something else', async () => {
    const [busy, long] = [await queue.addAgent(user, { maxRunning: 1 }), await queue.addAgent(user)];
    const [first, second] = (await queue.addTasks(user, [busy], 2)) as [string, string];
    const [other] = (await queue.addTasks(user, [long], 1)) as [string];
    const gates = new Map([first, other].map((id) => [id, Promise.withResolvers<void>()]));
    const stopping = await work(async (run) => {
      await gates.get(run.claim.taskId)?.promise;
      await complete(run);
    });
    await reach([first, other], 'RUNNING');
    await work(complete);
    const stopped = stopping.stop();
    gates.get(first)?.resolve();
    await reach([first, second], 'COMPLETED');
    expect(stopping.running()).toBe(1);
    gates.get(other)?.resolve();
    await stopped;
    await reach([other], 'COMPLETED');
  });
});

it('a worker is woken by whoever adds a task', async () => {
  const agentId = await queue.addAgent(user);
  await work(complete);
  const ids = await queue.addTasks(user, [agentId], 2);
  wakeWorkers(queue.resources.channel);
  await reach(ids, 'COMPLETED');
});
