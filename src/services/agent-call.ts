import { type Database, statement } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import type { TaskState } from '../generated/prisma/enums.ts';
import type { TaskModel } from '../generated/prisma/models.ts';
import { type Operation, type ReadOperation, type WriteOperation, writeTogether } from '../operation.ts';
import { reserveLane } from '../queue/lane.ts';
import { type Claim, enqueueTask, lockTaskLanes, resumeTask, StaleAttemptError } from '../queue/task.ts';
import { cancelTask } from './task.ts';

/** A question of an agent's task to another agent of its user. */
export interface AgentQuestion {
  agentName: string;
  question: string;
  /** The same for every attempt at the call: it is asked once. */
  callKey: string;
  /** How long the answer may take, in milliseconds; never longer than the asking task may still run. */
  timeout: number;
}

/** What the task of a call is told by its input. */
export interface CallInput {
  callerTaskId: string;
  question: string;
}

/** Where a call stands. */
export type AgentCallState =
  | { state: 'OPEN' }
  | { state: 'ANSWERED'; answer: string }
  | { state: 'FAILED'; reason: string };

/** How many agents may ask on: a question to an agent that was asked itself lies at depth 2. */
export const mostDepth = 3;
/** Most questions that one message may lead to, whoever asks. */
export const mostCalls = 20;

const batch = 100;
const endStates: ReadonlySet<TaskState> = new Set<TaskState>(['COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED']);

const existing = statement<{ taskId: string }>(
  `SELECT task_id AS "taskId" FROM agent_calls WHERE user_id = $1 AND caller_task_id = $2 AND call_key = $3`,
);
const findAgent = statement<{ id: string }>(`SELECT id FROM agents WHERE user_id = $1 AND lower(name) = lower($2)`);
const otherAgents = statement<{ name: string }>(
  `SELECT name FROM agents WHERE user_id = $1 AND id <> $2 ORDER BY id LIMIT 50`,
);
/** The asking task first, then the one that asked it, up to the first. */
const askers = statement<{ taskId: string; agentId: string | null }>(`
  WITH RECURSIVE chain AS (
    SELECT $2::uuid AS task_id, 0 AS place
    UNION ALL
    SELECT calls.caller_task_id, chain.place + 1 FROM chain
    JOIN agent_calls AS calls ON calls.user_id = $1 AND calls.task_id = chain.task_id
    WHERE chain.place < 100
  )
  SELECT tasks.id AS "taskId", tasks.agent_id AS "agentId" FROM chain
  JOIN tasks ON tasks.user_id = $1 AND tasks.id = chain.task_id
  ORDER BY chain.place`);
const lockTasks = statement<{ id: string; attempt: number; state: TaskState; remaining: number | null }>(`
  SELECT id, attempt, state, (extract(epoch FROM deadline_at - clock_timestamp()) * 1000)::float8 AS remaining
  FROM tasks WHERE user_id = $1 AND id = ANY ($2::uuid[]) ORDER BY id FOR NO KEY UPDATE`);
const countCalls = statement<{ count: number }>(
  `SELECT count(*)::int AS count FROM agent_calls WHERE user_id = $1 AND root_task_id = $2`,
);
const insert = statement(`
  INSERT INTO agent_calls (user_id, task_id, caller_task_id, call_key, root_task_id, depth) VALUES ($1, $2, $3, $4, $5, $6)`);
const setDeadline = statement(`
  UPDATE tasks SET deadline_at = clock_timestamp() + make_interval(secs => $3::float8 / 1000) WHERE user_id = $1 AND id = $2`);
const callerOf = statement<{ callerTaskId: string; callerState: TaskState; state: TaskState }>(`
  SELECT calls.caller_task_id AS "callerTaskId", caller.state AS "callerState", called.state
  FROM agent_calls AS calls
  JOIN tasks AS caller ON caller.user_id = $1 AND caller.id = calls.caller_task_id
  JOIN tasks AS called ON called.user_id = $1 AND called.id = calls.task_id
  WHERE calls.user_id = $1 AND calls.task_id = $2`);
