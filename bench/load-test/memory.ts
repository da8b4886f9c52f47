import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Memory } from './settings.ts';

/** Collects garbage and then looks: what grows here was not let go of. */
export function readMemory(): Memory {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const resident = process.memoryUsage.rss();
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return { resident, live: heapUsed + external };
}
