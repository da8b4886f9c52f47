import { v7 as uuidv7 } from 'uuid';
import { statement } from '../adapters/postgres.ts';
import { badInput, DomainError, notFound } from '../errors.ts';
import type { BusyPolicy } from '../generated/prisma/enums.ts';
import type { MessageModel } from '../generated/prisma/models.ts';
import { type ReadOperation, type WriteOperation, writeTogether } from '../operation.ts';
import { enqueueTask } from '../queue/task.ts';
import { orchestratorOfTeam } from './orchestrator.ts';
import { childPages, type List, loadChildPage, type Page, type PageArguments } from './page.ts';
import { addPlan } from './plan.ts';
import { checkQuotasOfMessage } from './quota.ts';
import { sessionUsed } from './session.ts';
import { rowsById, tables } from './table.ts';
import { keepTask } from './task.ts';
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

const insert = statement<MessageModel & Record<string, unknown>>(`
  INSERT INTO messages (user_id, id, session_id, position, role, content, plan_id)
  VALUES ($1, $2, $3, $4, 'USER', $5, $6) RETURNING ${tables.message.columns}`);
// The session's row stays locked, so that places follow the order of commits.
const insertAnswer = statement<{ position: number }>(`
  WITH place AS (
    UPDATE sessions SET ${sessionUsed}
    WHERE user_id = $1 AND id = $3 RETURNING message_count AS position
  )
  INSERT INTO messages (user_id, id, session_id, position, role, agent_id, plan_id, task_id, content)
  SELECT $1, $2, $3, place.position, $4, $5, $6, $7, $8 FROM place RETURNING position`);

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
  const { laneId, position } = await takePlace(operation, input);
  const messageId = uuidv7();
  const planId = agentId === null ? uuidv7() : null;
  const taskId = uuidv7();
  const { userId } = operation;
  operation.emit({ type: 'message_created', sessionId, messageId });
  if (agentId !== null) {
    operation.emit({ type: 'direct_agent_call', sessionId, taskId, agentId, messageId });
  }
  // None of them needs to hear of another, so that they take one trip.
  await writeTogether(
    operation,
    async (write) => {
      if (planId !== null) {
        await addPlan(write, { id: planId, sessionId, orchestratorId: laneId, request: content });
      }
    },
    async (write) => {
      const [message] = await write.query(insert, [userId, messageId, sessionId, position, content, planId]);
      if (message !== undefined) {
        write.keep(loadMessages, message);
      }
    },
    async (write) => {
      const kind = agentId === null ? 'PLAN' : 'AGENT_RUN';
      const task = await enqueueTask(write, {
        id: taskId,
        kind,
        laneId,
        agentId,
        sessionId,
        planId,
        messageId,
        sessionOrder: position,
      });
      keepTask(write, task);
      if (planId !== null && task.state === 'RUNNING') {
        // The planner that has been given it need not tell.
        write.emit({ type: 'planning_started', sessionId, planId, taskId });
      }
    },
    checkQuotasOfMessage,
  );
  return { messageId, sessionId, taskId };
}

/** Takes the message's turn, in the lane of its agent or of the orchestrator. */
async function takePlace(
  operation: WriteOperation,
  { sessionId, targetAgentId, busyPolicy = null }: SendMessageInput,
): Promise<{ laneId: string; position: number }> {
  const session = { id: sessionId, policy: busyPolicy };
  if (typeof targetAgentId === 'string') {
    const lane = { id: targetAgentId, kind: 'AGENT' } as const;
    return { laneId: lane.id, position: await takeTurn(operation, lane, session) };
  }
  // An orchestrator's lane has its id.
  const lane = { id: await orchestratorOfTeam(operation), kind: 'ORCHESTRATOR' } as const;
  return { laneId: lane.id, position: await takeTurn(operation, lane, session) };
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
