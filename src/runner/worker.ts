import { v7 as uuidv7 } from 'uuid';
import {
  type Attempt,
  beat,
  claimTasks,
  completeAttempts,
  offerSlots,
  putBackTasks,
  retireWorker,
} from '../queue/claim.ts';
import { occupiesAgent } from '../queue/kind.ts';
import { abortTopic, givenTopic, wakeTopic, wakeWorkers } from '../queue/signal.ts';
import type { Successor } from '../queue/successor.ts';
import type { Claim } from '../queue/task.ts';
import { createDeltaPace } from './delta.ts';
import { startLoop } from './loop.ts';
import { RunAbandonedError } from './run-attempt.ts';
import { createJobCompletion, type JobHandler, runJob } from './run-job.ts';
import { type RunResources, runTask, type TaskHandler, type WorkerResources } from './run-task.ts';

export interface WorkerOptions {
  /** What this worker can do, by kind of task. It claims no others. */
  handlers: Readonly<Record<string, TaskHandler>>;
  /** The same for work that no user watches. */
  jobs?: Readonly<Record<string, JobHandler>>;
  /** Kinds for which nobody waits: their model calls go behind those of all others. */
  backgroundKinds?: readonly string[];
  /** Most tasks that this process runs at once. */
  slots: number;
  /** How often to look for work when no wake-up arrives, in milliseconds. */
  pollInterval: number;
  /** How long its tasks stay its own after its last sign of life, in milliseconds. */
  lease: number;
  /** How long running tasks may go on after `stop`, in milliseconds. */
  stopTimeout: number;
}

export interface Worker {
  readonly id: string;
  /** How many tasks run now. */
  running(): number;
  /** Claims nothing more, waits for running tasks, then aborts what is left and hands it back. */
  stop(): Promise<void>;
}

/** Signs of life per lease: two may be lost before tasks are. */
const beatsPerLease = 10 / 3;
/** How long an aborted run gets to let go, in milliseconds. */
const abortTimeout = 2_000;

interface Run {
  claim: Claim;
  abandon: AbortController;
  done: Promise<void>;
}

