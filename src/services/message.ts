import { v7 as uuidv7 } from 'uuid';
import { statement } from '../adapters/postgres.ts';
import { badInput, DomainError, notFound } from '../errors.ts';
import type { BusyPolicy } from '../generated/prisma/enums.ts';
import type { MessageModel } from '../generated/prisma/models.ts';
import { type ReadOperation, type WriteOperation, writeTogether } from '../operation.ts';
import { enqueueInTurn, takenTurn } from '../queue/task.ts';
import { orchestratorOfTeam } from './orchestrator.ts';
import { childPages, type List, loadChildPage, type Page, type PageArguments } from './page.ts';
import { addPlan } from './plan.ts';
import { checkQuotasOfMessage } from './quota.ts';
import { sessionUsed } from './session.ts';
import { rowsById, tables } from './table.ts';
import { keepTask } from './task.ts';
import { interruptForTurn, takeTurn } from './turn.ts';

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
  SELECT $1, $2, $3, turn.place, 'USER', $4, $5 FROM (${takenTurn('$3')}) AS turn RETURNING ${tables.message.columns}`);
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
  // An orchestrator's lane has its id.
  const laneId = agentId ?? (await orchestratorOfTeam(operation));
  const messageId = uuidv7();
  const planId = agentId === null ? uuidv7() : null;
  const taskId = uuidv7();
  operation.emit({ type: 'message_created', sessionId, messageId });
  if (agentId !== null) {
    operation.emit({ type: 'direct_agent_call', sessionId, taskId, agentId, messageId });
  }
  const lane = { id: laneId, kind: agentId === null ? 'ORCHESTRATOR' : 'AGENT' } as const;
  const wanted = { lane, sessionId, policy: input.busyPolicy ?? null, taskId };
  const message = { messageId, sessionId, taskId, laneId, agentId, planId, content };
  let hasTurn = false;
  // What the turn leads to travels with it, and does nothing without it: both take one trip.
  await storeMessage(operation, message, async (write) => {
    hasTurn = await takeTurn(write, wanted);
  });
  if (!hasTurn) {
    await interruptForTurn(operation, wanted);
    await storeMessage(operation, message, async () => undefined);
  }
  return { messageId, sessionId, taskId };
}

interface NewMessage extends SentMessage {
  laneId: string;
  agentId: string | null;
  planId: string | null;
  content: string;
}

/** Stores a message and what it leads to, in the turn that the transaction has taken; nothing without one. */
async function storeMessage(
  operation: WriteOperation,
  { messageId, sessionId, taskId, laneId, agentId, planId, content }: NewMessage,
  takeTurnFirst: (operation: WriteOperation) => Promise<void>,
): Promise<void> {
  await writeTogether(
    operation,
    takeTurnFirst,
    async (write) => {
      if (planId !== null) {
        await addPlan(write, { id: planId, sessionId, orchestratorId: laneId, request: content });
      }
    },
    async (write) => {
      const [message] = await write.query(insert, [write.userId, messageId, sessionId, content, planId]);
      if (message !== undefined) {
        write.keep(loadMessages, message);
      }
    },
    async (write) => {
      const kind = agentId === null ? 'PLAN' : 'AGENT_RUN';
      const task = await enqueueInTurn(write, { id: taskId, kind, laneId, agentId, sessionId, planId, messageId });
      if (task !== null) {
        keepTask(write, task);
      }
      if (planId !== null && task?.state === 'RUNNING') {
        // The planner that has been given it need not tell.
        write.emit({ type: 'planning_started', sessionId, planId, taskId });
      }
    },
    checkQuotasOfMessage,
  );
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
