import type { ChatMessage } from '../adapters/llm.ts';
import { forgetDeltas, publishDelta } from '../outbox.ts';
import {
  type AgentRun,
  completeAgentRun,
  loadAgentRun,
  type ModelOutput,
  saveModelStep,
} from '../services/agent-run.ts';
import { createDeltaWriter } from './delta.ts';
import type { TaskRun } from './run-task.ts';
import { nextStep } from './step.ts';

/** Characters after which an answer counts as half written: nobody knows how long a model will go on. */
const halfWay = 1_000;

/** Lets an agent answer a message, step by step. No transaction is open while the model works. */
export async function runAgent(run: TaskRun): Promise<void> {
  const { claim, task, resources } = run;
  try {
    await takeSteps(run);
  } finally {
    // Stored or given up: nobody goes on with this text.
    forgetDeltas(resources.channel, claim.userId, task.answerId);
  }
}

async function takeSteps(run: TaskRun): Promise<void> {
  const { operation, claim, resources } = run;
  const context = await loadAgentRun(operation.read, run.task);
  // Two rounds at most: the model answers, then the answer is stored.
  for (let next = nextStep(context); ; next = nextStep(context)) {
    if (next.do === 'finish') {
      const { content } = next;
      await run.progress.end();
      await operation.write((write) => completeAgentRun(write, claim, content));
      return;
    }
    const { position, messages } = next;
    const startedAt = resources.clock.now();
    const output = await askModel(run, context, { position, messages });
    await operation.write((write) => saveModelStep(write, claim, { position, output, startedAt }));
    context.steps.push({ position, output });
  }
}

async function askModel(
  run: TaskRun,
  context: AgentRun,
  { position, messages }: { position: number; messages: ChatMessage[] },
): Promise<ModelOutput> {
  const { resources, claim, task, signal } = run;
  const { agent } = context;
  let written = 0;
  const writer = createDeltaWriter((offset, text) => {
    written = offset + text.length;
    publishDelta(resources.channel, claim.userId, {
      sessionId: task.sessionId ?? '',
      messageId: task.answerId,
      taskId: task.id,
      attempt: claim.attempt,
      step: position,
      offset,
      text,
    });
    run.progress.report(written / (written + halfWay), `writing the answer: ${written} characters`);
  });
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
