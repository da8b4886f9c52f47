import { runChild } from '../child.ts';
import { machineTime, type Run, type WorkerSettings } from './engine.ts';
import { type EngineName, loadEngine } from './engines.ts';

/** What a worker process is told when it shall work. */
export interface Begin extends WorkerSettings {
  /** How long a task takes, in milliseconds; null lets tasks run until their process dies. */
  readonly taskTime: number | null;
}

/** How many tasks a worker process has started and ended since it began. */
export interface Counts {
  readonly started: number;
  readonly ended: number;
}

// A worker of any of the engines, in a process of its own as in production.
runChild<EngineName, null>(async (name) => {
  const engine = await loadEngine(name);
  let runs: Run[] = [];
  let ended = 0;
  let stopWorker = async (): Promise<void> => undefined;
  const commands = {
    begin: async (begin: Begin): Promise<void> => {
      runs = [];
      ended = 0;
      stopWorker = await engine.startWorker(begin, async (key) => {
        const run: Run = { key, start: machineTime(), end: null };
        runs.push(run);
        if (begin.taskTime === null) {
          await new Promise(() => undefined);
        } else if (begin.taskTime > 0) {
          await new Promise((resolve) => setTimeout(resolve, begin.taskTime ?? 0));
        }
        run.end = machineTime();
        ended += 1;
      });
    },
    count: (): Counts => ({ started: runs.length, ended }),
    /** Hands over what was done since the last time. */
    runs: (): Run[] => {
      const done = runs;
      runs = [];
      ended = 0;
      return done;
    },
    end: async (): Promise<void> => {
      await stopWorker();
      stopWorker = async () => undefined;
    },
  };
  return { ready: null, commands, stop: () => stopWorker() };
});
