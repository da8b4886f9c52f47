import { v7 as uuidv7 } from 'uuid';
import { beat, claimTasks, heartbeatInterval, rescueTasks, retireWorker } from '../queue/claim.ts';
import type { Claim } from '../queue/task.ts';
import { wakeTopic, wakeWorkers } from '../queue/wake.ts';
import { type RunResources, runTask } from './run-task.ts';

export interface WorkerOptions {
  /** Most tasks that this process runs at once. */
  slots: number;
  /** How often to look for work when no wake-up arrives, in milliseconds. */
  pollInterval: number;
  /** How long running tasks may go on after `stop`, in milliseconds. */
  stopTimeout: number;
}

export interface Worker {
  readonly id: string;
  /** How many tasks run now. */
  running(): number;
  /** Claims nothing more, waits for running tasks, then aborts what is left and hands it over. */
  stop(): Promise<void>;
}

const rescueInterval = 1_000;

/** Starts a worker: it claims tasks of all users in fair order and runs each as its own user. */
export async function startWorker(resources: RunResources, options: WorkerOptions): Promise<Worker> {
  const id = uuidv7();
  const { database, channel, log } = resources;
  const abort = new AbortController();
  const running = new Set<Promise<void>>();
  let stopping = false;
  let claiming: Promise<void> | null = null;
  let again = false;

  const start = (claim: Claim): void => {
    const run = runTask(resources, claim, abort.signal).finally(() => {
      running.delete(run);
      claimMore();
    });
    running.add(run);
  };

  const claimOnce = async (): Promise<void> => {
    const free = options.slots - running.size;
    if (free <= 0) {
      return;
    }
    const claims = await claimTasks(database, id, free);
    for (const claim of claims) {
      start(claim);
    }
    if (claims.length === free) {
      // This worker is full and there may be more: others shall look.
      wakeWorkers(channel);
    }
  };

  // At most one claim is under way; a wake-up in the meantime leads to exactly one more.
  const claimMore = (): void => {
    again = true;
    claiming ??= (async () => {
      while (again && !stopping) {
        again = false;
        await claimOnce();
      }
    })()
      .catch((error: unknown) => log.error({ err: error, workerId: id }, 'claim failed'))
      .finally(() => {
        claiming = null;
      });
  };

  const every = (interval: number, name: string, work: () => Promise<unknown>): NodeJS.Timeout => {
    let busy = false;
    return setInterval(() => {
      if (!busy) {
        busy = true;
        work()
          .catch((error: unknown) => log.error({ err: error, workerId: id }, `${name} failed`))
          .finally(() => {
            busy = false;
          });
      }
    }, interval);
  };

  await beat(database, id);
  const unsubscribe = await channel.subscribe(wakeTopic, claimMore);
  const timers = [
    every(heartbeatInterval, 'heartbeat', () => beat(database, id)),
    every(rescueInterval, 'rescue', async () => {
      if ((await rescueTasks(database)) > 0) {
        claimMore();
      }
    }),
    setInterval(claimMore, options.pollInterval),
  ];
  claimMore();
  log.info({ workerId: id, slots: options.slots }, 'worker started');

  return {
    id,
    running: () => running.size,
    stop: async () => {
      stopping = true;
      unsubscribe();
      await claiming;
      await waitAtMost(Promise.all(running), options.stopTimeout);
      abort.abort();
      // A run that ignores its signal must not hold the shutdown: its attempt loses its power when the task is rescued.
      await waitAtMost(Promise.all(running), options.stopTimeout);
      for (const timer of timers) {
        clearInterval(timer);
      }
      await retireWorker(database, id);
      wakeWorkers(channel);
    },
  };
}

async function waitAtMost(work: Promise<unknown>, milliseconds: number): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  await Promise.race([work, late]);
  clearTimeout(timer);
}