const outcome = statement<{ state: TaskState; answer: string | null; errorMessage: string | null }>(`
  SELECT tasks.state, calls.answer, tasks.error_message AS "errorMessage"
  FROM agent_calls AS calls
  JOIN tasks ON tasks.user_id = calls.user_id AND tasks.id = calls.task_id
  WHERE calls.user_id = $1 AND calls.task_id = $2`);
const sessionOf = statement<{ sessionId: string | null }>(
  `SELECT session_id AS "sessionId" FROM tasks WHERE user_id = $1 AND id = $2`,
);
const storeAnswer = statement(`UPDATE agent_calls SET answer = $3 WHERE user_id = $1 AND task_id = $2`);
const settle = statement(`
  UPDATE agent_calls SET settled_at = clock_timestamp() WHERE user_id = $1 AND task_id = $2 AND settled_at IS NULL`);
const toSettle = statement<{ userId: string; taskId: string }>(
  `SELECT user_id AS "userId", task_id AS "taskId" FROM queue.calls_to_settle($1)`,
);

/** What the task of a call is told; null for every other task. */
export function callInput(task: Pick<TaskModel, 'input'>): CallInput | null {
  const { callerTaskId, question } = task.input as Partial<Record<keyof CallInput, unknown>>;
  return typeof callerTaskId === 'string' && typeof question === 'string' ? { callerTaskId, question } : null;
}

/**
 * Asks another agent: a task of its own in the lane of that agent, within the limits of the asking one. Asked again with
 * the same key it gives the same task.
 * @returns the id of the task that answers
 * @throws StaleAttemptError when the asking attempt may no longer write
 * @throws DomainError TOOL_FAILED with a reason for the model; AGENT_QUEUE_FULL
 */
export async function askAgent(operation: WriteOperation, claim: Claim, asked: AgentQuestion): Promise<string> {
  const [known] = await operation.query(existing, [operation.userId, claim.taskId, asked.callKey]);
  if (known !== undefined) {
    return known.taskId;
  }
  const chain = await operation.query(askers, [operation.userId, claim.taskId]);
  const root = chain.at(-1)?.taskId ?? claim.taskId;
  const agentId = await findAnswerer(operation, asked.agentName, chain[0]?.agentId ?? null);
  if (chain.some((asker) => asker.agentId === agentId)) {
    throw new DomainError(
      'TOOL_FAILED',
      'This agent waits for the answer itself: asking it would go round in a circle.',
    );
  }
  if (chain.length > mostDepth) {
    throw new DomainError('TOOL_FAILED', `Agents may ask on at most ${mostDepth} times in a row. Answer yourself.`);
  }
  // Lanes come before tasks in the order of locks.
  await reserveLane(operation, agentId, 'agent');
  const locked = await operation.query(lockTasks, [operation.userId, [claim.taskId, root]]);
  const caller = locked.find(({ id }) => id === claim.taskId);
  if (caller === undefined || caller.attempt !== claim.attempt || caller.state !== 'RUNNING') {
    throw new StaleAttemptError();
  }
  const [made] = await operation.query(countCalls, [operation.userId, root]);
  if ((made?.count ?? 0) >= mostCalls) {
    throw new DomainError('TOOL_FAILED', `One message may lead to at most ${mostCalls} questions between agents.`);
  }
  const [session] = await operation.query(sessionOf, [operation.userId, claim.taskId]);
  const { id: taskId } = await enqueueTask(operation, {
    kind: 'AGENT_RUN',
    laneId: agentId,
    agentId,
    sessionId: session?.sessionId ?? null,
    messageId: null,
    // The asking task keeps its turn while it waits: with a turn of its own this one would wait for it.
    sessionOrder: null,
    input: { callerTaskId: claim.taskId, question: asked.question } satisfies CallInput,
  });
  await operation.query(insert, [operation.userId, taskId, claim.taskId, asked.callKey, root, chain.length]);
  const time = Math.min(asked.timeout, caller.remaining ?? asked.timeout);
  await operation.query(setDeadline, [operation.userId, taskId, time]);
  return taskId;
}

