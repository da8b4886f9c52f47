import type { GraphQLResolveInfo, ResponsePath } from 'graphql';
import type { RateLimitName } from '../adapters/rate-limit.ts';
import type { WriteOperation } from '../operation.ts';
import type { Context } from '../schema/builder.ts';
import type { MutationOutcome } from '../services/idempotency.ts';

/**
 * Mutations that lead to calls of a model or to much work, and the limit that each counts for. What calls out before it
 * writes counts by itself: `refreshMcpServer`, and `searchMemory`, which only reads.
 */
export const costlyFields: Readonly<Record<string, RateLimitName>> = {
  sendMessage: 'SEND',
  retryPlan: 'SEND',
  requestAgain: 'SEND',
  ingestDocuments: 'INGEST',
  syncSource: 'INGEST',
  pruneMemory: 'INGEST',
  rebuildMemory: 'COSTLY',
};

/**
 * Runs a mutation field: in a transaction of its own, and once per Idempotency-Key.
 * @throws DomainError RATE_LIMITED
 */
export async function mutate<Outcome extends MutationOutcome>(
  context: Context,
  info: GraphQLResolveInfo,
  request: unknown,
  work: (operation: WriteOperation) => Promise<Outcome>,
): Promise<Outcome> {
  const name = costlyFields[info.fieldName];
  if (name !== undefined) {
    await context.takeCostly(name);
  }
  return context.mutate({ path: pathText(info.path), request: [info.fieldName, request] }, work);
}

function pathText(path: ResponsePath): string {
  return path.prev === undefined ? String(path.key) : `${pathText(path.prev)}.${path.key}`;
}
