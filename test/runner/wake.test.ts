import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { wakeTopic, wakeWorkers } from '../../src/queue/signal.ts';
import { StaleAttemptError } from '../../src/queue/task.ts';
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
  vi.restoreAllMocks();
  await Promise.all(workers.splice(0).map((worker) => worker.stop()));
  expect(await auditCounts(queue.database)).toEqual([]);
  await queue.stop();
});

/** A worker that looks for work when it is woken, and never by itself. */
async function work(handler: TaskHandler, slots = 5): Promise<Worker> {
  const worker = await startQueueWorker(queue, {
    handlers: { AGENT_RUN: handler },
    slots,
    pollInterval: 86_400_000,
    lease: 60_000,
    stopTimeout: 20_000,
  });
  workers.push(worker);
  return worker;
}

const reach = (ids: string[], state: string) =>
  waitFor(`the tasks to be ${state}`, async () => (await queue.states(ids)).every((each) => each === state));

/** Waits until the worker says that it takes so many tasks unasked. */
const offered = (worker: Worker, slots: number) =>
  waitFor('the offer', async () => {
    const [row] = await queue.database.owner('SELECT open_slots FROM workers WHERE id = $1', [worker.id]);
    return row?.['open_slots'] === slots;
  });

/** Counts claims from now on. */
function countClaims(): () => number {
  const query = vi.spyOn(pg.Client.prototype, 'query');
  return () => query.mock.calls.filter((given: unknown[]) => JSON.stringify(given[0]).includes('queue.claim(')).length;
}

/** Counts wake-ups from now on. */
async function countWakeUps(): Promise<() => number> {
  let wakeUps = 0;
  await queue.resources.channel.subscribe(wakeTopic, () => {
    wakeUps += 1;
  });
  return () => wakeUps;
}

describe('a worker at the end of an attempt', () => {
  it('looks for more by itself, and wakes nobody', async () => {
    const ids = await queue.addTasks(user, [await queue.addAgent(user, { maxRunning: 1 })], 3);
    const wakeUps = await countWakeUps();
    await work(complete);
    await reach(ids, 'COMPLETED');
    expect(wakeUps()).toBe(0);
  });

  const oneAgent = async () => queue.addTasks(user, [await queue.addAgent(user, { maxRunning: 1 })], 2);
  const oneUser = async () => {
    const frugal = await queue.addUser({ maxRunning: 1 });
    return queue.addTasks(frugal, [await queue.addAgent(frugal), await queue.addAgent(frugal)], 2);
  };
  const oneSession = async () => {
    const sessionId = await queue.addSession(user);
    const ids: string[] = [];
    for (const agentId of [await queue.addAgent(user), await queue.addAgent(user)]) {
      ids.push(await queue.enqueue(user, agentId, { sessionId, sessionOrder: ids.length + 1 }));
    }
    return ids;
  };
  const twoUsers = async () => {
    const users = [user, await queue.addUser()];
    return Promise.all(users.map(async (each) => queue.enqueue(each, await queue.addAgent(each))));
  };
  it.each([
    ['its place with its agent', 5, oneAgent],
    ['its place among those of its user', 5, oneUser],
    ['its turn in the session', 5, oneSession],
    ['its slot, whosever the task', 1, twoUsers],
  ])('starts what waited for %s', async (_what, slots, arrange) => {
    const ids = await arrange();
    await work(complete, slots);
    await reach(ids, 'COMPLETED');
  });

  it('asks for nothing where it has freed nothing: its user has nothing queued, and it had slots left', async () => {
    const agentId = await queue.addAgent(user);
    const worker = await work(complete, 6);
    await offered(worker, 6);
    const claims = countClaims();
    const run = async () => {
      await reach([await queue.enqueue(user, agentId)], 'COMPLETED');
      await waitFor('the run to be over', () => worker.running() === 0);
    };
    await run();
    await run();
    expect(claims()).toBe(0);
    // With the third, half of what it offered is taken.
    await run();
    await offered(worker, 6);
    expect(claims()).toBe(1);
  });

  it('asks when its attempt was taken away, and nobody told it what that has freed', async () => {
    const agentId = await queue.addAgent(user);
    const gate = Promise.withResolvers<void>();
    const worker = await work(() => gate.promise.then(() => Promise.reject(new StaleAttemptError())));
    await offered(worker, 5);
    const claims = countClaims();
    await queue.enqueue(user, agentId);
    await waitFor('the run', () => worker.running() === 1);
    expect(claims()).toBe(0);
    gate.resolve();
    await waitFor('the claim', () => claims() === 1);
  });

  /** A parent that runs until it is let go, and children that wait for it alone. */
  async function family(slots: number, children: number) {
    const agentId = await queue.addAgent(user, { maxRunning: 9 });
    const gate = Promise.withResolvers<void>();
    let runs = 0;
    const worker = await work(async (run) => {
      runs += 1;
      await (runs === 1 ? gate.promise : null);
      await complete(run);
    }, slots);
    await offered(worker, slots);
    const parent = await queue.enqueue(user, agentId);
    const ids = [parent];
    for (let child = 0; child < children; child += 1) {
      ids.push(await queue.enqueue(user, agentId, { parentIds: [parent] }));
    }
    return { ids, release: gate.resolve };
  }

  it('goes on with what waited for it alone, and neither looks for it nor wakes anybody', async () => {
    const { ids, release } = await family(5, 2);
    const claims = countClaims();
    const wakeUps = await countWakeUps();
    release();
    await reach(ids, 'COMPLETED');
    expect([claims(), wakeUps()]).toEqual([0, 0]);
  });

  it('wakes the others for what it has no slot for', async () => {
    const { ids, release } = await family(2, 3);
    const wakeUps = await countWakeUps();
    release();
    await reach(ids, 'COMPLETED');
    expect(wakeUps()).toBeGreaterThan(0);
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
