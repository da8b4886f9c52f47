import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { rescueTasks } from '../../src/queue/claim.ts';
import { type Claim, endAttempt, resumeTask } from '../../src/queue/task.ts';
import { startAttempt } from '../../src/services/attempt.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditCounts } from './audit.ts';

let queue: TestQueue;

beforeAll(async () => {
  queue = await startTestQueue();
});
beforeEach(() => queue.database.owner('DELETE FROM users'));
afterAll(() => queue?.stop());

const park = (claim: Claim) =>
  queue.operation(claim.userId).write((write) => endAttempt(write, claim, { state: 'WAITING' }));
const resume = (userId: string, taskId: string) => queue.operation(userId).write((write) => resumeTask(write, taskId));

describe('a task that waits for an approval', () => {
  it('holds no slot of its agent, its user or its worker', async () => {
    const user = await queue.addUser({ maxRunning: 2 });
    const agent = await queue.addAgent(user, { maxRunning: 2 });
    await queue.addTasks(user, [agent], 6);
    const worker = uuidv7();
    const waiting = await queue.claimAll(worker, 10);
    expect(waiting).toHaveLength(2);
    await Promise.all(waiting.map(park));
    expect(await queue.claimAll(worker, 10)).toHaveLength(2);
    expect(await queue.task((waiting[0] as Claim).taskId)).toMatchObject({
      state: 'WAITING',
      worker_id: null,
      waiting_since: expect.any(Date),
    });
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('outlives its worker', async () => {
    const user = await queue.addUser();
    await queue.addTasks(user, [await queue.addAgent(user)], 1);
    const worker = uuidv7();
    const [claim] = await queue.claim(worker, 1);
    await park(claim as Claim);
    await queue.silence(worker, 60);
    expect(await rescueTasks(queue.resources.database, 10_000)).toBe(0);
    expect((await queue.task((claim as Claim).taskId)).state).toBe('WAITING');
  });

  it('is queued again once, and its deadline moves by the time it waited', async () => {
    const user = await queue.addUser();
    const task = await queue.enqueue(user, await queue.addAgent(user));
    const [claim] = await queue.claim(uuidv7(), 1);
    const operation = queue.operation(user);
    await operation.write((write) => startAttempt(write, claim as Claim));
    await park(claim as Claim);
    // As if it had waited for an hour, far beyond its ten minutes.
    const [before] = await queue.database.owner(
      `UPDATE tasks SET waiting_since = waiting_since - interval '1 hour' WHERE id = $1
      RETURNING deadline_at, (deadline_at < now() + interval '10 minutes') AS soon`,
      [task],
    );
    expect(before?.['soon']).toBe(true);
    expect(await resume(user, task)).toBe(true);
    expect(await resume(user, task)).toBe(false);
    const after = await queue.task(task);
    const moved = Number(after.deadline_at) - Number(before?.['deadline_at']);
    expect(moved / 1_000).toBeGreaterThanOrEqual(3_600);
    expect(moved / 1_000).toBeLessThan(3_660);
    expect(after).toMatchObject({ state: 'QUEUED', waiting_since: null });
    const [next] = await queue.claim(uuidv7(), 1);
    const { remaining } = await operation.write((write) => startAttempt(write, next as Claim));
    expect(remaining).toBeGreaterThan(3_600_000);
    expect(next?.attempt).toBe(2);
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('is resumed by one of many decisions at once', async () => {
    const user = await queue.addUser();
    await queue.addTasks(user, [await queue.addAgent(user)], 1);
    const [claim] = await queue.claim(uuidv7(), 1);
    await park(claim as Claim);
    const resumed = await Promise.all(Array.from({ length: 8 }, () => resume(user, (claim as Claim).taskId)));
    expect(resumed.filter(Boolean)).toHaveLength(1);
    expect(await auditCounts(queue.database)).toEqual([]);
  });
});

describe('the deadline of a task', () => {
  it('stands from the first start on, over all attempts, and ends the next one', async () => {
    const user = await queue.addUser();
    const task = await queue.enqueue(user, await queue.addAgent(user));
    const operation = queue.operation(user);
    const [first] = await queue.claim(uuidv7(), 1);
    await operation.write((write) => startAttempt(write, first as Claim));
    const { deadline_at: deadline } = await queue.task(task);
    await operation.write((write) =>
      endAttempt(write, first as Claim, { state: 'RETRYING', code: 'SERVICE_BUSY', message: '', dueAt: new Date(0) }),
    );
    await rescueTasks(queue.resources.database, 10_000);
    const [second] = await queue.claim(uuidv7(), 1);
    const { remaining } = await operation.write((write) => startAttempt(write, second as Claim));
    expect((await queue.task(task)).deadline_at).toEqual(deadline);
    expect(remaining).toBeLessThanOrEqual(600_000);
    await queue.database.owner(`UPDATE tasks SET deadline_at = now() WHERE id = $1`, [task]);
    await expect(operation.write((write) => startAttempt(write, second as Claim))).rejects.toMatchObject({
      code: 'TASK_TIMED_OUT',
    });
  });
});
