import type { TaskModel } from '../generated/prisma/models.ts';
import type { Origin, WriteOperation } from '../operation.ts';
import { wakeWorkers } from './signal.ts';

/** What of a task is the same from its beginning on: enough to read all that its run needs. */
export type TaskFacts = Pick<
  TaskModel,
  | 'id'
  | 'attempt'
  | 'kind'
  | 'input'
  | 'laneId'
  | 'agentId'
  | 'sessionId'
  | 'planId'
  | 'messageId'
  | 'answerId'
  | 'sessionOrder'
  | 'requestId'
  | 'traceparent'
>;

/** What is known of an attempt that began in the commit that made its task due. */
export interface Beginning extends Origin {
  /** Left out where the news should not carry it: its worker then looks for the task first. */
  task?: TaskFacts;
}

/** An attempt that began in the commit that made its task due, as its worker is told of it. */
export interface BegunAttempt {
  userId: string;
  taskId: string;
  attempt: number;
  kind: string;
  /** What that commit came from, and what it said of the task. */
  begun: Beginning;
}

/** A worker that goes on at once with what an attempt of its own makes due. */
export interface Successor {
  workerId: string;
  kinds: readonly string[];
  /** How many tasks it has slots for when this attempt has ended; 0 leaves all of them to the queue. */
  slots(): number;
  /** Told, after the commit, of those that are its own now. */
  take(attempts: readonly BegunAttempt[]): void;
}

/** Its task, as the statement that began it returns it. */
export interface BegunTask extends TaskFacts {
  agentBecameBusy: boolean;
}

/** The facts of a task, however much more is known of it. */
export function taskFacts(task: TaskFacts): TaskFacts {
  const { id, attempt, kind, input, laneId, agentId, sessionId, planId, messageId, answerId, sessionOrder } = task;
  const { requestId, traceparent } = task;
  const ids = { laneId, agentId, sessionId, planId, messageId, answerId };
  return { id, attempt, kind, input, ...ids, sessionOrder, requestId, traceparent };
}

/** Tells that an attempt has begun. */
export function tellStart(
  operation: WriteOperation,
  task: Pick<TaskModel, 'id' | 'agentId' | 'sessionId' | 'attempt'>,
  agentBecameBusy: boolean,
): void {
  const { id: taskId, agentId, sessionId, attempt } = task;
  if (agentId !== null && agentBecameBusy) {
    operation.emit({ type: 'agent_status_changed', agentId, status: 'BUSY' });
  }
  operation.emit({ type: 'task_started', sessionId, taskId, attempt });
}

/** Tells that tasks have begun. */
export function tellStarts(operation: WriteOperation, begun: readonly BegunTask[]): void {
  const told = new Set<string | null>();
  for (const { agentBecameBusy, ...task } of begun) {
    tellStart(operation, task, agentBecameBusy && !told.has(task.agentId));
    told.add(task.agentId);
  }
}

/** Who goes on with what an attempt makes due, as the statements take it: worker, slots, kinds, and milliseconds to run. */
export function successorValues(operation: WriteOperation, successor: Successor | undefined): unknown[] {
  return [successor?.workerId ?? null, successor?.slots() ?? 0, successor?.kinds ?? [], operation.terms.taskTimeout];
}

/** Hands the worker what is its own after the commit, and wakes all of them where more has become due. */
export function letBegin(
  operation: WriteOperation,
  successor: Successor | undefined,
  begun: readonly BegunTask[],
  due: number,
): void {
  if (begun.length < due) {
    operation.afterCommit(wakeWorkers);
  }
  if (begun.length > 0) {
    const { userId } = operation;
    const attempts = begun.map((task) => {
      const { id: taskId, attempt, kind, requestId, traceparent } = task;
      return { userId, taskId, attempt, kind, begun: { requestId, traceparent, task: taskFacts(task) } };
    });
    operation.afterCommit(() => successor?.take(attempts));
  }
}
