import { v7 as uuidv7 } from 'uuid';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Claim } from '../../src/queue/task.ts';
import { createProgress, type Progress } from '../../src/runner/progress.ts';
import { cancelTask } from '../../src/services/task.ts';
import { startTestQueue, type TestQueue } from '../queue/arrange.ts';

let queue: TestQueue;
let claim: Claim;
let progress: Progress;

beforeAll(async () => {
  queue = await startTestQueue();
});
afterAll(() => queue?.stop());
beforeEach(async () => {
  const user = await queue.addUser();
  await queue.addTasks(user, [await queue.addAgent(user)], 1);
  claim = (await queue.claimAll(uuidv7(), 1))[0] as Claim;
  // Only the clock that progress reads: the database's client goes on with real timers.
  vi.useFakeTimers({ toFake: ['performance'] });
  progress = createProgress(queue.operation(user), claim, null);
});
afterEach(() => {
  vi.useRealTimers();
});

/** What watchers were told, after what is being written is written. */
async function told(): Promise<unknown[]> {
  await progress.end();
  const rows = await queue.database.owner(
    `SELECT data ->> 'note' AS note FROM events WHERE user_id = $1 AND type = 'task_progress' ORDER BY sequence`,
    [claim.userId],
  );
  return rows.map((row) => row['note']);
}

describe('progress', () => {
  it('is not told in the first two seconds of a run', async () => {
    vi.advanceTimersByTime(1_999);
    progress.report(0.5, 'too soon');
    expect(await told()).toEqual([]);
  });

  it('is stored with the task and told as an event', async () => {
    vi.advanceTimersByTime(2_000);
    progress.report(0.25, 'a quarter');
    expect(await told()).toEqual(['a quarter']);
    expect(await queue.task(claim.taskId)).toMatchObject({ progress: 0.25, progress_note: 'a quarter' });
  });

  it('is told at most once a second, the latest left out rather than kept for later', async () => {
    for (let step = 1; step <= 8; step += 1) {
      vi.advanceTimersByTime(400);
      progress.report(step / 10, `after ${step * 400} ms`);
      // Each write ends before the next report, so that only time decides.
      await vi.waitFor(async () => {
        const [row] = await queue.database.owner('SELECT count(*)::int AS told FROM events WHERE user_id = $1', [
          claim.userId,
        ]);
        expect(row?.['told']).toBe(Number(step >= 5) + Number(step >= 8));
      });
    }
    expect(await told()).toEqual(['after 2000 ms', 'after 3200 ms']);
  });

  it.each([
    [-1, 0],
    [7, 1],
  ])('is kept between 0 and 1: %d becomes %d', async (reported, stored) => {
    vi.advanceTimersByTime(2_000);
    progress.report(reported, 'out of range');
    await progress.end();
    expect((await queue.task(claim.taskId)).progress).toBe(stored);
  });

  it('is not told after its end', async () => {
    await progress.end();
    vi.advanceTimersByTime(5_000);
    progress.report(0.9, 'too late');
    expect(await told()).toEqual([]);
  });

  it('is a service to watchers: an attempt that was taken away makes it say nothing, and no fault', async () => {
    await queue.operation(claim.userId).write((write) => cancelTask(write, claim.taskId));
    vi.advanceTimersByTime(2_000);
    progress.report(0.5, 'for nobody');
    expect(await told()).toEqual([]);
  });
});