async function findAnswerer(operation: ReadOperation, name: string, askerId: string | null): Promise<string> {
  const [agent] = await operation.query(findAgent, [operation.userId, name.trim()]);
  if (agent === undefined) {
    const others = await operation.query(otherAgents, [operation.userId, askerId]);
    throw new DomainError(
      'TOOL_FAILED',
      `There is no such agent. There are: ${others.map((one) => one.name).join(', ')}.`,
    );
  }
  return agent.id;
}

/** Where a call stands; once it has ended, what is told here has reached the caller. */
export async function collectAnswer(operation: WriteOperation, taskId: string): Promise<AgentCallState> {
  const [call] = await operation.query(outcome, [operation.userId, taskId]);
  if (call !== undefined && !endStates.has(call.state)) {
    return { state: 'OPEN' };
  }
  await operation.query(settle, [operation.userId, taskId]);
  if (call?.state === 'COMPLETED') {
    return { state: 'ANSWERED', answer: call.answer ?? '' };
  }
  const reason = call?.state === 'FAILED' ? (call.errorMessage ?? 'it failed') : 'it was cancelled';
  return { state: 'FAILED', reason };
}

/** Whether a call has ended. */
export async function hasAnswer(operation: ReadOperation, taskId: string): Promise<boolean> {
  const [call] = await operation.query(outcome, [operation.userId, taskId]);
  return call === undefined || endStates.has(call.state);
}

/** Locks the lanes of both tasks of a call: first in the transaction that ends the call. */
export async function lockCall(operation: WriteOperation, taskId: string, callerTaskId: string): Promise<void> {
  await lockTaskLanes(operation, [taskId, callerTaskId]);
}

/** Stores the answer of a call, in the commit that completes its task, and queues the caller when it waits. */
export async function storeCallAnswer(
  operation: WriteOperation,
  taskId: string,
  callerTaskId: string,
  answer: string,
): Promise<void> {
  await writeTogether(
    operation,
    (write) => write.query(storeAnswer, [write.userId, taskId, answer]),
    async (write) => {
      if (await resumeTask(write, callerTaskId)) {
        await write.query(settle, [write.userId, taskId]);
      }
    },
  );
}

/**
 * Tells waiting callers that their calls have ended without an answer, and takes back calls that nobody waits for any
 * more; each as its user and in a transaction of its own.
 * @returns how many; at most 100 a call
 * @throws the first fault, when all others are done
 */
export async function settleCalls(database: Database, openOperation: (userId: string) => Operation): Promise<number> {
  const calls = await database.query(toSettle, [batch]);
  const faults: unknown[] = [];
  for (const { userId, taskId } of calls) {
    await openOperation(userId)
      .write((write) => settleCall(write, taskId))
      .catch((error: unknown) => faults.push(error));
  }
  if (faults.length > 0) {
    throw faults[0];
  }
  return calls.length;
}

async function settleCall(operation: WriteOperation, taskId: string): Promise<void> {
  const [found] = await operation.query(callerOf, [operation.userId, taskId]);
  if (found === undefined) {
    return;
  }
  await lockCall(operation, taskId, found.callerTaskId);
  const [call] = await operation.query(callerOf, [operation.userId, taskId]);
  if (call === undefined) {
    return;
  }
  const isOver = endStates.has(call.state);
  if (endStates.has(call.callerState)) {
    if (!isOver) {
      await cancelTask(operation, taskId);
    }
  } else if (!isOver || !(await resumeTask(operation, call.callerTaskId))) {
    // It runs by now, and finds the end by itself or waits again.
    return;
  }
  await operation.query(settle, [operation.userId, taskId]);
}
