import { forgetDeltas } from '../outbox.ts';
import type { NewModelStep } from '../services/agent-run.ts';
import { completePlan, loadComposing } from '../services/composing.ts';
import { askModel } from './ask-model.ts';
import type { TaskRun } from './run-task.ts';
import { planAnswer } from './team-answer.ts';

/** Composes the one answer of a plan from what its tasks came to, and stores it with the end of the plan. */
export async function composeAnswer(run: TaskRun): Promise<void> {
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
  const context = await loadComposing(operation.read, run.task);
  let step: NewModelStep | null = null;
  let content = context.steps.at(-1)?.output.content;
  if (content === undefined) {
    const composition = planAnswer(context);
    if (composition.how === 'ask') {
      const startedAt = resources.clock.now();
      const voice = { model: context.orchestrator.model, temperature: null, isMessage: true };
      const output = await askModel(
        run,
        { ...voice, addEnd: composition.addEnd },
        { position: 1, messages: composition.messages },
      );
      step = { position: 1, output, startedAt };
      content = output.content;
    } else {
      content = composition.content;
    }
  }
  const answer = content;
  await run.progress.end();
  await operation.write((write) => completePlan(write, claim, context, answer, step));
}
