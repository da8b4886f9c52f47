import { DomainError } from '../errors.ts';
import { StaleAttemptError } from '../queue/task.ts';
import type { Arguments } from '../services/arguments.ts';
import type { CallResult } from '../services/tool-call.ts';
import type { TaskRun } from './run-task.ts';
import { type ExecutableTool, ToolResultPendingError } from './tool.ts';

/** A result, or the promise of one from elsewhere. */
export type CallEnd = CallResult | ToolResultPendingError;

export interface CallOptions {
  idempotencyKey: string;
  /** Most characters of the result that are kept. */
  resultLength: number;
  /** Fires when the run ends for another reason than this call. */
  signal: AbortSignal;
}

/**
 * Calls a tool. What goes wrong with it is a result for the model: only what ends the run itself is thrown.
 * @throws the signal's reason; StaleAttemptError
 */
export async function callTool(
  run: TaskRun,
  tool: ExecutableTool,
  given: Arguments,
  options: CallOptions,
): Promise<CallEnd> {
  const { idempotencyKey, resultLength } = options;
  options.signal.throwIfAborted();
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error('the tool is out of time')), tool.timeout);
  const signal = AbortSignal.any([options.signal, late.signal]);
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    const work = run.resources.tracing.run(
      'tool',
      { kind: 'internal', attributes: { 'retinue.tool.id': tool.toolId } },
      () => tool.call(given, { run, idempotencyKey, signal }),
    );
    // A tool that does not hear the signal is left to itself: it must hold up nobody.
    const content = await Promise.race([work, aborted]);
    return { outcome: 'DONE', content: shorten(content, resultLength) };
  } catch (error) {
    if (options.signal.aborted) {
      throw options.signal.reason;
    }
    if (error instanceof StaleAttemptError) {
      throw error;
    }
    if (error instanceof ToolResultPendingError) {
      return error;
    }
    return { outcome: 'FAILED', content: shorten(describe(run, tool, error, late.signal.aborted), resultLength) };
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', abort);
  }
}

function describe({ resources }: TaskRun, tool: ExecutableTool, error: unknown, isLate: boolean): string {
  if (isLate) {
    return `Failed: the tool gave no result in ${tool.timeout / 1_000} seconds. Whether it had its effect is not known.`;
  }
  if (error instanceof DomainError) {
    return `Failed: ${error.message}`;
  }
  resources.log.error({ err: error, toolId: tool.toolId }, 'tool failed unexpectedly');
  return 'Failed: the tool failed unexpectedly. Whether it had its effect is not known.';
}

/** Postgres stores neither U+0000 nor half of a surrogate pair, and a tool may give anything. */
function shorten(content: string, length: number): string {
  const whole = String(content).replaceAll('\u0000', '');
  const kept =
    whole.length <= length ? whole : `${whole.slice(0, length)}\n… (cut: ${length} of ${whole.length} characters)`;
  return kept.toWellFormed();
}
