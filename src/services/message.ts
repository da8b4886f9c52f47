import { statement } from '../adapters/postgres.ts';
import { badInput, DomainError, notFound } from '../errors.ts';
import type { BusyPolicy } from '../generated/prisma/enums.ts';
import type { MessageModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { enqueueTask } from '../queue/task.ts';
import { currentOrchestrator } from './orchestrator.ts';
import { childPages, type List, loadChildPage, type Page, type PageArguments } from './page.ts';
import { checkQuota, checkTokensLeft } from './quota.ts';
import { sessionLifeDays, takePosition } from './session.ts';
import { rowsById, tables } from './table.ts';
import { takeTurn } from './turn.ts';

export interface SendMessageInput {
  sessionId: string;
  /** Null lets the orchestrator plan. */
  targetAgentId?: string | null | undefined;
  content: string;
  /** What to do when the session has open tasks; null for what the session does by default. */
  busyPolicy?: BusyPolicy | null | undefined;
}

/** Ids of what a sent message became; the same ids answer a repeated request with the same Idempotency-Key. */
export type SentMessage = { messageId: string; sessionId: string; taskId: string };

/** Most bytes of UTF-8 that a user's message may have. */
export const maximumMessageBytes = 100_000;

const messageList: List<MessageModel> = {
  table: tables.message,
  order: [{ field: 'position', column: 'position', type: 'integer' }],
  direction: 'ascending',
};

const loadMessages = rowsById<MessageModel>(tables.message);
const loadSessionMessages = childPages(messageList, 'session_id');

const insert = statement<{ id: string }>(`
  INSERT INTO messages (user_id, session_id, position, role, content, plan_id) VALUES ($1, $2, $3, 'USER', $4, $5) RETURNING id`);
// The session's row stays locked, so that places follow the order of commits.
const insertAnswer = statement<{ position: number }>(`
  WITH place AS (
    UPDATE sessions SET message_count = message_count + 1, last_accessed_at = now(),
      expires_at = now() + make_interval(days => ${sessionLifeDays})
    WHERE user_id = $1 AND id = $3 RETURNING message_count AS position
  )
  INSERT INTO messages (user_id, id, session_id, position, role, agent_id, plan_id, task_id, content)
  SELECT $1, $2, $3, place.position, $4, $5, $6, $7, $8 FROM place RETURNING position`);
const insertPlan = statement<{ id: string }>(`
  INSERT INTO plans (user_id, session_id, orchestrator_id, request) VALUES ($1, $2, $3, $4) RETURNING id`);
const hasAgents = statement<{ present: boolean }>(`SELECT EXISTS (SELECT FROM agents WHERE user_id = $1) AS present`);

/** The caller's message of that id, or null. */
export function messageById(operation: ReadOperation, id: string): Promise<MessageModel | null> {
  return operation.load(loadMessages, id);
}

/** A session's messages in their order. Pages of many sessions are read in one statement. */
export function listSessionMessages(
  operation: ReadOperation,
  sessionId: string,
  page: PageArguments,
): Promise<Page<MessageModel>> {
  return loadChildPage(operation, loadSessionMessages, sessionId, page);
}

/**
 * Stores the user's message and the task that leads to its answer in one commit. With a target that agent answers;
 * without one the orchestrator plans, and the team answers together.
 * @throws DomainError BAD_USER_INPUT, MESSAGE_TOO_LARGE, NOT_FOUND, SESSION_EXPIRED, SESSION_BUSY, AGENT_QUEUE_FULL, NO_AGENTS,
 *   QUOTA_EXCEEDED
 */
export async function sendMessage(operation: WriteOperation, input: SendMessageInput): Promise<SentMessage> {
  const { sessionId, content } = input;
  const agentId = input.targetAgentId ?? null;
  checkContent(content);
  await checkTokensLeft(operation);
  const laneId = agentId ?? (await orchestratorLane(operation));
  const lane = { id: laneId, kind: agentId === null ? 'ORCHESTRATOR' : 'AGENT' } as const;
  await takeTurn(operation, lane, { id: sessionId, policy: input.busyPolicy ?? null });
  const position = await takePosition(operation, sessionId, 'user');
  const planId = agentId === null ? await addPlan(operation, { sessionId, orchestratorId: laneId, content }) : null;
  const [message] = await operation.query(insert, [operation.userId, sessionId, position, content, planId]);
  if (message === undefined) {
    throw new Error('the message was not stored');
  }
  const taskId = await enqueueTask(operation, {
    kind: agentId === null ? 'PLAN' : 'AGENT_RUN',
    laneId,
    agentId,
    sessionId,
    planId,
    messageId: message.id,
    sessionOrder: position,
  });
  await checkQuota(operation, 'CONCURRENT_TASKS');
  operation.emit({ type: 'message_created', sessionId, messageId: message.id });
  if (agentId !== null) {
    operation.emit({ type: 'direct_agent_call', sessionId, taskId, agentId, messageId: message.id });
  }
  return { messageId: message.id, sessionId, taskId };
}

/** The orchestrator's lane. @throws DomainError NO_AGENTS when it has nobody to give tasks to */
async function orchestratorLane(operation: WriteOperation): Promise<string> {
  const [team] = await operation.query(hasAgents, [operation.userId]);
  if (team?.present !== true) {
    throw new DomainError('NO_AGENTS', 'Your team has no agents. Create one first.');
  }
  return (await currentOrchestrator(operation)).id;
}

async function addPlan(
  operation: WriteOperation,
  plan: { sessionId: string; orchestratorId: string; content: string },
): Promise<string> {
  const values = [operation.userId, plan.sessionId, plan.orchestratorId, plan.content];
  const [row] = await operation.query(insertPlan, values);
  if (row === undefined) {
    throw new Error('the plan was not stored');
  }
  return row.id;
}

/** Stores an answer, of an agent or of the orchestrator, at the end of its session. */
export async function storeAnswer(
  operation: WriteOperation,
  answer: {
    id: string;
    sessionId: string;
    role: 'AGENT' | 'ORCHESTRATOR';
    agentId: string | null;
    planId: string | null;
    taskId: string;
    content: string;
  },
): Promise<void> {
  const [stored] = await operation.query(insertAnswer, [
    operation.userId,
    answer.id,
    answer.sessionId,
    answer.role,
    answer.agentId,
    answer.planId,
    answer.taskId,
    answer.content,
  ]);
  if (stored === undefined) {
    throw notFound('session');
  }
  operation.emit({ type: 'message_created', sessionId: answer.sessionId, messageId: answer.id });
}

function checkContent(content: string): void {
  if (content.trim() === '') {
    throw badInput('input.content', 'A message may not be empty.');
  }
  if (content.includes('\u0000')) {
    throw badInput('input.content', 'A message may not hold the character U+0000.');
  }
  const bytes = Buffer.byteLength(content);
  if (bytes > maximumMessageBytes) {
    throw new DomainError(
      'MESSAGE_TOO_LARGE',
      `The message has ${bytes} bytes; at most ${maximumMessageBytes} are allowed.`,
      { field: 'input.content' },
    );
  }
}
