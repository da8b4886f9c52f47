import { setTimeout as sleep } from 'node:timers/promises';
import { machineTime, type Producer, type Store } from './engine.ts';
import type { EngineName } from './engines.ts';
import { spreadJobs } from './population.ts';
import { startWorkers } from './workers.ts';

const heldTasks = 10;
/** Who has not recovered after this time, in milliseconds, is said not to. */
const longestRecovery = 16_000;
const deadline = 30_000;

/**
 * Kills one of two workers while it runs tasks. @returns seconds until the last of them started on the other one;
 * infinity for an engine that leaves them where they are
 */
export async function measureRecovery(who: EngineName, store: Store, producer: Producer): Promise<number> {
  await using started = new AsyncDisposableStack();
  const victims = await startWorkers(who, store, 1);
  started.defer(() => victims.stop());
  const others = await startWorkers(who, store, 1);
  started.defer(() => others.stop());
  await producer.clear();
  await victims.begin({ agentLimit: null, taskTime: null });
  await producer.enqueueAll(spreadJobs(heldTasks), false);
  await victims.until('started', heldTasks, deadline);
  await others.begin({ agentLimit: null, taskTime: 0 });
  // Long enough for heartbeats and locks to be in their usual rhythm.
  await sleep(1_000 + Math.random() * 1_000);
  const killed = machineTime();
  await Promise.all(victims.processes.map((one) => one.kill()));
  const seconds = await others.until('started', heldTasks, longestRecovery).then(
    async () => Math.max(...(await others.runs()).map((run) => run.start)) - killed,
    () => Number.POSITIVE_INFINITY,
  );
  await others.end();
  await producer.clear();
  return seconds / 1_000;
}
