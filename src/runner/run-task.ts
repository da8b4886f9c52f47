import type { LanguageModel } from '../adapters/llm.ts';
import type { Log } from '../adapters/log.ts';
import { DomainError } from '../errors.ts';
import { createOperation, type Operation, type OperationResources } from '../operation.ts';
import { publishDelta } from '../outbox.ts';
import { type Claim, StaleAttemptError } from '../queue/task.ts';
import {
  completeTask,
  failTask,
  type ModelOutput,
  saveModelStep,
  startTask,
  type TaskContext,
} from '../services/task.ts';
import { createDeltaWriter } from './delta.ts';
import { nextStep } from './step.ts';

export interface RunResources extends OperationResources {
  model: LanguageModel;
  log: Log;
  /** How long an attempt may take, in milliseconds. */
  taskTimeout: number;
}

/** Stops a run without a trace in its task: the worker is shutting down, and another one continues. */
export class WorkerStoppingError extends Error {
  constructor() {
    super('the worker is stopping');
    this.name = 'WorkerStoppingError';
  }
}

/**
 * Runs one claimed task to its end, as its user, step by step. No transaction is open while the model works. A fault is
 * the task's failure, not the worker's: nothing is thrown.
 */
export async function runTask(resources: RunResources, claim: Claim, stopping: AbortSignal): Promise<void> {
  const operation = createOperation(resources, claim.userId);
  const ids = { taskId: claim.taskId, attempt: claim.attempt };
  try {
    await runSteps(resources, operation, claim, stopping);
  } catch (error) {
    if (error instanceof StaleAttemptError) {
      resources.log.info(ids, 'task was taken away from this attempt');
    } else if (error instanceof WorkerStoppingError) {
      resources.log.info(ids, 'task is left for another worker');
    } else {
      await recordFailure(resources, operation, claim, error);
    }
  } finally {
    await operation.close();
  }
}

async function runSteps(
  resources: RunResources,
  operation: Operation,
  claim: Claim,
  stopping: AbortSignal,
): Promise<void> {
  const context = await operation.write((write) => startTask(write, claim));
  const timeout = AbortSignal.timeout(resources.taskTimeout);
  const signal = AbortSignal.any([stopping, timeout]);
  // Two rounds at most: the model answers, then the answer is stored.
  for (let next = nextStep(context); ; next = nextStep(context)) {
    if (next.do === 'finish') {
      const { content } = next;
      await operation.write((write) => completeTask(write, claim, content));
      return;
    }
    const { position, messages } = next;
    const startedAt = resources.clock.now();
    const output = await askModel(resources, context, messages, signal, claim).catch((error: unknown) => {
      if (stopping.aborted) {
        throw new WorkerStoppingError();
      }
      throw timeout.aborted ? new DomainError('TASK_TIMED_OUT', 'The task took too long.', { cause: error }) : error;
    });
    await operation.write((write) => saveModelStep(write, claim, { position, output, startedAt }));
    context.steps.push({ position, kind: 'MODEL', output });
  }
}

async function askModel(
  resources: RunResources,
  context: TaskContext,
  messages: Parameters<LanguageModel['chat']>[0]['messages'],
  signal: AbortSignal,
  claim: Claim,
): Promise<ModelOutput> {
  const { task, agent } = context;
  const writer = createDeltaWriter((offset, text) =>
    publishDelta(resources.channel, claim.userId, {
      sessionId: task.sessionId ?? '',
      messageId: task.answerId,
      taskId: task.id,
      offset,
      text,
    }),
  );
  const started = performance.now();
  try {
    const answer = await resources.model.chat(
      { model: agent.model, temperature: agent.temperature, messages, signal },
      (text) => writer.write(text),
    );
    // Postgres can't store U+0000, and a model may write anything.
    const content = answer.content.replaceAll('\u0000', '');
    return { ...answer, content, durationMilliseconds: Math.round(performance.now() - started) };
  } finally {
    writer.end();
  }
}

async function recordFailure(
  resources: RunResources,
  operation: Operation,
  claim: Claim,
  error: unknown,
): Promise<void> {
  const failure =
    error instanceof DomainError
      ? { code: error.code, message: error.message, retryAfter: error.retryAfter }
      : { code: 'INTERNAL' as const, message: 'The task failed on an unexpected fault.' };
  const ids = { taskId: claim.taskId, attempt: claim.attempt, code: failure.code };
  if (error instanceof DomainError) {
    resources.log.warn(ids, 'task attempt failed');
  } else {
    resources.log.error({ ...ids, err: error }, 'task attempt failed unexpectedly');
  }
  try {
    await operation.write((write) => failTask(write, claim, failure));
  } catch (second) {
    // The task stays with this worker until its lease ends, then another attempt follows.
    if (!(second instanceof StaleAttemptError)) {
      resources.log.error({ ...ids, err: second }, 'task failure could not be stored');
    }
  }
}
