import { statement } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import type { QuotaName } from '../terms.ts';

/** How much of a quota a user has used. */
export interface QuotaState {
  name: QuotaName;
  limit: number;
  used: number;
  /** When what is used starts anew; null for what only goes down when something is removed or ends. */
  resetsAt: Date | null;
}

export const quotaNames: readonly QuotaName[] = [
  'AGENTS',
  'SESSIONS',
  'STORED_BYTES',
  'CONCURRENT_TASKS',
  'TOKENS_PER_DAY',
];

/** Where a user's own limit stands, and how what is used is counted. */
const rules: Record<QuotaName, { column: string; used: string; what: string }> = {
  AGENTS: {
    column: 'agents',
    used: 'SELECT count(*) FROM agents WHERE user_id = $1',
    what: 'agents',
  },
  SESSIONS: {
    column: 'sessions',
    used: 'SELECT count(*) FROM sessions WHERE user_id = $1',
    what: 'sessions',
  },
  STORED_BYTES: {
    column: 'stored_bytes',
    used: 'SELECT stored_bytes FROM tenants WHERE user_id = $1',
    what: 'bytes of documents',
  },
  // Tasks that wait for a decision hold nothing and are not counted.
  CONCURRENT_TASKS: {
    column: 'concurrent_tasks',
    used: 'SELECT sum(blocked + queued + retrying + running) FROM lanes WHERE user_id = $1',
    what: 'tasks at once',
  },
  TOKENS_PER_DAY: {
    column: 'tokens_per_day',
    used: `SELECT sum(prompt_tokens + completion_tokens) FROM usage_days
      WHERE user_id = $1 AND day = (now() AT TIME ZONE 'UTC')::date`,
    what: 'tokens a day',
  },
};

type Row = { own: number | null; used: number };

const reads = Object.fromEntries(
  quotaNames.map((name) => [
    name,
    statement<Row>(`
      SELECT (SELECT ${rules[name].column}::float8 FROM quotas WHERE user_id = $1) AS own,
        coalesce((${rules[name].used}), 0)::float8 AS used`),
  ]),
) as Record<QuotaName, ReturnType<typeof statement<Row>>>;
const lockUser = statement(`SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE`);

/** What a user has of each quota, and how much of it is used. */
export function listQuotas(operation: ReadOperation): Promise<QuotaState[]> {
  return Promise.all(quotaNames.map((name) => quotaOf(operation, name)));
}

/**
 * Checks a quota after something was added in the same transaction. The user's row is locked first, so that of many at
 * once exactly as many get through as there is room for: call it last, when all other locks are held.
 * @throws DomainError QUOTA_EXCEEDED, which takes the whole transaction back
 */
export async function checkQuota(operation: WriteOperation, name: QuotaName): Promise<void> {
  // Both travel at once, and the count is read behind the lock.
  const [, state] = await Promise.all([operation.query(lockUser, [operation.userId]), quotaOf(operation, name)]);
  if (state.used > state.limit) {
    // What the caller tried to add is counted here, but was never theirs.
    throw exceeded({ ...state, used: Math.min(state.used, state.limit) });
  }
}

/** Checks that tokens are left for today. What a call will use is known only after it. @throws DomainError QUOTA_EXCEEDED */
export async function checkTokensLeft(operation: ReadOperation): Promise<void> {
  const state = await quotaOf(operation, 'TOKENS_PER_DAY');
  if (isUsedUp(state)) {
    throw exceeded(state);
  }
}

/** Whether tokens are left for today, for what can also be done without a model. */
export async function hasTokensLeft(operation: ReadOperation): Promise<boolean> {
  return !isUsedUp(await quotaOf(operation, 'TOKENS_PER_DAY'));
}

function isUsedUp({ used, limit }: QuotaState): boolean {
  return used >= limit;
}

async function quotaOf(operation: ReadOperation, name: QuotaName): Promise<QuotaState> {
  const [row] = await operation.query(reads[name], [operation.userId]);
  return {
    name,
    limit: row?.own ?? operation.terms.quotas[name],
    used: row?.used ?? 0,
    resetsAt: name === 'TOKENS_PER_DAY' ? nextDay(operation.clock.now()) : null,
  };
}

function exceeded(state: QuotaState): DomainError {
  const { name, limit, used, resetsAt } = state;
  return new DomainError('QUOTA_EXCEEDED', `Your quota is ${limit} ${rules[name].what}, and it is used up.`, {
    quota: { name, limit, used, resetsAt },
  });
}

function nextDay(now: Date): Date {
  return new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate() + 1));
}
