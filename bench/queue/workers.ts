import { setTimeout as sleep } from 'node:timers/promises';
import { type Child, startChild } from '../child.ts';
import { machineTime, type Run, type Store } from './engine.ts';
import type { EngineName } from './engines.ts';
import type { Begin, Counts } from './worker-process.ts';

export type Work = Pick<Begin, 'agentLimit' | 'taskTime'>;

/** Worker processes of one engine. */
export interface Workers {
  readonly processes: readonly Child<null>[];
  /** Lets the processes claim tasks. */
  begin(work: Work): Promise<void>;
  /** Waits until so many tasks have ended (or started) since the work began. @throws Error after the deadline in ms */
  until(what: keyof Counts, count: number, deadline: number): Promise<void>;
  /** What the processes did since they were last asked. */
  runs(): Promise<Run[]>;
  end(): Promise<void>;
  stop(): Promise<void>;
}

/** Most tasks that one process runs at once, alike for all engines: the service's own default. */
export const slots = 20;

const commandDeadline = 30_000;
/** How often the processes are asked how far they are, in milliseconds. */
const lookInterval = 20;

/** Starts the worker processes of an engine; they claim nothing yet. */
export async function startWorkers(name: EngineName, store: Store, count: number): Promise<Workers> {
  const script = new URL('worker-process.ts', import.meta.url);
  const processes = await Promise.all(Array.from({ length: count }, () => startChild<null>(script, name)));
  const askAll = <Result>(command: string, payload: unknown = null): Promise<Result[]> =>
    Promise.all(processes.map((one) => one.ask<Result>(command, payload, commandDeadline)));
  return {
    processes,
    begin: async (work) => void (await askAll('begin', { store, slots, ...work })),
    until: async (what, count, deadline) => {
      const end = machineTime() + deadline;
      for (;;) {
        const counts = await askAll<Counts>('count');
        const sum = counts.reduce((total, one) => total + one[what], 0);
        if (sum >= count) {
          return;
        }
        if (machineTime() > end) {
          throw new Error(`${name}: of ${count} tasks ${sum} have ${what} after ${deadline} ms`);
        }
        await sleep(lookInterval);
      }
    },
    runs: async () => (await askAll<Run[]>('runs')).flat(),
    end: async () => void (await askAll('end')),
    stop: async () => void (await Promise.all(processes.map((one) => one.stop()))),
  };
}
