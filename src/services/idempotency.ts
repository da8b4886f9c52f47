import { createHash } from 'node:crypto';
import { statement } from '../adapters/postgres.ts';
import { badInput, DomainError } from '../errors.ts';
import type { WriteOperation } from '../operation.ts';

/** What a mutation came to: ids, from which its payload is read anew each time. */
export type MutationOutcome = Record<string, string>;

export interface IdempotentRequest {
  /** The caller's Idempotency-Key, or null when none was sent. */
  key: string | null;
  /** Where in the response the field stands, so that one request may hold several mutations. */
  path: string;
  /** What is asked: the field and its arguments. The same key may not stand for something else. */
  request: unknown;
}

const claim = statement<{ key: string }>(`
  INSERT INTO idempotency_keys (user_id, key, path, request_hash, outcome) VALUES ($1, $2, $3, $4, '{}')
  ON CONFLICT (user_id, key, path) DO NOTHING RETURNING key`);
const find = statement<{ requestHash: string; outcome: MutationOutcome }>(
  `SELECT request_hash AS "requestHash", outcome FROM idempotency_keys WHERE user_id = $1 AND key = $2 AND path = $3`,
);
const settle = statement(`UPDATE idempotency_keys SET outcome = $4 WHERE user_id = $1 AND key = $2 AND path = $3`);

/**
 * Does the work once per key, and answers a repetition with the outcome of the first. The key is written in the work's
 * own transaction: when the work fails, the key is free again, and of two at once the second waits for the first.
 * @throws DomainError IDEMPOTENCY_KEY_REUSED, BAD_USER_INPUT
 */
export async function once<Outcome extends MutationOutcome>(
  operation: WriteOperation,
  request: IdempotentRequest,
  work: () => Promise<Outcome>,
): Promise<Outcome> {
  if (request.key === null) {
    return work();
  }
  if (!/^[\x21-\x7e]{1,255}$/.test(request.key)) {
    throw badInput('Idempotency-Key', 'An Idempotency-Key has 1 to 255 visible ASCII characters.');
  }
  const place = [operation.userId, request.key, request.path];
  const hash = createHash('sha256').update(JSON.stringify(request.request)).digest('base64url');
  const claimed = await operation.query(claim, [...place, hash]);
  if (claimed.length > 0) {
    const outcome = await work();
    await operation.query(settle, [...place, JSON.stringify(outcome)]);
    return outcome;
  }
  const [earlier] = await operation.query(find, place);
  if (earlier === undefined || earlier.requestHash !== hash) {
    throw new DomainError('IDEMPOTENCY_KEY_REUSED', 'This Idempotency-Key was used for a different request.', {
      field: 'Idempotency-Key',
    });
  }
  return earlier.outcome as Outcome;
}
