import { statement } from '../adapters/postgres.ts';
import { badInput, DomainError, notFound } from '../errors.ts';
import type { MessageModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { reserveLane } from '../queue/lane.ts';
import { enqueueTask } from '../queue/task.ts';
import { childPages, type List, loadChildPage, type Page, type PageArguments } from './page.ts';
import { lockOpenSession, takePosition } from './session.ts';
import { rowsById, tables } from './table.ts';

export interface SendMessageInput {
  sessionId: string;
  targetAgentId: string;
  content: string;
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
  INSERT INTO messages (user_id, session_id, position, role, content) VALUES ($1, $2, $3, 'USER', $4) RETURNING id`);
const insertAnswer = statement(`
  INSERT INTO messages (user_id, id, session_id, position, role, agent_id, task_id, content)
  VALUES ($1, $2, $3, $4, 'AGENT', $5, $6, $7)`);

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
 * Direct mode: stores the user's message and the task that answers it in one commit.
 * @throws DomainError BAD_USER_INPUT, MESSAGE_TOO_LARGE, NOT_FOUND, SESSION_EXPIRED, AGENT_QUEUE_FULL
 */
export async function sendMessage(operation: WriteOperation, input: SendMessageInput): Promise<SentMessage> {
  const { sessionId, targetAgentId: agentId, content } = input;
  checkContent(content);
  if (!(await reserveLane(operation, agentId, 'input.targetAgentId'))) {
    throw notFound('agent', 'input.targetAgentId');
  }
  await lockOpenSession(operation, sessionId, 'input.sessionId');
  const position = await takePosition(operation, sessionId, 'user');
  const [message] = await operation.query(insert, [operation.userId, sessionId, position, content]);
  if (message === undefined) {
    throw new Error('the message was not stored');
  }
  const taskId = await enqueueTask(operation, {
    kind: 'AGENT_RUN',
    laneId: agentId,
    agentId,
    sessionId,
    messageId: message.id,
    sessionOrder: position,
  });
  operation.emit({ type: 'message_created', sessionId, messageId: message.id });
  operation.emit({ type: 'direct_agent_call', sessionId, taskId, agentId, messageId: message.id });
  return { messageId: message.id, sessionId, taskId };
}

/** Stores an agent's answer at the end of its session. */
export async function storeAnswer(
  operation: WriteOperation,
  answer: { id: string; sessionId: string; agentId: string | null; taskId: string; content: string },
): Promise<void> {
  const position = await takePosition(operation, answer.sessionId, 'agent');
  await operation.query(insertAnswer, [
    operation.userId,
    answer.id,
    answer.sessionId,
    position,
    answer.agentId,
    answer.taskId,
    answer.content,
  ]);
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
