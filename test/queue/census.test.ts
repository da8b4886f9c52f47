import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createMetrics, type Metrics } from '../../src/adapters/metrics.ts';
import { showCensus } from '../../src/runner/census.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';

let queue: TestQueue;
let metrics: Metrics;
const lease = 10_000;

beforeAll(async () => {
  queue = await startTestQueue();
  metrics = createMetrics();
});
afterAll(() => queue.stop());

async function shown(leads: boolean): Promise<string[]> {
  await showCensus(queue.resources.database, metrics, lease, leads);
  const { text } = await metrics.render();
  return text
    .split('\n')
    .filter((line) => /^retinue_(tasks\{|approvals_pending |workers )/.test(line) && !/[{} a-zA-Z_="]+ 0$/.test(line));
}

describe('a census', () => {
  it('counts open tasks by state over all users, and workers that are alive', async () => {
    const userId = await queue.addUser();
    const agentId = await queue.addAgent(userId, { maxRunning: 2 });
    await queue.addTasks(userId, [agentId], 3);
    const other = await queue.addUser();
    await queue.addTasks(other, [await queue.addAgent(other)], 1);
    const worker = uuidv7();
    expect(await queue.claim(worker, 2)).toHaveLength(2);
    expect(await shown(true)).toEqual([
      'retinue_tasks{state="QUEUED"} 2',
      'retinue_tasks{state="RUNNING"} 2',
      'retinue_workers 1',
    ]);
    await queue.silence(worker, 60);
    expect(await shown(true)).not.toContain('retinue_workers 1');
  });

  it('is nothing in a worker that does not lead, also when it led before', async () => {
    expect(await shown(true)).not.toEqual([]);
    expect(await shown(false)).toEqual([]);
  });
});
