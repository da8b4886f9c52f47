import type { TaskModel } from '../generated/prisma/models.ts';
import type { Origin, WriteOperation } from '../operation.ts';
import { wakeWorkers } from './signal.ts';

/** An attempt that began in the commit that made its task due, as its worker is told of it. */
export interface BegunAttempt {
  userId: string;
  taskId: string;
  attempt: number;
  kind: string;
  /** What that commit came from. */
  begun: Origin;
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
export interface BegunTask extends Pick<TaskModel, 'id' | 'attempt' | 'kind' | 'agentId' | 'sessionId'>, Origin {
  agentBecameBusy: boolean;
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
    const attempts = begun.map(({ id: taskId, attempt, kind, requestId, traceparent }) => ({
      userId,
      taskId,
      attempt,
      kind,
      begun: { requestId, traceparent },
    }));
    operation.afterCommit(() => successor?.take(attempts));
  }
}
