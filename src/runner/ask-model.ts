import type { ChatMessage, ToolDescription } from '../adapters/llm.ts';
import { publishDelta } from '../outbox.ts';
import type { ModelOutput } from '../services/agent-run.ts';
import { callIdAt } from '../services/tool-call.ts';
import { createDeltaWriter } from './delta.ts';
import type { TaskRun } from './run-task.ts';

/** Characters after which an answer counts as half written: nobody knows how long a model will go on. */
const halfWay = 1_000;
const longestName = 200;

/** Who answers, and how it is heard. */
export interface Voice {
  model: string | null;
  temperature: number | null;
  /** Whether the answer becomes a message, which readers may see while it is written. */
  isMessage: boolean;
  /** What it may call; nothing when left out. */
  tools?: readonly ToolDescription[];
  /** Answers of the model for this task before this one; none when left out. */
  turn?: number;
  /** What the answer gets at its end, however the model wrote it. */
  addEnd?: (content: string) => string;
}

/**
 * Asks the model, and hands its answer on to live readers piece by piece. No transaction is open meanwhile.
 * @param step the answer's place among the steps of the task, by which its calls are named, and what the model is told
 */
export async function askModel(
  run: TaskRun,
  voice: Voice,
  step: { position: number; messages: ChatMessage[] },
): Promise<ModelOutput> {
  const { resources, claim, task, signal } = run;
  const { position, messages } = step;
  const { model, temperature, isMessage, tools = [], turn = 0, addEnd } = voice;
  let written = 0;
  const writer = createDeltaWriter(resources.pace, (offset, text) => {
    written = offset + text.length;
    if (isMessage) {
      publishDelta(resources.channel, claim.userId, {
        sessionId: task.sessionId ?? '',
        messageId: task.answerId,
        taskId: task.id,
        attempt: claim.attempt,
        step: position,
        offset,
        text,
      });
    }
    const part = written / (written + halfWay);
    run.progress.report((turn + part) / (turn + 1), `writing the answer: ${written} characters`);
  });
  const started = performance.now();
  try {
    const answer = await resources.model.chat({ model, temperature, messages, tools, signal }, (text) =>
      writer.write(text),
    );
    const content = storable(answer.content);
    const end = addEnd?.(content) ?? '';
    writer.write(end);
    return {
      ...answer,
      content: content + end,
      toolCalls: answer.toolCalls.map((call, place) => ({
        // Models name their calls alike again and again, or not at all.
        id: callIdAt(position + 1 + place),
        name: storable(call.name).slice(0, longestName),
        arguments: storable(call.arguments),
      })),
      durationMilliseconds: Math.round(performance.now() - started),
    };
  } finally {
    writer.end();
  }
}

/** Postgres stores neither U+0000 nor half of a surrogate pair, and a model may write anything. */
function storable(text: string): string {
  return text.replaceAll('\u0000', '').toWellFormed();
}