/** Starts a worker: it claims tasks of all users in fair order and runs each as its own user. */
export async function startWorker(resources: WorkerResources, options: WorkerOptions): Promise<Worker> {
  const id = uuidv7();
  const { database, channel, log, metrics } = resources;
  const { handlers, jobs = {} } = options;
  const kinds = [...Object.keys(handlers), ...Object.keys(jobs)];
  // Whoever waits for a slot shall not wait for a connection beside: claims have one of their own, as do ends of jobs.
  const [forClaims, forEnds] = [database.reserve(), database.reserve()];
  const completeJob = createJobCompletion(database, forEnds, id);
  const pace = createDeltaPace();
  const runs = new Set<Run>();
  let stopping = false;

  const runClaim = (runResources: RunResources, claim: Claim, abandoned: AbortSignal): Promise<void> => {
    const handler = handlers[claim.kind];
    if (handler !== undefined) {
      return runTask(runResources, handler, claim, abandoned);
    }
    const job = jobs[claim.kind];
    if (job === undefined) {
      throw new Error(`claimed a task of kind ${claim.kind}, which has no handler`);
    }
    return runJob(runResources, job, completeJob, claim, abandoned);
  };
  // What a run makes due goes on here, in the slot that its end frees and in others: unless there is work of others that this
  // worker had no slot for, which the fair order decides on.
  const successor: Successor = {
    workerId: id,
    kinds: Object.keys(handlers).filter(occupiesAgent),
    slots: () => (stopping || isFull ? 0 : Math.max(1, options.slots - runs.size + 1)),
    take: (attempts) => {
      offered -= attempts.length - 1;
      attempts.forEach(takeOwn);
    },
  };
  const start = (claim: Claim): void => {
    metrics.tasksClaimed.add({ kind: claim.kind });
    const abandon = new AbortController();
    const priority = options.backgroundKinds?.includes(claim.kind) === true ? 'BACKGROUND' : 'INTERACTIVE';
    const model = resources.modelFor({ userId: claim.userId, priority });
    // Only an end that is stored and found nothing queued has freed nothing: neither a turn nor a place among its user's.
    let mayBeAwaited = true;
    const onEnd = (queued: number | null): void => {
      mayBeAwaited = queued !== 0;
    };
    const own = { ...claim, onEnd, successor };
    const done = runClaim({ ...resources, model, pace }, own, abandon.signal).finally(() => {
      runs.delete(run);
      if (stopping) {
        // What waited for this end, or for its place among its user's, is for others to claim.
        wakeWorkers(channel);
      } else if (mayBeAwaited || isBehind || isOfferDue()) {
        claimMore();
      }
    });
    const run: Run = { claim, abandon, done };
    runs.add(run);
  };
  const abandonWhere = (isMeant: (claim: Claim) => boolean): void => {
    for (const run of runs) {
      if (isMeant(run.claim)) {
        run.abandon.abort(new RunAbandonedError('attempt was taken away'));
      }
    }
  };

  // Whether there may be tasks that this worker had no slot for when it looked last, or that it is just looking for.
  let isBehind = false;
  // Whether it had no slot for more when it looked last.
  let isFull = false;
  const claimOnce = async (): Promise<void> => {
    const free = options.slots - runs.size;
    isBehind = true;
    if (free <= 0) {
      isFull = true;
      return;
    }
    const isOffering = isOfferDue();
    const [claims] = await Promise.all([
      claimTasks(forClaims, id, free, kinds),
      isOffering ? offerSlots(forClaims, id, { slots: options.slots, kinds, reach: channel.reach() }) : null,
    ]);
    if (isOffering) {
      offered = free - claims.length;
    }
    for (const claim of claims) {
      start(claim);
    }
    isFull = claims.length === free;
    isBehind = isFull;
    if (isFull) {
      // This worker is full and there may be more: others shall look.
      wakeWorkers(channel);
    }
  };

  // How many tasks more it may be given by its last offer.
  let offered = 0;
  // What no claim fills may be filled by those who add tasks. They are told anew when they have filled half of it.
  const isOfferDue = (): boolean => offered <= (options.slots - runs.size) / 2;
  const takeOwn = (claim: Claim): void => {
    if (!stopping) {
      start(claim);
      return;
    }
    putBackTasks(database, id, [claim], false)
      .then(() => wakeWorkers(channel))
      .catch((error: unknown) => log.error({ err: error, workerId: id }, 'a task was not handed on'));
  };

  // At most one claim is under way; a wake-up in the meantime leads to exactly one more.
  let claiming: Promise<void> | null = null;
  let again = false;
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

  // What the last sign of life found forgotten. A claim whose answer is under way is known by the next one; what then is
  // still unknown is the rest of a run whose end, or of a claim whose answer, was lost with a connection.
  let suspects = new Set<string>();
  const showLife = async (): Promise<void> => {
    const { lost, forgotten } = await beat(
      database,
      id,
      [...runs].map((run) => run.claim),
    );
    const isLost = new Set(lost.map(attemptKey));
    metrics.leasesLost.add({}, lost.length);
    abandonWhere((claim) => isLost.has(attemptKey(claim)));
    const certain = forgotten.filter((attempt) => suspects.has(attemptKey(attempt)));
    suspects = new Set(forgotten.map(attemptKey));
    if (certain.length > 0) {
      const putBack = await putBackTasks(database, id, certain, true);
      metrics.tasksForgotten.add({}, putBack);
      log.warn({ workerId: id, putBack }, 'tasks that this worker had lost sight of are due again');
      wakeWorkers(channel);
    }
  };

  await showLife();
  // A claim and an end of nothing make the plans for those to come.
  await claimTasks(forClaims, id, 0, kinds);
  if (Object.keys(jobs).length > 0) {
    await completeAttempts(forEnds, id, []);
  }
  const stopTaking = await channel.subscribe(givenTopic(id), (claim) => {
    offered -= 1;
    takeOwn(claim as Claim);
  });
  const stopListening = await channel.subscribe(wakeTopic, claimMore);
  const stopAborting = await channel.subscribe(abortTopic, (message) => {
    const { taskIds } = message as { taskIds: string[] };
    abandonWhere((claim) => taskIds.includes(claim.taskId));
  });
  const stopHeartbeat = startLoop(options.lease / beatsPerLease, showLife, (error) =>
    log.error({ err: error, workerId: id }, 'heartbeat failed'),
  );
  const poll = setInterval(() => {
    // An offer may have met a sender and been left out.
    offered = 0;
    claimMore();
  }, options.pollInterval);
  claimMore();
  const stopWatching = [
    metrics.slots.watch({ state: 'running' }, () => runs.size),
    metrics.slots.watch({ state: 'free' }, () => (stopping ? 0 : options.slots - runs.size)),
  ];
  log.info({ workerId: id, slots: options.slots }, 'worker started');

  return {
    id,
    running: () => runs.size,
    stop: async () => {
      stopping = true;
      clearInterval(poll);
      stopListening();
      await claiming;
      if (again) {
        // A run ended while the last claim was under way: what it made due is for others.
        wakeWorkers(channel);
      }
      await offerSlots(forClaims, id, { slots: 0, kinds, reach: null }).catch((error: unknown) =>
        log.error({ err: error, workerId: id }, 'a stopping worker could not take its offer back'),
      );
      await settled(runs, options.stopTimeout);
      for (const run of runs) {
        run.abandon.abort(new RunAbandonedError('worker is stopping'));
      }
      // A run that ignores its signal must not hold the shutdown: handing its task back takes its power away.
      await settled(runs, abortTimeout);
      stopAborting();
      stopTaking();
      for (const stopOne of stopWatching) {
        stopOne();
      }
      await stopHeartbeat();
      forClaims.close();
      forEnds.close();
      try {
        const released = await retireWorker(database, id);
        wakeWorkers(channel);
        log.info({ workerId: id, released }, 'worker stopped claiming and handed back its tasks');
      } catch (error) {
        // Nobody is helped by a process that does not stop: the end of the lease gives its tasks to others.
        log.error({ err: error, workerId: id }, 'worker stopped without handing back its tasks');
      }
    },
  };
}

function attemptKey({ taskId, attempt }: Attempt): string {
  return `${taskId} ${attempt}`;
}

/** Waits for all runs, at most as many milliseconds. */
async function settled(runs: ReadonlySet<Run>, atMost: number): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, atMost);
  await Promise.race([Promise.all([...runs].map((run) => run.done)), late]);
  clearTimeout(timer);
}
