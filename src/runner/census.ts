import type { Metrics } from '../adapters/metrics.ts';
import type { Database } from '../adapters/postgres.ts';
import { takeCensus } from '../queue/claim.ts';
import { memoryTotals } from '../services/memory-upkeep.ts';

/** Shown also when there is none of them, so that an alert can tell "none" from "nobody looked". */
const taskStates = ['BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING'];

/**
 * Shows what is open over all users as metrics of the leading worker. All others show nothing, so that a sum over
 * processes counts each task once.
 */
export async function showCensus(database: Database, metrics: Metrics, lease: number, leads: boolean): Promise<void> {
  const { tasks, oldestTask, approvalsPending, workers, memoryCollections, memoryPoints, memoryBytes } = metrics;
  const census = leads ? await takeCensus(database, lease) : [];
  const memory = leads ? await memoryTotals(database) : null;
  for (const level of [tasks, oldestTask, approvalsPending, workers, memoryCollections, memoryPoints, memoryBytes]) {
    level.clear();
  }
  if (memory === null) {
    return;
  }
  for (const state of taskStates) {
    const found = census.find((one) => one.noun === 'task' && one.state === state);
    tasks.set({ state }, found?.amount ?? 0);
    oldestTask.set({ state }, found?.oldestSeconds ?? 0);
  }
  approvalsPending.set({}, census.find(({ noun }) => noun === 'approval')?.amount ?? 0);
  memoryCollections.set({}, memory.collections);
  memoryPoints.set({}, memory.points);
  memoryBytes.set({}, memory.vectorBytes);
  workers.set({}, census.find(({ noun }) => noun === 'worker')?.amount ?? 0);
}
