import type { TaskState } from '../generated/prisma/enums.ts';
import type { OrchestratorModel, PlanModel } from '../generated/prisma/models.ts';
import { type ReadOperation, type WriteOperation, writeTogether } from '../operation.ts';
import type { TaskFacts } from '../queue/successor.ts';
import { type Claim, StaleAttemptError } from '../queue/task.ts';
import { addModelStep, loadSteps, type ModelStep, type NewModelStep } from './agent-run.ts';
import { loadPlanResults } from './assignment.ts';
import { completeAttempt } from './attempt.ts';
import { storeAnswer } from './message.ts';
import { orchestratorById } from './orchestrator.ts';
import { planById, plannedTasks, tasksOfPlan } from './plan.ts';
import { endPlan } from './plan-state.ts';

/** Everything that composing a plan's answer needs to know, read in one transaction. */
export interface Composing {
  plan: PlanModel;
  orchestrator: OrchestratorModel;
  /** What the plan's tasks came to, in its order. */
  parts: PlanPart[];
  /** The answer, when a model wrote it before a crash. */
  steps: ModelStep[];
}

/** What a task of a plan came to. */
export interface PlanPart {
  agentName: string;
  instruction: string;
  state: TaskState;
  /** Why it failed, for the user; null when it did not. */
  failure: string | null;
  /** Null unless it is completed. */
  result: string | null;
}

/** Reads what the run of a composing task needs. @throws StaleAttemptError when the plan or its orchestrator is gone */
export async function loadComposing(operation: ReadOperation, task: TaskFacts): Promise<Composing> {
  if (task.planId === null || task.laneId === null) {
    throw new StaleAttemptError();
  }
  const [plan, orchestrator, tasks, results, steps] = await Promise.all([
    planById(operation, task.planId),
    // An orchestrator's lane has its id.
    orchestratorById(operation, task.laneId),
    tasksOfPlan(operation, task.planId),
    loadPlanResults(operation, task.planId),
    loadSteps(operation, task),
  ]);
  if (plan === null || orchestrator === null) {
    throw new StaleAttemptError();
  }
  const parts = plannedTasks(plan, tasks).flatMap(({ agent, instruction, task: run }) =>
    run === null
      ? []
      : [
          {
            agentName: agent,
            instruction,
            state: run.state,
            failure: run.errorMessage,
            result: results.get(run.id) ?? null,
          },
        ],
  );
  return { plan, orchestrator, parts, steps };
}

/**
 * Ends a plan with its one answer, in one commit. With a part missing it has failed, and the answer says what is missing.
 * @throws StaleAttemptError
 */
export async function completePlan(
  operation: WriteOperation,
  claim: Claim,
  { plan, parts }: Composing,
  content: string,
  step: NewModelStep | null,
): Promise<void> {
  const { sessionId } = plan;
  const state = parts.every((part) => part.state === 'COMPLETED') ? 'COMPLETED' : 'FAILED';
  await completeAttempt(operation, claim, (write, { answerId }) =>
    writeTogether(
      write,
      async (each) => step !== null && addModelStep(each, claim, step),
      (each) => {
        const from = { role: 'ORCHESTRATOR', agentId: null, planId: plan.id } as const;
        return storeAnswer(each, { id: answerId, sessionId, taskId: claim.taskId, content, ...from });
      },
      (each) => endPlan(each, plan, state),
    ),
  );
}
