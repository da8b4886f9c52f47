import { forgetDeltas } from '../outbox.ts';
import { completeAgentRun, loadAgentRun, saveModelStep } from '../services/agent-run.ts';
import { askModel } from './ask-model.ts';
import type { TaskRun } from './run-task.ts';
import { nextStep } from './step.ts';

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
  const { model, temperature } = context.agent;
  // A task of a plan has no message of its own: its result is a part of the plan's answer.
  const isMessage = context.assignment === null;
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
    const output = await askModel(run, { model, temperature, isMessage }, { position, messages });
    await operation.write((write) => saveModelStep(write, claim, { position, output, startedAt }));
    context.steps.push({ position, output });
  }
}
