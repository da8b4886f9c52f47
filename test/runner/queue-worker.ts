import { createLog } from '../../src/adapters/log.ts';
import { createMetrics } from '../../src/adapters/metrics.ts';
import { createTracing } from '../../src/adapters/trace.ts';
import { startWorker, type Worker, type WorkerOptions } from '../../src/runner/worker.ts';
import { defaultTerms } from '../../src/terms.ts';
import type { TestQueue } from '../queue/arrange.ts';
import { unreachableModel } from './unreachable-model.ts';

/** A worker over the queue of a test, for work that asks no model. @param taskTimeout in milliseconds */
export function startQueueWorker(queue: TestQueue, options: WorkerOptions, taskTimeout = 60_000): Promise<Worker> {
  return startWorker(
    {
      ...queue.resources,
      terms: { ...defaultTerms, taskTimeout },
      log: createLog({ level: 'silent' }),
      metrics: createMetrics(),
      tracing: createTracing(null),
      modelFor: unreachableModel,
      approvalTimeout: 300_000,
    },
    options,
  );
}
