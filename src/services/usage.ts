import { statement } from '../adapters/postgres.ts';
import { type RateLimitName, type RateLimits, rateLimitNames } from '../adapters/rate-limit.ts';
import { badInput } from '../errors.ts';
import type { ModelUsageKind } from '../generated/prisma/enums.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { costOf } from '../terms.ts';

/** What one model did for a user on one day of UTC. */
export type UsageDay = {
  day: string;
  kind: ModelUsageKind;
  model: string;
  calls: number;
  promptTokens: number;
  completionTokens: number;
  costUsd: number;
};

/** A limit by the minute, as the user stands to it now. */
export interface RateLimitStatus {
  name: RateLimitName;
  limit: number;
  remaining: number;
  resetsAt: Date;
}

/** One call of a model, as it is written down. */
export interface ModelUse {
  kind: ModelUsageKind;
  model: string;
  promptTokens: number;
  completionTokens: number;
  durationMilliseconds: number;
}

/** Most days that can be asked for. */
const mostDays = 90;

// The agent may be deleted while its memory is searched; the tokens are used all the same.
const insert = statement(`
  INSERT INTO model_usage
    (user_id, kind, agent_id, model, prompt_tokens, completion_tokens, duration_milliseconds, cost_micros)
  VALUES ($1, $2, (SELECT id FROM agents WHERE user_id = $1 AND id = $3 FOR KEY SHARE), $4, $5, $6, $7, $8)`);
/** SQL that writes down `valuesOfTaskUse`, $1 to $8: for a statement that writes more beside it. */
export const insertTaskUse = `
  INSERT INTO model_usage
    (user_id, kind, agent_id, task_id, model, prompt_tokens, completion_tokens, duration_milliseconds, cost_micros)
  SELECT $1, $2, agent_id, id, $4, $5, $6, $7, $8 FROM tasks WHERE user_id = $1 AND id = $3`;
const insertOfTask = statement(insertTaskUse);
const days = statement<UsageDay>(`
  SELECT to_char(day, 'YYYY-MM-DD') AS day, kind, model, calls::float8 AS calls,
    prompt_tokens::float8 AS "promptTokens", completion_tokens::float8 AS "completionTokens",
    cost_micros::float8 / 1000000 AS "costUsd"
  FROM usage_days WHERE user_id = $1 AND day > (now() AT TIME ZONE 'UTC')::date - $2::int
  ORDER BY day DESC, cost_micros DESC, kind, model`);

/** Writes down what a task's call of a model used and cost. */
export async function recordTaskUse(operation: WriteOperation, taskId: string, use: ModelUse): Promise<void> {
  await operation.query(insertOfTask, valuesOfTaskUse(operation, taskId, use));
}

/** The user, the task ($3), and what its call of a model used and cost. */
export function valuesOfTaskUse({ userId, terms }: WriteOperation, taskId: string, use: ModelUse): unknown[] {
  const { kind, model, promptTokens, completionTokens, durationMilliseconds } = use;
  return [userId, kind, taskId, model, promptTokens, completionTokens, durationMilliseconds, costOf(terms, use)];
}

/** Writes down what a call outside of any task used and cost, such as the embedding of a search. */
export async function recordUse(operation: WriteOperation, agentId: string | null, use: ModelUse): Promise<void> {
  const { kind, model, promptTokens, completionTokens, durationMilliseconds } = use;
  const cost = costOf(operation.terms, use);
  const tokens = [promptTokens, completionTokens];
  await operation.query(insert, [operation.userId, kind, agentId, model, ...tokens, durationMilliseconds, cost]);
}

/** Model calls by day and model, newest day first. @throws DomainError BAD_USER_INPUT */
export function listUsageDays(operation: ReadOperation, wanted: number): Promise<UsageDay[]> {
  if (!Number.isInteger(wanted) || wanted < 1 || wanted > mostDays) {
    throw badInput('days', `\`days\` must be from 1 to ${mostDays}.`);
  }
  return operation.query(days, [operation.userId, wanted]);
}

/** What is left of the limits by the minute. */
export function listRateLimits(operation: ReadOperation, rates: RateLimits): Promise<RateLimitStatus[]> {
  return Promise.all(
    rateLimitNames.map(async (name) => {
      const { limit, remaining, resetsIn } = await rates.peek(name, operation.userId);
      return { name, limit, remaining, resetsAt: new Date(operation.clock.now().getTime() + resetsIn) };
    }),
  );
}
