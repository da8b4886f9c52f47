import type { ToolCall } from '../adapters/llm.ts';
import { statement } from '../adapters/postgres.ts';
import type {
  AgentModel,
  ApprovalGrantModel,
  ApprovalModel,
  MessageModel,
  TaskModel,
} from '../generated/prisma/models.ts';
import { type ReadOperation, type WriteOperation, writeTogether } from '../operation.ts';
import { type Claim, heldTask, StaleAttemptError } from '../queue/task.ts';
import { agentById } from './agent.ts';
import { lockCall, storeCallAnswer } from './agent-call.ts';
import { approvalsOfTask, cancelApprovals } from './approval.ts';
import { grantsOfSession } from './approval-grant.ts';
import { type Assignment, loadAssignment } from './assignment.ts';
import { completeAttempt } from './attempt.ts';
import { storeAnswer } from './message.ts';
import { type CallStep, loadCalls } from './tool-call.ts';
import { recordTaskUse } from './usage.ts';

/** Everything that a run of an agent needs to know, read in one transaction. */
export interface AgentRun {
  task: TaskModel;
  agent: AgentModel;
  /** Messages of the session up to the one to answer, oldest first. */
  history: (Pick<MessageModel, 'role' | 'agentId' | 'content'> & { agentName: string | null })[];
  steps: ModelStep[];
  /** What a plan wants of the agent; null when it answers the message itself. */
  assignment: Assignment | null;
  /** Calls of tools that were made or begun, in order. */
  calls: CallStep[];
  /** What its user was asked, in the order of asking. */
  approvals: ApprovalModel[];
  /** What its user approved for the rest of the session. */
  grants: ApprovalGrantModel[];
}

/** A model's answer as it was saved, so that a crashed task does not ask again. */
export interface ModelStep {
  position: number;
  output: ModelOutput;
}

export type NewModelStep = ModelStep & { startedAt: Date };

export interface ModelOutput {
  content: string;
  /** Tools that the model wants called. */
  toolCalls?: readonly ToolCall[];
  model: string;
  promptTokens: number;
  completionTokens: number;
  durationMilliseconds: number;
}

const historyMessages = 60;

const history = statement<AgentRun['history'][number] & Record<string, unknown>>(`
  SELECT recent.role, recent.agent_id AS "agentId", recent.content, agents.name AS "agentName" FROM (
    SELECT * FROM messages WHERE user_id = $1 AND session_id = $2
      AND position <= coalesce($3, (SELECT position FROM messages WHERE user_id = $1 AND id = $4))
    ORDER BY position DESC LIMIT ${historyMessages}
  ) AS recent
  LEFT JOIN agents ON agents.user_id = recent.user_id AND agents.id = recent.agent_id
  ORDER BY recent.position`);
const steps = statement<ModelStep & Record<string, unknown>>(
  `SELECT position, output FROM task_steps WHERE user_id = $1 AND task_id = $2 AND kind = 'MODEL' ORDER BY position`,
);
const insertStep = statement(`
  INSERT INTO task_steps (user_id, task_id, attempt, position, kind, output, started_at)
  VALUES ($1, $2, $3, $4, 'MODEL', $5, $6)`);
const insertStepOfAttempt = statement<{ position: number }>(`
  WITH held AS (${heldTask})
  INSERT INTO task_steps (user_id, task_id, attempt, position, kind, output, started_at)
  SELECT $1, held.id, $3, $4, 'MODEL', $5, $6 FROM held RETURNING position`);

/** Reads what the run of an agent's task needs. @throws StaleAttemptError when the agent or session is gone */
export async function loadAgentRun(operation: ReadOperation, task: TaskModel): Promise<AgentRun> {
  if (task.agentId === null || task.sessionId === null) {
    throw new StaleAttemptError();
  }
  const [agent, messages, stored, assignment, calls, approvals, grants] = await Promise.all([
    agentById(operation, task.agentId),
    operation.query(history, [operation.userId, task.sessionId, task.sessionOrder, task.messageId]),
    loadSteps(operation, task.id),
    loadAssignment(operation, task),
    loadCalls(operation, task.id),
    approvalsOfTask(operation, task.id),
    grantsOfSession(operation, task.sessionId),
  ]);
  if (agent === null) {
    throw new StaleAttemptError();
  }
  return { task, agent, history: messages, steps: stored, assignment, calls, approvals, grants };
}

/** The model's answers for a task so far, in order. */
export function loadSteps(operation: ReadOperation, taskId: string): Promise<ModelStep[]> {
  return operation.query(steps, [operation.userId, taskId]);
}

/**
 * Saves the model's answer as a step. It stands before what follows from it begins, so that a crash in between asks no
 * model twice.
 * @throws StaleAttemptError
 */
export async function saveModelStep(operation: WriteOperation, claim: Claim, step: NewModelStep): Promise<void> {
  await writeTogether(
    operation,
    async (write) => {
      const [stored] = await write.query(insertStepOfAttempt, stepValues(write, claim, step));
      if (stored === undefined) {
        throw new StaleAttemptError();
      }
    },
    (write) => recordModelUse(write, claim.taskId, step.output),
  );
}

/** Adds a step to a task whose attempt the caller's transaction has checked. */
export async function addModelStep(operation: WriteOperation, claim: Claim, step: NewModelStep): Promise<void> {
  await writeTogether(
    operation,
    (write) => write.query(insertStep, stepValues(write, claim, step)),
    (write) => recordModelUse(write, claim.taskId, step.output),
  );
}

function stepValues(
  { userId }: WriteOperation,
  claim: Claim,
  { position, output, startedAt }: NewModelStep,
): unknown[] {
  return [userId, claim.taskId, claim.attempt, position, JSON.stringify(output), startedAt];
}

/** Writes down what a task's call of a model cost. */
export async function recordModelUse(
  operation: WriteOperation,
  taskId: string,
  use: Omit<ModelOutput, 'content'>,
): Promise<void> {
  await recordTaskUse(operation, taskId, { ...use, kind: 'CHAT' });
}

/** What else is known at the end of an agent's task. */
export interface AgentRunEnd {
  /** The model's answer that ends it, when it is not saved yet: one commit for both. */
  step?: NewModelStep | null;
  /** Whether questions to the user are still open, which nobody waits for any more. */
  hasOpenApprovals?: boolean;
  /** The task of another agent that asked, which the answer then goes to in place of the session. */
  callerTaskId?: string | null;
}

/**
 * Ends an agent's task with its answer: state, message, agent status and events in one commit.
 * @throws StaleAttemptError
 */
export async function completeAgentRun(
  operation: WriteOperation,
  claim: Claim,
  content: string,
  { step = null, hasOpenApprovals = false, callerTaskId = null }: AgentRunEnd = {},
): Promise<void> {
  if (callerTaskId !== null) {
    await lockCall(operation, claim.taskId, callerTaskId);
  }
  await completeAttempt(operation, claim, (write, { sessionId, planId, answerId, agentId }) =>
    writeTogether(
      write,
      async (each) => step !== null && addModelStep(each, claim, step),
      async (each) => {
        if (callerTaskId !== null) {
          await storeCallAnswer(each, claim.taskId, callerTaskId, content);
        } else if (sessionId !== null && planId === null) {
          // What a task of a plan came to is its last step: the plan's one answer is composed of it.
          const from = { role: 'AGENT', agentId, planId } as const;
          await storeAnswer(each, { id: answerId, sessionId, taskId: claim.taskId, content, ...from });
        }
      },
      async (each) => hasOpenApprovals && cancelApprovals(each, [claim.taskId]),
    ),
  );
}
