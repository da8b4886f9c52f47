import { afterEach, beforeEach, expect, it } from 'vitest';
import { createLog } from '../../src/adapters/log.ts';
import { createMetrics } from '../../src/adapters/metrics.ts';
import { createTracing } from '../../src/adapters/trace.ts';
import { DomainError } from '../../src/errors.ts';
import type { TaskHandler } from '../../src/runner/run-task.ts';
import { startWorker, type Worker } from '../../src/runner/worker.ts';
import { completeAttempt } from '../../src/services/attempt.ts';
import { startTestQueue, type TestQueue } from '../queue/arrange.ts';
import { waitFor } from '../service.ts';
import { unreachableModel } from './unreachable-model.ts';

let queue: TestQueue;
let worker: Worker | undefined;

beforeEach(async () => {
  queue = await startTestQueue();
});
afterEach(async () => {
  await worker?.stop();
  await queue.stop();
});

async function work(handlers: Record<string, TaskHandler>): Promise<void> {
  worker = await startWorker(
    {
      ...queue.resources,
      log: createLog({ level: 'silent' }),
      metrics: createMetrics(),
      tracing: createTracing(null),
      modelFor: unreachableModel,
      approvalTimeout: 300_000,
    },
    { handlers, slots: 10, pollInterval: 50, lease: 10_000, stopTimeout: 2_000 },
  );
}

const complete: TaskHandler = ({ operation, claim }) => operation.write((write) => completeAttempt(write, claim));

it('lets each kind of task run by its own handler, within the limits of its own lane', async () => {
  const user = await queue.addUser();
  const quick = await queue.addAgent(user, { maxRunning: 3 });
  const slow = await queue.addAgent(user, { maxRunning: 1 });
  let slowNow = 0;
  let slowMost = 0;
  const done: string[] = [];
  const ids = await Promise.all([
    ...Array.from({ length: 6 }, () => queue.enqueue(user, quick, { kind: 'QUICK' })),
    ...Array.from({ length: 6 }, () => queue.enqueue(user, slow, { kind: 'SLOW', input: { size: 3 } })),
  ]);
  await work({
    QUICK: async (run) => {
      done.push(run.task.kind);
      await complete(run);
    },
    SLOW: async (run) => {
      slowNow += 1;
      slowMost = Math.max(slowMost, slowNow);
      expect(run.task.input).toEqual({ size: 3 });
      done.push(run.task.kind);
      await complete(run);
      slowNow -= 1;
    },
  });
  await waitFor('all to be completed', async () => (await queue.states(ids)).every((state) => state === 'COMPLETED'));
  expect(done.toSorted()).toEqual([...Array(6).fill('QUICK'), ...Array(6).fill('SLOW')]);
  expect(slowMost).toBe(1);
});

it('leaves kinds that it has no handler for to other workers', async () => {
  const user = await queue.addUser();
  const agent = await queue.addAgent(user);
  const [strange, known] = await Promise.all([
    queue.enqueue(user, agent, { kind: 'STRANGE' }),
    queue.enqueue(user, agent, { kind: 'KNOWN' }),
  ]);
  await work({ KNOWN: complete });
  await waitFor('the known kind', async () => (await queue.states([known]))[0] === 'COMPLETED');
  expect(await queue.task(strange)).toMatchObject({ state: 'QUEUED', attempt: 0 });
});

it.each([
  ['a coded failure that may pass', new DomainError('MODEL_UNAVAILABLE', 'Away.'), 'RETRYING', 'MODEL_UNAVAILABLE'],
  ['a coded failure that will not', new DomainError('MODEL_REFUSED', 'No.'), 'FAILED', 'MODEL_REFUSED'],
  ['anything else', new Error('a bug with private details'), 'FAILED', 'INTERNAL'],
])('makes what a handler throws the failure of the task, not of the worker: %s', async (_case, fault, state, code) => {
  const user = await queue.addUser();
  const agent = await queue.addAgent(user);
  const id = await queue.enqueue(user, agent, { kind: 'FAULTY' });
  await work({ FAULTY: () => Promise.reject(fault) });
  await waitFor('the failure', async () => (await queue.task(id)).failures === 1);
  expect(await queue.task(id)).toMatchObject({ state, error_code: code });
  expect(worker?.running()).toBe(0);
});
