import type { ChatMessage } from '../adapters/llm.ts';
import { publishDelta } from '../outbox.ts';
import type { ModelOutput } from '../services/agent-run.ts';
import { createDeltaWriter } from './delta.ts';
import type { TaskRun } from './run-task.ts';

/** Characters after which an answer counts as half written: nobody knows how long a model will go on. */
const halfWay = 1_000;

/** Who answers, and how it is heard. */
export interface Voice {
  model: string | null;
  temperature: number | null;
  /** Whether the answer becomes a message, which readers may see while it is written. */
  isMessage: boolean;
  /** What the answer gets at its end, however the model wrote it. */
  addEnd?: (content: string) => string;
}

/**
 * Asks the model, and hands its answer on to live readers piece by piece. No transaction is open meanwhile.
 * @param step its place among the steps of the task, and what the model is told
 */
export async function askModel(
  run: TaskRun,
  voice: Voice,
  step: { position: number; messages: ChatMessage[] },
): Promise<ModelOutput> {
  const { resources, claim, task, signal } = run;
  const { model, temperature, isMessage, addEnd } = voice;
  let written = 0;
  const writer = createDeltaWriter((offset, text) => {
    written = offset + text.length;
    if (isMessage) {
      publishDelta(resources.channel, claim.userId, {
        sessionId: task.sessionId ?? '',
        messageId: task.answerId,
        taskId: task.id,
        attempt: claim.attempt,
        step: step.position,
        offset,
        text,
      });
    }
    run.progress.report(written / (written + halfWay), `writing the answer: ${written} characters`);
  });
  const started = performance.now();
  try {
    const answer = await resources.model.chat({ model, temperature, messages: step.messages, signal }, (text) =>
      writer.write(text),
    );
    // Postgres can't store U+0000, and a model may write anything.
    const content = answer.content.replaceAll('\u0000', '');
    const end = addEnd?.(content) ?? '';
    writer.write(end);
    const durationMilliseconds = Math.round(performance.now() - started);
    return { ...answer, content: content + end, durationMilliseconds };
  } finally {
    writer.end();
  }
}
