import type { Clock } from '../adapters/clock.ts';
import { statement } from '../adapters/postgres.ts';
import { DomainError, type ErrorCode } from '../errors.ts';
import type { TaskState } from '../generated/prisma/enums.ts';
import type { AgentModel, MessageModel, TaskModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { retryDelay } from '../queue/retry.ts';
import { type Claim, finishAttempt, type Outcome, StaleAttemptError } from '../queue/task.ts';
import { agentById, markAgentBusy, settleAgent } from './agent.ts';
import { storeAnswer } from './message.ts';
import {
  type Condition,
  childPages,
  type List,
  loadChildPage,
  loadPage,
  type Page,
  type PageArguments,
} from './page.ts';
import { rowsById, tables } from './table.ts';

export interface TaskFilter {
  sessionId?: string | null | undefined;
  agentId?: string | null | undefined;
  states?: readonly TaskState[] | null | undefined;
}

/** Everything that a run of a task needs to know, read in one transaction. */
export interface TaskContext {
  task: TaskModel;
  agent: AgentModel;
  /** Messages of the session up to the one to answer, oldest first. */
  history: (Pick<MessageModel, 'role' | 'agentId' | 'content'> & { agentName: string | null })[];
  steps: StoredStep[];
}

/** A model's answer as it was saved, so that a crashed task does not ask again. */
export interface StoredStep {
  position: number;
  kind: 'MODEL';
  output: ModelOutput;
}

export interface ModelOutput {
  content: string;
  model: string;
  promptTokens: number;
  completionTokens: number;
  durationMilliseconds: number;
}

const historyMessages = 60;

const taskList: List<TaskModel> = {
  table: tables.task,
  order: [{ field: 'id', column: 'id', type: 'uuid' }],
  direction: 'descending',
};

const loadSessionTasks = childPages(taskList, 'session_id');
const loadTasks = rowsById<TaskModel>(tables.task);

const history = statement<TaskContext['history'][number] & Record<string, unknown>>(`
  SELECT recent.role, recent.agent_id AS "agentId", recent.content, agents.name AS "agentName" FROM (
    SELECT * FROM messages WHERE user_id = $1 AND session_id = $2 AND position <= $3 ORDER BY position DESC LIMIT ${historyMessages}
  ) AS recent
  LEFT JOIN agents ON agents.user_id = recent.user_id AND agents.id = recent.agent_id
  ORDER BY recent.position`);
const steps = statement<StoredStep & Record<string, unknown>>(
  `SELECT position, kind, output FROM task_steps WHERE user_id = $1 AND task_id = $2 ORDER BY position`,
);
const holds = statement<{ id: string }>(
  `SELECT id FROM tasks WHERE user_id = $1 AND id = $2 AND attempt = $3 AND state = 'RUNNING' FOR NO KEY UPDATE`,
);
const insertStep = statement(`
  INSERT INTO task_steps (user_id, task_id, position, kind, attempt, output, started_at)
  VALUES ($1, $2, $3, 'MODEL', $4, $5, $6)`);
const insertUsage = statement(`
  INSERT INTO model_usage (user_id, kind, agent_id, task_id, model, prompt_tokens, completion_tokens, duration_milliseconds)
  SELECT $1, 'CHAT', agent_id, id, $3, $4, $5, $6 FROM tasks WHERE user_id = $1 AND id = $2`);

/** The caller's task of that id, or null. */
export function taskById(operation: ReadOperation, id: string): Promise<TaskModel | null> {
  return operation.load(loadTasks, id);
}

/** The caller's tasks, newest first. */
export function listTasks(
  operation: ReadOperation,
  page: PageArguments,
  filter: TaskFilter = {},
): Promise<Page<TaskModel>> {
  const conditions: Condition[] = [];
  if (filter.sessionId !== null && filter.sessionId !== undefined) {
    conditions.push({ sql: 'session_id = ?', values: [filter.sessionId] });
  }
  if (filter.agentId !== null && filter.agentId !== undefined) {
    conditions.push({ sql: 'agent_id = ?', values: [filter.agentId] });
  }
  if (filter.states !== null && filter.states !== undefined) {
    conditions.push({ sql: 'state = ANY (?::task_state[])', values: [filter.states] });
  }
  return loadPage(operation, taskList, page, conditions);
}

/** A session's tasks, newest first. Pages of many sessions are read in one statement. */
export function listSessionTasks(
  operation: ReadOperation,
  sessionId: string,
  page: PageArguments,
): Promise<Page<TaskModel>> {
  return loadChildPage(operation, loadSessionTasks, sessionId, page);
}

/**
 * Tells that an attempt runs, and reads what it needs.
 * @throws StaleAttemptError when the task was taken away since its claim
 * @throws DomainError TASK_ABANDONED when its workers died too often
 */
export async function startTask(operation: WriteOperation, claim: Claim): Promise<TaskContext> {
  const [held] = await operation.query(holds, [operation.userId, claim.taskId, claim.attempt]);
  const task = held === undefined ? null : await taskById(operation, claim.taskId);
  if (task === null || task.agentId === null || task.sessionId === null) {
    throw new StaleAttemptError();
  }
  if (task.attempt > task.maxAttempts) {
    throw new DomainError('TASK_ABANDONED', `The task's workers stopped ${task.maxAttempts} times while it ran.`);
  }
  const agent = await agentById(operation, task.agentId);
  if (agent === null) {
    throw new StaleAttemptError();
  }
  const [messages, stored] = await Promise.all([
    operation.query(history, [operation.userId, task.sessionId, task.sessionOrder]),
    operation.query(steps, [operation.userId, task.id]),
  ]);
  await markAgentBusy(operation, agent.id);
  operation.emit({ type: 'task_started', sessionId: task.sessionId, taskId: task.id, attempt: task.attempt });
  return { task, agent, history: messages, steps: stored };
}

/**
 * Saves the model's answer as a step. It stands before the answer is stored, so that a crash in between asks no model twice.
 * @throws StaleAttemptError
 */
export async function saveModelStep(
  operation: WriteOperation,
  claim: Claim,
  step: { position: number; output: ModelOutput; startedAt: Date },
): Promise<void> {
  const { output } = step;
  const [held] = await operation.query(holds, [operation.userId, claim.taskId, claim.attempt]);
  if (held === undefined) {
    throw new StaleAttemptError();
  }
  await operation.query(insertStep, [
    operation.userId,
    claim.taskId,
    step.position,
    claim.attempt,
    JSON.stringify(output),
    step.startedAt,
  ]);
  await operation.query(insertUsage, [
    operation.userId,
    claim.taskId,
    output.model,
    output.promptTokens,
    output.completionTokens,
    output.durationMilliseconds,
  ]);
}

/** Ends a task with its answer: state, message, agent status and events in one commit. @throws StaleAttemptError */
export async function completeTask(operation: WriteOperation, claim: Claim, content: string): Promise<void> {
  const task = await finishAttempt(operation, claim, { state: 'COMPLETED' });
  if (task.agentId !== null) {
    await settleAgent(operation, task.agentId, task.running, null);
  }
  if (task.sessionId !== null) {
    await storeAnswer(operation, {
      id: task.answerId,
      sessionId: task.sessionId,
      agentId: task.agentId,
      taskId: task.taskId,
      content,
    });
  }
  operation.emit({ type: 'task_completed', sessionId: task.sessionId, taskId: task.taskId });
}

/** Ends an attempt that failed: another attempt later where that may help, else the end. @throws StaleAttemptError */
export async function failTask(
  operation: WriteOperation,
  claim: Claim,
  failure: { code: ErrorCode; message: string; retryAfter?: number | undefined },
): Promise<void> {
  const current = await taskById(operation, claim.taskId);
  if (current === null) {
    throw new StaleAttemptError();
  }
  const outcome = failureOutcome(operation.clock, failure, claim.attempt, current.maxAttempts);
  const task = await finishAttempt(operation, claim, outcome);
  if (task.agentId !== null) {
    await settleAgent(operation, task.agentId, task.running, failure.message);
  }
  operation.emit({
    type: 'task_failed',
    sessionId: task.sessionId,
    taskId: task.taskId,
    code: failure.code,
    willRetry: outcome.state === 'RETRYING',
  });
}

function failureOutcome(
  clock: Clock,
  failure: { code: ErrorCode; message: string; retryAfter?: number | undefined },
  attempt: number,
  maxAttempts: number,
): Outcome {
  const delay = retryDelay(failure, attempt, maxAttempts);
  const { code, message } = failure;
  return delay === null
    ? { state: 'FAILED', code, message }
    : { state: 'RETRYING', code, message, dueAt: new Date(clock.now().getTime() + delay) };
}
