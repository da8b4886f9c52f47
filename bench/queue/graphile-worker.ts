import { createGraphileWorker } from './graphile-worker-preset.ts';

/** graphile-worker as it is by default: a statement to take each task and one to end it. */
export const engine = createGraphileWorker({});
