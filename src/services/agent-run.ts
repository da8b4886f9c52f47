import type { ToolCall } from '../adapters/llm.ts';
import { statement } from '../adapters/postgres.ts';
import type { AgentModel, ApprovalModel, MessageModel } from '../generated/prisma/models.ts';
import { type ReadOperation, type WriteOperation, writeTogether } from '../operation.ts';
import { isUntouched } from '../queue/repeat.ts';
import type { TaskFacts } from '../queue/successor.ts';
import { type Claim, heldTask, StaleAttemptError } from '../queue/task.ts';
import { lockCall, storeCallAnswer } from './agent-call.ts';
import { approvalsOfTask, cancelApprovals } from './approval.ts';
import { type Granted, grantsOfSessionAsJson } from './approval-grant.ts';
import { type Assignment, loadAssignment } from './assignment.ts';
import { completeAttempt } from './attempt.ts';
import { storeAnswer } from './message.ts';
import { tables } from './table.ts';
import type { CallStep } from './tool-call.ts';
import { insertTaskUse, recordTaskUse, valuesOfTaskUse } from './usage.ts';

/** Everything that a run of an agent needs to know, read in one transaction. */
export interface AgentRun {
  task: TaskFacts;
  agent: AgentModel;
  /** Whether the agent has documents to remember. */
  hasMemory: boolean;
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
  grants: Granted[];
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

type JournalEntry = (ModelStep & { kind: 'MODEL' }) | (CallStep & { kind: 'TOOL' });

const historyMessages = 60;

// Where the messages end is looked up in any case: known to the planner, it would have more executions planned anew.
const history = statement<AgentRun['history'][number] & Record<string, unknown>>(`
  SELECT recent.role, recent.agent_id AS "agentId", recent.content, agents.name AS "agentName" FROM (
    SELECT * FROM messages WHERE user_id = $1 AND session_id = $2
      AND position <= (SELECT coalesce($3, (SELECT position FROM messages WHERE user_id = $1 AND id = $4)))
    ORDER BY position DESC LIMIT ${historyMessages}
  ) AS recent
  LEFT JOIN agents ON agents.user_id = recent.user_id AND agents.id = recent.agent_id
  ORDER BY recent.position`);
const findAgent = statement<AgentModel & Pick<AgentRun, 'hasMemory' | 'grants'> & Record<string, unknown>>(`
  SELECT ${tables.agent.columns}, ${grantsOfSessionAsJson} AS grants, EXISTS (
    SELECT FROM memories
    WHERE memories.user_id = $1 AND memories.id = agents.id AND memories.agent_id = agents.id AND memories.documents > 0
  ) AS "hasMemory"
  FROM agents WHERE user_id = $1 AND id = $3`);
const journal = statement<JournalEntry & Record<string, unknown>>(
  `SELECT kind, position, output FROM task_steps WHERE user_id = $1 AND task_id = $2 ORDER BY position`,
);
const insertStepAndUse = statement(`
  WITH step AS (
    INSERT INTO task_steps (user_id, task_id, attempt, position, kind, output, started_at)
    VALUES ($1, $3, $9, $10, 'MODEL', $11, $12)
  )${insertTaskUse}`);
const insertStepOfAttempt = statement<{ position: number }>(`
  WITH held AS (${heldTask})
  INSERT INTO task_steps (user_id, task_id, attempt, position, kind, output, started_at)
  SELECT $1, held.id, $3, $4, 'MODEL', $5, $6 FROM held RETURNING position`);

/** Reads what the run of an agent's task needs. @throws StaleAttemptError when the agent or session is gone */
export async function loadAgentRun(operation: ReadOperation, task: TaskFacts): Promise<AgentRun> {
  if (task.agentId === null || task.sessionId === null) {
    throw new StaleAttemptError();
  }
  const [[found], messages, done, assignment] = await Promise.all([
    operation.query(findAgent, [operation.userId, task.sessionId, task.agentId]),
    operation.query(history, [operation.userId, task.sessionId, task.sessionOrder, task.messageId]),
    loadDone(operation, task),
    loadAssignment(operation, task),
  ]);
  if (found === undefined) {
    throw new StaleAttemptError();
  }
  const { hasMemory, grants, ...agent } = found;
  return { task, agent, hasMemory, grants, history: messages, assignment, ...done };
}

/** What earlier attempts at a task, or the run that it repeats, have done. */
async function loadDone(
  operation: ReadOperation,
  task: TaskFacts,
): Promise<Pick<AgentRun, 'steps' | 'calls' | 'approvals'>> {
  const stored = await loadJournal(operation, task);
  return {
    steps: modelSteps(stored),
    calls: stored.flatMap((entry) =>
      entry.kind === 'TOOL' ? [{ position: entry.position, output: entry.output }] : [],
    ),
    // What its user is asked follows from a model's answer, which is stored before or with the question.
    approvals: stored.length === 0 ? [] : await approvalsOfTask(operation, task.id),
  };
}

/** The model's answers for a task so far, in order. */
export async function loadSteps(operation: ReadOperation, task: TaskFacts): Promise<ModelStep[]> {
  return modelSteps(await loadJournal(operation, task));
}

async function loadJournal(operation: ReadOperation, task: TaskFacts): Promise<JournalEntry[]> {
  return isUntouched(task) ? [] : operation.query(journal, [operation.userId, task.id]);
}

function modelSteps(entries: readonly JournalEntry[]): ModelStep[] {
  return entries.flatMap((entry) =>
    entry.kind === 'MODEL' ? [{ position: entry.position, output: entry.output }] : [],
  );
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
      const values = [write.userId, claim.taskId, claim.attempt, ...stepValues(step)];
      const [stored] = await write.query(insertStepOfAttempt, values);
      if (stored === undefined) {
        throw new StaleAttemptError();
      }
    },
    (write) => recordModelUse(write, claim.taskId, step.output),
  );
}

/** Adds a step, with what it cost, to a task whose attempt the caller's transaction has checked. */
export async function addModelStep(operation: WriteOperation, claim: Claim, step: NewModelStep): Promise<void> {
  const use = valuesOfTaskUse(operation, claim.taskId, { ...step.output, kind: 'CHAT' });
  await operation.query(insertStepAndUse, [...use, claim.attempt, ...stepValues(step)]);
}

function stepValues({ position, output, startedAt }: NewModelStep): unknown[] {
  return [position, JSON.stringify(output), startedAt];
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
