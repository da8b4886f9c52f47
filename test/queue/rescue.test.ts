import pg from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createLog } from '../../src/adapters/log.ts';
import { createMetrics } from '../../src/adapters/metrics.ts';
import { createTracing } from '../../src/adapters/trace.ts';
import { beat, claimTasks, leadsUpkeep, putBackTasks, rescueTasks, retireWorker } from '../../src/queue/claim.ts';
import { mostCrashes } from '../../src/queue/retry.ts';
import { type Claim, endAttempt } from '../../src/queue/task.ts';
import { createDeltaPace } from '../../src/runner/delta.ts';
import { type RunResources, runTask } from '../../src/runner/run-task.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditCounts } from './audit.ts';

const noModel = () => Promise.reject(new Error('no model is to be asked'));

let queue: TestQueue;
const lease = 10_000;

beforeAll(async () => {
  queue = await startTestQueue();
});
beforeEach(async () => {
  await queue.database.owner('DELETE FROM users');
  await queue.database.owner('DELETE FROM workers');
});
afterAll(() => queue?.stop());

const rescue = () => rescueTasks(queue.resources.database, lease);

/** A user with tasks, all of which a worker has claimed. */
async function claimSome(workerId: string, tasks: number): Promise<Claim[]> {
  const user = await queue.addUser({ maxRunning: 100 });
  const agent = await queue.addAgent(user, { maxRunning: 100 });
  await queue.addTasks(user, [agent], tasks);
  return queue.claimAll(workerId, 100);
}

async function retryLater(claim: Claim, dueAt: Date): Promise<void> {
  await queue
    .operation(claim.userId)
    .write((write) => endAttempt(write, claim, { state: 'RETRYING', code: 'SERVICE_BUSY', message: 'busy', dueAt }));
}

