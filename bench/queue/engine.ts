/** A task as every engine is given it. Users and agents are numbers; each engine gives them the form it needs. */
export interface Job {
  readonly number: number;
  readonly user: number;
  readonly agent: number;
}

/** What a worker process did with a task. Times are in milliseconds of the machine's clock that all processes share. */
export interface Run {
  /** Names the task, as `enqueue` did. */
  readonly key: string;
  readonly start: number;
  /** Null while it runs. */
  end: number | null;
}

/** Where an engine keeps its tasks. */
export interface Store {
  /** Connects to the engine's own database as the role that its workers have. Unused by an engine over Redis. */
  readonly workerUrl: string;
  /** The same database as its owner. */
  readonly ownerUrl: string;
  readonly redisUrl: string;
}

/** Tells the engine's part in a worker process how to work. */
export interface WorkerSettings {
  readonly store: Store;
  /** Most tasks that the process runs at once. */
  readonly slots: number;
  /** Most tasks of one agent that run at once over all processes; null where limits are not asked for. */
  readonly agentLimit: number | null;
}

/** Runs one task; it never throws. */
export type Handle = (key: string) => Promise<void>;

/** The side of an engine that adds tasks. */
export interface Producer {
  /** Adds one task in the way that a service would. @returns its key */
  enqueue(job: Job, isLimited: boolean): Promise<string>;
  /** Adds many tasks in the quickest way that the engine has. @returns their keys in the order of the jobs */
  enqueueAll(jobs: readonly Job[], isLimited: boolean): Promise<string[]>;
  /** How many tasks have not ended, by what is stored. */
  unfinished(): Promise<number>;
  /** Removes all tasks. No worker works meanwhile. */
  clear(): Promise<void>;
  /** Lets a user run as many tasks as there are slots, or no more than as shipped. Only of an engine with such a limit. */
  setUserLimit?(isLifted: boolean): Promise<void>;
  close(): Promise<void>;
}

/** One of the engines that are compared. */
export interface Engine {
  /** Makes what the engine needs in its empty database. */
  prepare(store: Store): Promise<void>;
  openProducer(store: Store): Promise<Producer>;
  /** Starts to claim tasks; the returned function ends that when running tasks have ended. */
  startWorker(settings: WorkerSettings, handle: Handle): Promise<() => Promise<void>>;
}

/** How long a silent worker's tasks stay its own, in milliseconds, wherever an engine lets that be set. */
export const lease = 10_000;

/** Milliseconds of a clock that all processes of this machine share. */
export function machineTime(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
