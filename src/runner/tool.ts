import type { ToolDescription } from '../adapters/llm.ts';
import type { ApprovalPolicy } from '../generated/prisma/enums.ts';
import type { WriteOperation } from '../operation.ts';
import type { TaskRun } from './run-task.ts';

/** What a tool may use while it works. */
export interface ToolContext {
  /** The run that calls it: acts as the task's user. */
  run: TaskRun;
  /** The step's id: the same for every attempt at this call, for the other side to tell a repetition. */
  idempotencyKey: string;
  /** Fires when the call must end: cancelled, out of the tool's or the task's time, or the worker stops. */
  signal: AbortSignal;
}

/** A tool that an agent may call. What kind it is and where it works is known only to itself. */
export interface ExecutableTool extends ToolDescription {
  /** The user's row that it comes from. */
  toolId: string;
  /** Its effect can't be taken back, or reaches others: users may want to be asked, and it is never called twice unasked. */
  dangerous: boolean;
  /** Null leaves it to the agent. */
  approvalPolicy: ApprovalPolicy | null;
  /** How long the user has to approve a call, in milliseconds; null leaves it to the agent. */
  approvalTimeout?: number | null;
  /** Longest call, in milliseconds. */
  timeout: number;
  /**
   * Does the work. The arguments have passed the schema.
   * @returns what the model is told
   * @throws DomainError with a message that the model may read; anything else is told as an unexpected fault
   */
  call(given: Record<string, unknown>, context: ToolContext): Promise<string>;
}

/** Finds the tools of the task's agent, in no transaction of the caller's. None of them is another user's. */
export type LoadTools = (run: TaskRun) => Promise<ExecutableTool[]>;

/**
 * Thrown by a call whose result comes from elsewhere later, such as another agent's task. The run ends its attempt as
 * WAITING, which holds no slot; what brings the result queues the task again. The same call is then made once more with
 * the same key and gives the result, or is pending again: a task may be queued again for another reason.
 */
export class ToolResultPendingError extends Error {
  readonly isReady: (operation: WriteOperation) => Promise<boolean>;

  /**
   * @param isReady looks whether the result is there, in the commit that lets the task wait and with its lane locked: one
   * that came since the call has found a running task and queued nothing, so the task is queued at once
   */
  constructor(isReady: (operation: WriteOperation) => Promise<boolean> = async () => false) {
    super('the result of the tool comes later');
    this.name = 'ToolResultPendingError';
    this.isReady = isReady;
  }
}