describe('rescue', () => {
  it('queues the tasks of a silent worker again, once, and counts the crash', async () => {
    const [silent, living] = [uuidv7(), uuidv7()];
    const lost = await claimSome(silent, 3);
    const kept = await claimSome(living, 2);
    await queue.silence(silent, 11);
    expect(await rescue()).toBe(3);
    expect(await rescue()).toBe(0);
    for (const { taskId } of lost) {
      expect(await queue.task(taskId)).toMatchObject({
        state: 'QUEUED',
        attempt: 1,
        crashes: 1,
        failures: 0,
        worker_id: null,
      });
    }
    for (const { taskId } of kept) {
      expect(await queue.task(taskId)).toMatchObject({ state: 'RUNNING', attempt: 1, crashes: 0, worker_id: living });
    }
    expect(await auditCounts(queue.database)).toEqual([]);
    expect(await queue.claimAll(living, 10)).toHaveLength(3);
  });

  it('leaves a worker alone whose lease is not over', async () => {
    const worker = uuidv7();
    await claimSome(worker, 1);
    await queue.silence(worker, 8);
    expect(await rescue()).toBe(0);
  });

  it('counts a worker that never showed life as silent', async () => {
    const user = await queue.addUser();
    await queue.addTasks(user, [await queue.addAgent(user)], 1);
    await claimTasks(queue.resources.database, uuidv7(), 1, ['AGENT_RUN']);
    expect(await rescue()).toBe(1);
  });

  it('is done by one of many who try at once', async () => {
    const silent = uuidv7();
    const lost = await claimSome(silent, 60);
    await queue.silence(silent, 60);
    const rescued = await Promise.all(Array.from({ length: 8 }, rescue));
    expect(rescued.reduce((sum, count) => sum + count, 0)).toBe(60);
    const crashes = await queue.database.owner('SELECT DISTINCT crashes FROM tasks WHERE id = ANY ($1)', [
      lost.map((claim) => claim.taskId),
    ]);
    expect(crashes).toEqual([{ crashes: 1 }]);
  });

  it('queues retries that are due, and counts no crash', async () => {
    const [due, later] = await claimSome(uuidv7(), 2);
    await retryLater(due as Claim, new Date(Date.now() - 1));
    await retryLater(later as Claim, new Date(Date.now() + 60_000));
    expect(await rescue()).toBe(1);
    expect(await queue.task((due as Claim).taskId)).toMatchObject({ state: 'QUEUED', crashes: 0, failures: 1 });
    expect(await queue.task((later as Claim).taskId)).toMatchObject({ state: 'RETRYING', failures: 1 });
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it.each([
    ['lane', 'SELECT FROM lanes JOIN tasks ON tasks.lane_id = lanes.id WHERE tasks.id = $1 FOR UPDATE OF lanes'],
    ['task', 'SELECT FROM tasks WHERE id = $1 FOR UPDATE'],
    ['user', 'SELECT FROM tenants JOIN tasks USING (user_id) WHERE tasks.id = $1 FOR UPDATE OF tenants'],
  ])('is not held up by a process that stopped while it held a %s', async (_what, lock) => {
    const silent = uuidv7();
    const [held] = await claimSome(silent, 1);
    const [free] = await claimSome(silent, 1);
    await queue.silence(silent, 60);
    const paused = new pg.Client({ connectionString: queue.database.ownerUrl });
    await paused.connect();
    await paused.query('BEGIN');
    await paused.query(lock, [held?.taskId]);
    // A rescue that waited would fail on this.
    const impatient = queue.openPool(1, 1_000);
    expect(await rescueTasks(impatient, lease)).toBe(1);
    expect(await queue.states([held?.taskId ?? '', free?.taskId ?? ''])).toEqual(['RUNNING', 'QUEUED']);
    await paused.end();
    expect(await rescue()).toBe(1);
  });

  it('gives a task that killed its workers once too often one last attempt, which fails it', async () => {
    const user = await queue.addUser();
    const taskId = await queue.enqueue(user, await queue.addAgent(user));
    for (let crash = 0; crash < mostCrashes; crash += 1) {
      const worker = uuidv7();
      expect(await queue.claim(worker, 1)).toHaveLength(1);
      await queue.silence(worker, 60);
      await rescue();
    }
    const [last] = await queue.claim(uuidv7(), 1);
    let ran = false;
    const resources: RunResources = {
      ...queue.resources,
      log: createLog({ level: 'silent' }),
      metrics: createMetrics(),
      tracing: createTracing(null),
      approvalTimeout: 300_000,
      pace: createDeltaPace(),
      model: { chat: noModel, embed: noModel },
    };
    await runTask(
      resources,
      async () => {
        ran = true;
      },
      last as Claim,
      new AbortController().signal,
    );
    expect(ran).toBe(false);
    expect(await queue.task(taskId)).toMatchObject({
      state: 'FAILED',
      error_code: 'TASK_ABANDONED',
      attempt: mostCrashes + 1,
      crashes: mostCrashes,
    });
    expect((await queue.events(user)).map((event) => event.type)).toEqual(['agent_status_changed', 'task_failed']);
  });
});

describe('a worker that retires', () => {
  it('hands its tasks back without counting a crash, and leaves the list', async () => {
    const [leaving, staying] = [uuidv7(), uuidv7()];
    const left = await claimSome(leaving, 4);
    const kept = await claimSome(staying, 1);
    expect(await retireWorker(queue.resources.database, leaving)).toBe(4);
    expect(await retireWorker(queue.resources.database, leaving)).toBe(0);
    expect(await queue.states([...left, ...kept].map((claim) => claim.taskId))).toEqual([
      ...left.map(() => 'QUEUED'),
      'RUNNING',
    ]);
    expect((await queue.task((left[0] as Claim).taskId)).crashes).toBe(0);
    expect(await queue.database.owner('SELECT id FROM workers')).toEqual([{ id: staying }]);
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('gets in the way of no other end of the same tasks', async () => {
    const workers = Array.from({ length: 4 }, () => uuidv7());
    for (let place = 0; place < 6; place += 1) {
      const user = await queue.addUser({ maxRunning: 100 });
      const agents = await Promise.all(Array.from({ length: 4 }, () => queue.addAgent(user, { maxRunning: 10 })));
      await queue.addTasks(user, agents, 24);
    }
    const claims: Claim[] = [];
    for (let turn = 0; claims.length < 144; turn += 1) {
      claims.push(...(await queue.claim(workers[turn % 4] as string, 12)));
    }
    const ended = await Promise.allSettled([
      ...workers.map((worker) => retireWorker(queue.resources.database, worker)),
      ...claims
        .filter((_claim, place) => place % 2 === 0)
        .map((claim) =>
          queue.operation(claim.userId).write((write) => endAttempt(write, claim, { state: 'COMPLETED' })),
        ),
    ]);
    const retired = ended
      .slice(0, 4)
      .map((result) => (result.status === 'fulfilled' ? Number(result.value) : Number.NaN));
    const completed = ended.slice(4).filter((result) => result.status === 'fulfilled');
    expect(retired.reduce((sum, count) => sum + count, 0) + completed.length).toBe(144);
    expect(await auditCounts(queue.database)).toEqual([]);
  });
});

describe('a sign of life', () => {
  it('tells which attempts are no longer the own, and which the worker does not know of', async () => {
    const worker = uuidv7();
    const [known, cancelled, forgotten, again] = (await claimSome(worker, 4)) as [Claim, Claim, Claim, Claim];
    await queue.database.owner(`UPDATE tasks SET state = 'CANCELLED', worker_id = NULL WHERE id = $1`, [
      cancelled.taskId,
    ]);
    await queue.database.owner('UPDATE tasks SET attempt = 2 WHERE id = $1', [again.taskId]);
    const { lost, forgotten: unknown } = await beat(queue.resources.database, worker, [known, cancelled, again]);
    const pairs = (attempts: { taskId: string; attempt: number }[]) =>
      new Set(attempts.map(({ taskId, attempt }) => `${taskId} ${attempt}`));
    expect(pairs(lost)).toEqual(new Set([`${cancelled.taskId} 1`, `${again.taskId} 1`]));
    expect(pairs(unknown)).toEqual(new Set([`${forgotten.taskId} 1`, `${again.taskId} 2`]));
  });

  it('lets forgotten tasks be put back, but only the attempts that were seen', async () => {
    const worker = uuidv7();
    const [forgotten, newer] = (await claimSome(worker, 2)) as [Claim, Claim];
    await queue.database.owner('UPDATE tasks SET attempt = 2 WHERE id = $1', [newer.taskId]);
    expect(await putBackTasks(queue.resources.database, worker, [forgotten, newer], true)).toBe(1);
    expect(await queue.task(forgotten.taskId)).toMatchObject({ state: 'QUEUED', crashes: 1 });
    expect(await queue.task(newer.taskId)).toMatchObject({ state: 'RUNNING', crashes: 0 });
    expect(await auditCounts(queue.database)).toEqual([]);
  });
});

describe('the lead', () => {
  it('has exactly one of the living, and passes on when that one falls silent', async () => {
    const workers = Array.from({ length: 5 }, () => uuidv7());
    for (const worker of workers) {
      await beat(queue.resources.database, worker, []);
    }
    const leaders = async () => {
      const leads = await Promise.all(workers.map((worker) => leadsUpkeep(queue.resources.database, worker, lease)));
      return workers.filter((_worker, place) => leads[place]);
    };
    expect(await leaders()).toEqual([workers[0]]);
    await queue.silence(workers[0] as string, 11);
    expect(await leaders()).toEqual([workers[1]]);
    await retireWorker(queue.resources.database, workers[1] as string);
    expect(await leaders()).toEqual([workers[2]]);
    await beat(queue.resources.database, workers[0] as string, []);
    expect(await leaders()).toEqual([workers[0]]);
  });

  it('is nobody while nobody lives', async () => {
    expect(await leadsUpkeep(queue.resources.database, uuidv7(), lease)).toBe(false);
  });
});
