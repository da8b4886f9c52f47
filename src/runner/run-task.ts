import { isDeepStrictEqual } from 'node:util';
import type { LanguageModel } from '../adapters/llm.ts';
import type { Log } from '../adapters/log.ts';
import type { Metrics } from '../adapters/metrics.ts';
import type { SpanOptions, Tracing } from '../adapters/trace.ts';
import type { ModelFor } from '../governor/caller.ts';
import { createOperation, type Operation, type OperationResources, type Origin } from '../operation.ts';
import { type TaskFacts, taskFacts } from '../queue/successor.ts';
import { type Claim, StaleAttemptError } from '../queue/task.ts';
import { failAttempt, findAttempt, type Opened, startAttempt } from '../services/attempt.ts';
import type { DeltaPace } from './delta.ts';
import { limitTokens } from './limited-model.ts';
import { createProgress, type Progress } from './progress.ts';
import { runAttempt } from './run-attempt.ts';

/** What a handler may use. */
export interface RunResources extends OperationResources {
  /** Bound to the task's user and to the priority of its kind. */
  model: LanguageModel;
  log: Log;
  metrics: Metrics;
  tracing: Tracing;
  /** How long a user has to decide, where neither tool nor agent says otherwise, in milliseconds. */
  approvalTimeout: number;
  /** How often the answers of this process hand on pieces. */
  pace: DeltaPace;
}

/** What a worker shares between the runs of all users. */
export interface WorkerResources extends Omit<RunResources, 'model' | 'pace'> {
  modelFor: ModelFor;
}

/** One attempt at a task, as its handler sees it. */
export interface TaskRun {
  resources: RunResources;
  /** Acts as the task's user. */
  operation: Operation;
  claim: Claim;
  task: TaskFacts;
  progress: Progress;
  /** Fires when the attempt must end: cancelled, taken away, out of time, or the worker stops. */
  signal: AbortSignal;
}

/**
 * Does the work of one kind of task, and ends the attempt itself when it succeeds. Whatever it throws is the attempt's
 * failure. It holds no transaction while it waits for the outside.
 */
export type TaskHandler = (run: TaskRun) => Promise<void>;

/** Runs one claimed task to its end, as its user. A fault is the task's failure, not the worker's: nothing is thrown. */
export async function runTask(
  resources: RunResources,
  handler: TaskHandler,
  claim: Claim,
  abandoned: AbortSignal,
): Promise<void> {
  const { taskId, attempt, kind } = claim;
  await runAttempt(resources, claim, abandoned, failAttempt, async (run) => {
    const { origin, opened } = await begin(run.operation, claim);
    const { requestId, traceparent: parent } = origin;
    const attributes = { 'retinue.task.id': taskId, 'retinue.task.kind': kind, 'retinue.task.attempt': attempt };
    const span: SpanOptions = { kind: 'consumer', parent, attributes };
    await resources.tracing.run(`task ${kind}`, span, async () => {
      const traceId = resources.tracing.traceId();
      run.log = run.log.child({ requestId, ...(traceId === null ? {} : { traceId }) });
      // What the task leads to comes from the same request, and stands below this attempt in its trace.
      const traceparent = resources.tracing.traceparent() ?? parent;
      const operation = createOperation(resources, claim.userId, { requestId, traceparent });
      try {
        const start = (task: TaskFacts, signal: AbortSignal, standing: Promise<unknown>): Promise<void> => {
          const model = limitTokens(resources.model, operation, standing);
          const progress = createProgress(operation, claim, task.sessionId);
          return handler({
            resources: { ...resources, log: run.log, model },
            operation,
            claim: { ...claim, task },
            task,
            progress,
            signal,
          });
        };
        const known = claim.begun?.task;
        if (known === undefined) {
          const { task, remaining } = opened ?? (await findAttempt(operation.read, claim));
          await start(task, run.signalFor(remaining), Promise.resolve());
        } else {
          const { taskTimeout } = operation.read.terms;
          await startKnown(operation, claim, known, (standing, gone) =>
            start(known, AbortSignal.any([run.signalFor(taskTimeout), gone]), standing),
          );
        }
      } finally {
        await operation.close();
      }
    });
  });
}

/**
 * Lets work begin on what is known of its task, and asks the table meanwhile whether it still stands so: both take one trip.
 * Nobody outside is asked before the answer is there.
 * @throws StaleAttemptError when it does not
 */
async function startKnown(
  operation: Operation,
  claim: Claim,
  known: TaskFacts,
  work: (standing: Promise<unknown>, gone: AbortSignal) => Promise<void>,
): Promise<void> {
  const gone = new AbortController();
  const standing = findAttempt(operation.read, claim).then(({ task }) => {
    if (!isDeepStrictEqual(taskFacts(task), known)) {
      throw new StaleAttemptError();
    }
  });
  standing.catch((error: unknown) => gone.abort(error));
  try {
    await work(standing, gone.signal);
  } catch (error) {
    // What went wrong in a run that should not have gone on is no fault of its own.
    await standing;
    throw error;
  }
}

/** Begins an attempt, unless it began with its task. */
async function begin(operation: Operation, claim: Claim): Promise<{ origin: Origin; opened: Opened | null }> {
  if (claim.begun !== undefined) {
    return { origin: claim.begun, opened: null };
  }
  const opened = await operation.write((write) => startAttempt(write, claim));
  const { requestId, traceparent } = opened.task;
  return { origin: { requestId, traceparent }, opened };
}
