import type { LanguageModel } from '../adapters/llm.ts';
import type { Log } from '../adapters/log.ts';
import type { Metrics } from '../adapters/metrics.ts';
import { isPassingFault } from '../adapters/postgres.ts';
import type { SpanOptions, Tracing } from '../adapters/trace.ts';
import { DomainError } from '../errors.ts';
import type { TaskModel } from '../generated/prisma/models.ts';
import type { ModelFor } from '../governor/caller.ts';
import { createOperation, type Operation, type OperationResources } from '../operation.ts';
import type { Failure } from '../queue/retry.ts';
import { type Claim, StaleAttemptError } from '../queue/task.ts';
import { failAttempt, startAttempt } from '../services/attempt.ts';
import { createProgress, type Progress } from './progress.ts';

/** What a handler may use. */
export interface RunResources extends OperationResources {
  /** Bound to the task's user and to the priority of its kind. */
  model: LanguageModel;
  log: Log;
  metrics: Metrics;
  tracing: Tracing;
  /** How long a task may run over all its attempts, in milliseconds. */
  taskTimeout: number;
  /** How long a user has to decide, where neither tool nor agent says otherwise, in milliseconds. */
  approvalTimeout: number;
}

/** What a worker shares between the runs of all users. */
export interface WorkerResources extends Omit<RunResources, 'model'> {
  modelFor: ModelFor;
}

/** One attempt at a task, as its handler sees it. */
export interface TaskRun {
  resources: RunResources;
  /** Acts as the task's user. */
  operation: Operation;
  claim: Claim;
  task: TaskModel;
  progress: Progress;
  /** Fires when the attempt must end: cancelled, taken away, out of time, or the worker stops. */
  signal: AbortSignal;
}

/**
 * Does the work of one kind of task, and ends the attempt itself when it succeeds. Whatever it throws is the attempt's
 * failure. It holds no transaction while it waits for the outside.
 */
export type TaskHandler = (run: TaskRun) => Promise<void>;

/** The reason of a signal that ends a run without a trace in its task: another attempt continues. */
export class RunAbandonedError extends Error {
  constructor(why: 'worker is stopping' | 'attempt was taken away') {
    super(`the ${why}`);
    this.name = 'RunAbandonedError';
  }
}

/** Runs one claimed task to its end, as its user. A fault is the task's failure, not the worker's: nothing is thrown. */
export async function runTask(
  resources: RunResources,
  handler: TaskHandler,
  claim: Claim,
  abandoned: AbortSignal,
): Promise<void> {
  const { taskId, attempt, kind } = claim;
  const first = createOperation(resources, claim.userId);
  let log = resources.log.child({ taskId, attempt });
  const deadline = new AbortController();
  const started = performance.now();
  let outcome: 'ended' | 'failed' | 'abandoned' = 'ended';
  let timer: NodeJS.Timeout | undefined;
  try {
    const { task, remaining } = await first.write((write) => startAttempt(write, claim, resources.taskTimeout));
    timer = setTimeout(
      () => deadline.abort(new DomainError('TASK_TIMED_OUT', 'The task took too long.')),
      Math.min(remaining, 2 ** 31 - 1),
    );
    const signal = AbortSignal.any([abandoned, deadline.signal]);
    const attributes = { 'retinue.task.id': taskId, 'retinue.task.kind': kind, 'retinue.task.attempt': attempt };
    const span: SpanOptions = { kind: 'consumer', parent: task.traceparent, attributes };
    await resources.tracing.run(`task ${kind}`, span, async () => {
      const { requestId } = task;
      const traceId = resources.tracing.traceId();
      log = log.child({ requestId, ...(traceId === null ? {} : { traceId }) });
      // What the task leads to comes from the same request, and stands below this attempt in its trace.
      const traceparent = resources.tracing.traceparent() ?? task.traceparent;
      const operation = createOperation(resources, claim.userId, { requestId, traceparent });
      try {
        const progress = createProgress(operation, claim, task.sessionId);
        await handler({ resources: { ...resources, log }, operation, claim, task, progress, signal });
      } finally {
        await operation.close();
      }
    });
  } catch (error) {
    outcome = await endFailedRun(log, first, claim, error, abandoned, deadline.signal);
  } finally {
    clearTimeout(timer);
    resources.metrics.attempts.observe({ kind, outcome }, (performance.now() - started) / 1_000);
    await first.close();
  }
}

async function endFailedRun(
  log: Log,
  operation: Operation,
  claim: Claim,
  error: unknown,
  abandoned: AbortSignal,
  deadline: AbortSignal,
): Promise<'failed' | 'abandoned'> {
  if (abandoned.aborted || error instanceof StaleAttemptError) {
    log.info('attempt ended without effect: another one has the task, or it was cancelled');
    return 'abandoned';
  }
  const cause: unknown = deadline.aborted ? deadline.reason : error;
  const failure = toFailure(cause);
  if (failure.code === 'INTERNAL') {
    log.error({ err: cause }, 'task attempt failed unexpectedly');
  } else {
    log.warn({ code: failure.code }, 'task attempt failed');
  }
  try {
    await operation.write((write) => failAttempt(write, claim, failure));
  } catch (second) {
    // The task still stands as this worker's. Its next signs of life find it forgotten and give it another attempt.
    if (!(second instanceof StaleAttemptError)) {
      log.error({ err: second }, 'task failure could not be stored');
    }
  }
  return 'failed';
}

function toFailure(cause: unknown): Failure {
  if (cause instanceof DomainError) {
    return { code: cause.code, message: cause.message, retryAfter: cause.retryAfter };
  }
  return isPassingFault(cause)
    ? { code: 'SERVICE_BUSY', message: 'The database was not there for a moment.' }
    : { code: 'INTERNAL', message: 'The task failed on an unexpected fault.' };
}
