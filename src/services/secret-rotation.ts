import { type Database, statement } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import type { Operation, WriteOperation } from '../operation.ts';
import type { SecretBox, SecretOwner } from './secret-box.ts';
import { openSecrets } from './tool-secrets.ts';

const batch = 200;

const outdated = statement<{ userId: string; source: SecretOwner['table']; rowId: string }>(
  `SELECT user_id AS "userId", source, row_id AS "rowId" FROM queue.secrets_to_reseal($1, $2)`,
);
const sources = {
  tools: sourceStatements('tools'),
  mcp_servers: sourceStatements('mcp_servers'),
} as const satisfies Record<SecretOwner['table'], unknown>;

function sourceStatements(table: SecretOwner['table']) {
  return {
    lock: statement<{ secrets: Uint8Array | null; secretsKeyId: string | null }>(
      `SELECT secrets, secrets_key_id AS "secretsKeyId" FROM ${table} WHERE user_id = $1 AND id = $2 FOR UPDATE`,
    ),
    change: statement(`UPDATE ${table} SET secrets = $3, secrets_key_id = $4 WHERE user_id = $1 AND id = $2`),
  };
}

/**
 * Seals secrets again that an older key of the ring sealed, each as its user and in a transaction of its own, so that
 * the old key can be taken away. Those that no key opens stay as they are.
 * @returns how many were sealed again; at most 200 a call
 */
export async function resealSecrets(
  database: Database,
  openOperation: (userId: string) => Operation,
  box: SecretBox,
): Promise<number> {
  if (box.currentKeyId === null) {
    return 0;
  }
  let resealed = 0;
  for (const { userId, source, rowId } of await database.query(outdated, [box.currentKeyId, batch])) {
    resealed += await openOperation(userId)
      .write((write) => reseal(write, { userId, table: source, rowId }, box))
      .catch(ignoreLostKey);
  }
  return resealed;
}

async function reseal(operation: WriteOperation, owner: SecretOwner, box: SecretBox): Promise<number> {
  const { lock, change } = sources[owner.table];
  const [row] = await operation.query(lock, [owner.userId, owner.rowId]);
  if (row === undefined || row.secrets === null || row.secretsKeyId === box.currentKeyId) {
    return 0;
  }
  const { bytes, keyId } = box.seal(owner, openSecrets(box, owner, row));
  await operation.query(change, [owner.userId, owner.rowId, bytes, keyId]);
  return 1;
}

function ignoreLostKey(error: unknown): number {
  if (error instanceof DomainError && error.code === 'SECRETS_UNAVAILABLE') {
    return 0;
  }
  throw error;
}
