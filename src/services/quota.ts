import { type Statement, statement } from '../adapters/postgres.ts';
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

interface QuotaRule {
  /** Where a user's own limit stands. */
  column: string;
  /** How what is used is counted. */
  used: string;
  what: string;
  /** It is used only later by what is checked now, so that some must be left. */
  isUsedLater?: boolean;
  /** Whoever adds to it holds a row of the user from then on to the commit, so that the next one waits there. */
  isHeld?: boolean;
}

const rules: Record<QuotaName, QuotaRule> = {
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
  // Tasks that wait for a decision hold nothing and are not counted. One that is added changes the counts of its tenant.
  CONCURRENT_TASKS: {
    column: 'concurrent_tasks',
    used: 'SELECT sum(blocked + queued + retrying + running) FROM lanes WHERE user_id = $1',
    what: 'tasks at once',
    isHeld: true,
  },
  TOKENS_PER_DAY: {
    column: 'tokens_per_day',
    used: `SELECT sum(prompt_tokens + completion_tokens) FROM usage_days
      WHERE user_id = $1 AND day = (now() AT TIME ZONE 'UTC')::date`,
    what: 'tokens a day',
    isUsedLater: true,
  },
};

type Row = { name: QuotaName; own: number | null; used: number };
type Read = Statement<Row>;

/** Reads how a user stands to quotas, a row for each. */
function readOf(...names: readonly QuotaName[]): Read {
  const rows = names.map(
    (name) => `
  SELECT '${name}' AS name, (SELECT ${rules[name].column}::float8 FROM quotas WHERE user_id = $1) AS own,
    coalesce((${rules[name].used}), 0)::float8 AS used`,
  );
  return statement(rows.join('\n  UNION ALL'));
}

const reads = Object.fromEntries(quotaNames.map((name) => [name, readOf(name)])) as Record<QuotaName, Read>;
const readAll = readOf(...quotaNames);
const readOfMessage = readOf('TOKENS_PER_DAY', 'CONCURRENT_TASKS');
const lockUser = statement(`SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE`);

/** What a user has of each quota, and how much of it is used. */
export async function listQuotas(operation: ReadOperation): Promise<QuotaState[]> {
  const states = await readQuotas(operation, readAll);
  return states.toSorted((one, other) => quotaNames.indexOf(one.name) - quotaNames.indexOf(other.name));
}

/**
 * Checks a quota after something was added in the same transaction. It is counted behind a lock, so that of many at once
 * exactly as many get through as there is room for. Where that is the lock of the user's row it is taken here: call it last,
 * when all other locks are held.
 * @throws DomainError QUOTA_EXCEEDED, which takes the whole transaction back
 */
export async function checkQuota(operation: WriteOperation, name: QuotaName): Promise<void> {
  // Both travel at once, and the server takes the lock first.
  const [, states] = await Promise.all([
    rules[name].isHeld === true ? null : operation.query(lockUser, [operation.userId]),
    readQuotas(operation, reads[name]),
  ]);
  check(states);
}

/**
 * Checks what a message and its task, just added in the same transaction, are held against: tasks at once, and the tokens of
 * today.
 * @throws DomainError QUOTA_EXCEEDED, which takes the whole transaction back
 */
export async function checkQuotasOfMessage(operation: WriteOperation): Promise<void> {
  check(await readQuotas(operation, readOfMessage));
}

/** Checks that tokens are left for today. What a call will use is known only after it. @throws DomainError QUOTA_EXCEEDED */
export async function checkTokensLeft(operation: ReadOperation): Promise<void> {
  check(await readQuotas(operation, reads.TOKENS_PER_DAY));
}

/** Whether tokens are left for today, for what can also be done without a model. */
export async function hasTokensLeft(operation: ReadOperation): Promise<boolean> {
  return !(await readQuotas(operation, reads.TOKENS_PER_DAY)).some(isExceeded);
}

function check(states: readonly QuotaState[]): void {
  const state = states.find(isExceeded);
  if (state !== undefined) {
    // What the caller tried to add is counted here, but was never theirs.
    throw exceeded({ ...state, used: rules[state.name].isUsedLater ? state.used : state.limit });
  }
}

function isExceeded({ name, used, limit }: QuotaState): boolean {
  return rules[name].isUsedLater === true ? used >= limit : used > limit;
}

async function readQuotas(operation: ReadOperation, read: Read): Promise<QuotaState[]> {
  const rows = await operation.query(read, [operation.userId]);
  return rows.map(({ name, own, used }) => ({
    name,
    limit: own ?? operation.terms.quotas[name],
    used,
    resetsAt: name === 'TOKENS_PER_DAY' ? nextDay(operation.clock.now()) : null,
  }));
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
