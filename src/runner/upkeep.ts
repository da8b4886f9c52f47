import type { Log } from '../adapters/log.ts';
import type { Metrics } from '../adapters/metrics.ts';
import { createOperation, type OperationResources } from '../operation.ts';
import { findStuckTasks, leadsUpkeep, rescueTasks } from '../queue/claim.ts';
import { wakeWorkers } from '../queue/signal.ts';
import { settleCalls } from '../services/agent-call.ts';
import type { SecretBox } from '../services/secret-box.ts';
import { resealSecrets } from '../services/secret-rotation.ts';
import { expireApprovals, type Retention, removeExpiredSessions, trimEvents } from '../services/upkeep.ts';
import { showCensus } from './census.ts';
import { startLoop } from './loop.ts';

export interface UpkeepOptions {
  /** How long a silent worker keeps its tasks, in milliseconds. */
  lease: number;
  /** How long a task may run, in milliseconds: longer ones are reported. */
  taskTimeout: number;
  retention: Retention;
  secrets: SecretBox;
}

const rescueInterval = 1_000;
const expiryInterval = 1_000;
const cleanupInterval = 30_000;
/** As often as metrics are usually read. */
const censusInterval = 5_000;
/** Tasks that are due but wait this long for a worker are reported, in milliseconds. */
const queuedLimit = 600_000;

/**
 * Keeps the engine and its data in order. Every worker runs the loops, so that the work goes on when any of them dies;
 * one of them leads, the others just look whether it is their turn.
 */
export function startUpkeep(
  resources: OperationResources & { log: Log; metrics: Metrics },
  workerId: string,
  options: UpkeepOptions,
): () => Promise<void> {
  const { database, channel, log, metrics } = resources;
  const failed = (work: string) => (error: unknown) => {
    metrics.upkeepFailures.add({ work });
    log.error({ err: error }, `upkeep failed: ${work}`);
  };
  const openOperation = (userId: string) => createOperation(resources, userId);

  const stopRescue = startLoop(
    rescueInterval,
    async () => {
      const rescued = await rescueTasks(database, options.lease);
      metrics.tasksRescued.add({}, rescued);
      if (rescued > 0) {
        log.info({ rescued }, 'tasks are due again');
        wakeWorkers(channel);
      }
    },
    failed('rescue'),
  );
  const stopExpiry = startLoop(
    expiryInterval,
    async () => {
      if (await leadsUpkeep(database, workerId, options.lease)) {
        await settleCalls(database, openOperation).catch(failed('calls between agents'));
        await expireApprovals(database, openOperation);
      }
    },
    failed('expiry of approvals'),
  );
  const stopCleanup = startLoop(
    cleanupInterval,
    async () => {
      if (!(await leadsUpkeep(database, workerId, options.lease))) {
        return;
      }
      await removeExpiredSessions(database, openOperation, options.retention).catch(failed('expired sessions'));
      await trimEvents(database, openOperation, options.retention).catch(failed('old events'));
      await resealSecrets(database, openOperation, options.secrets).catch(failed('secrets of old keys'));
      const limits = { running: options.taskTimeout * 2, queued: queuedLimit };
      for (const stuck of await findStuckTasks(database, limits)) {
        log.warn(stuck, 'task is stuck');
      }
    },
    failed('cleanup'),
  );
  const stopCensus = startLoop(
    censusInterval,
    async () => showCensus(database, metrics, options.lease, await leadsUpkeep(database, workerId, options.lease)),
    failed('census'),
  );
  return async () => {
    await Promise.all([stopRescue(), stopExpiry(), stopCleanup(), stopCensus()]);
  };
}
