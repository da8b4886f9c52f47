import { createGraphileWorker } from './graphile-worker-preset.ts';

/** graphile-worker with what its guide offers for throughput: tasks are locked ahead and ended in batches. */
export const engine = createGraphileWorker({
  localQueue: { size: 40 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
});
