import type { GraphQLResolveInfo, ResponsePath } from 'graphql';
import type { WriteOperation } from '../operation.ts';
import type { Context } from '../schema/builder.ts';
import type { MutationOutcome } from '../services/idempotency.ts';

/** Runs a mutation field: in a transaction of its own, and once per Idempotency-Key. */
export function mutate<Outcome extends MutationOutcome>(
  context: Context,
  info: GraphQLResolveInfo,
  request: unknown,
  work: (operation: WriteOperation) => Promise<Outcome>,
): Promise<Outcome> {
  return context.mutate({ path: pathText(info.path), request: [info.fieldName, request] }, work);
}

function pathText(path: ResponsePath): string {
  return path.prev === undefined ? String(path.key) : `${pathText(path.prev)}.${path.key}`;
}
