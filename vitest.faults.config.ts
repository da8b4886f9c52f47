import { defineConfig } from 'vitest/config';

/** `npm run test:faults`: the service as real processes, whose servers are killed, paused and restarted under load. */
export default defineConfig({
  test: {
    include: ['test/faults/*.faults.ts'],
    testTimeout: 300_000,
    hookTimeout: 180_000,
    // One world at a time: what is measured is how long it takes to recover.
    maxWorkers: 1,
    fileParallelism: false,
    passWithNoTests: false,
    allowOnly: false,
  },
});
