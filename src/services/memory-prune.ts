import { z } from 'zod';
import { statement } from '../adapters/postgres.ts';
import { badInput } from '../errors.ts';
import type { AgentModel } from '../generated/prisma/models.ts';
import type { WriteOperation } from '../operation.ts';
import { type Claim, holdAttempt } from '../queue/task.ts';
import { parseInput } from './input.ts';
import { lockMemory } from './memory.ts';
import { forgetMemoryCollection } from './memory-index.ts';
import { removeDocuments, sourceRule } from './memory-ingest.ts';
import { countJob, type PruneCriteria, startMemoryJob } from './memory-job.ts';

export interface PruneInput {
  agentId: string;
  olderThanDays?: number | null | undefined;
  maxBytes?: number | null | undefined;
  source?: string | null | undefined;
}

/** Documents that one commit takes away. */
const batch = 50;
const millisecondsPerDay = 86_400_000;

const rules = z.object({
  olderThanDays: z
    .int()
    .min(0, '`olderThanDays` may not be negative.')
    .max(36_500, '`olderThanDays` may be at most 36,500.')
    .nullish(),
  maxBytes: z.int().min(0, '`maxBytes` may not be negative.').nullish(),
  source: sourceRule.nullish(),
});

const selectOld = statement<{ id: string }>(`
  SELECT id FROM memory_documents
  WHERE user_id = $1 AND memory_id = $2 AND ($3::timestamptz IS NULL OR updated_at < $3) AND ($4::text IS NULL OR source = $4)
  ORDER BY updated_at, id LIMIT ${batch}`);
const selectSurplus = statement<{ id: string }>(`
  SELECT oldest.id FROM (
    SELECT id, updated_at, sum(bytes) OVER (ORDER BY updated_at, id) - bytes AS older FROM (
      SELECT id, updated_at, bytes FROM memory_documents
      WHERE user_id = $1 AND memory_id = $2 AND ($4::text IS NULL OR source = $4) ORDER BY updated_at, id LIMIT ${batch}
    ) AS first
  ) AS oldest
  WHERE oldest.older < (
    SELECT coalesce(sum(bytes), 0) - $3::bigint FROM memory_documents
    WHERE user_id = $1 AND memory_id = $2 AND ($4::text IS NULL OR source = $4)
  )`);
const notePruned = statement(`UPDATE memories SET pruned_at = now() WHERE user_id = $1 AND id = $2`);

/**
 * Has documents taken out of an agent's memory: those that have not changed for so many days, the oldest beyond a size, or
 * a whole source when only that is named; of one source alone when it is named beside.
 * @throws DomainError NOT_FOUND, BAD_USER_INPUT, AGENT_QUEUE_FULL
 */
export async function pruneMemory(operation: WriteOperation, input: PruneInput): Promise<{ taskId: string }> {
  const { olderThanDays, maxBytes, source } = parseInput(rules, input, 'input');
  if (typeof olderThanDays !== 'number' && typeof maxBytes !== 'number' && typeof source !== 'string') {
    throw badInput('input', 'Say what to prune: `olderThanDays`, `maxBytes` or `source`.');
  }
  const criteria: PruneCriteria = {
    ...(typeof olderThanDays === 'number' ? { before: daysAgo(operation, olderThanDays) } : {}),
    ...(typeof maxBytes === 'number' ? { maxBytes } : {}),
    ...(typeof source === 'string' ? { source } : {}),
  };
  const { agentId } = input;
  const laneId = await lockMemory(operation, agentId, 'input.agentId');
  return { taskId: await startMemoryJob(operation, { agentId, laneId, kind: 'PRUNE', criteria }, {}) };
}

/**
 * Has the index of an agent's memory made anew from the stored text. Until that is done, search goes by words.
 * @throws DomainError NOT_FOUND, AGENT_QUEUE_FULL
 */
export async function rebuildMemory(operation: WriteOperation, agentId: string): Promise<{ taskId: string }> {
  const laneId = await lockMemory(operation, agentId, 'agentId');
  await forgetMemoryCollection(operation, agentId);
  return { taskId: await startMemoryJob(operation, { agentId, laneId, kind: 'REBUILD' }, {}) };
}

/** What an agent's own settings say of how long and how much it remembers. */
export function standingCriteria(
  operation: Pick<WriteOperation, 'clock'>,
  agent: Pick<AgentModel, 'memoryMaxAgeDays' | 'memoryMaxBytes'>,
): PruneCriteria {
  return {
    ...(agent.memoryMaxAgeDays === null ? {} : { before: daysAgo(operation, agent.memoryMaxAgeDays) }),
    ...(agent.memoryMaxBytes === null ? {} : { maxBytes: Number(agent.memoryMaxBytes) }),
  };
}

/**
 * Takes away the next documents that the criteria name, in one commit.
 * @returns how many; 0 when none is left
 * @throws StaleAttemptError
 */
export async function pruneBatch(
  operation: WriteOperation,
  claim: Claim,
  memoryId: string,
  criteria: PruneCriteria,
): Promise<number> {
  const { before, maxBytes, source = null } = criteria;
  await holdAttempt(operation, claim);
  const isWholeSource = source !== null && before === undefined && maxBytes === undefined;
  const old =
    before !== undefined || isWholeSource
      ? await operation.query(selectOld, [operation.userId, memoryId, before ?? null, source])
      : [];
  const surplus =
    maxBytes !== undefined && old.length === 0
      ? await operation.query(selectSurplus, [operation.userId, memoryId, maxBytes, source])
      : [];
  const ids = [...old, ...surplus].map(({ id }) => id);
  if (ids.length === 0) {
    await operation.query(notePruned, [operation.userId, memoryId]);
    return 0;
  }
  await removeDocuments(operation, ids);
  await countJob(operation, claim.taskId, { removed: ids.length });
  return ids.length;
}

function daysAgo(operation: Pick<WriteOperation, 'clock'>, days: number): string {
  return new Date(operation.clock.now().getTime() - days * millisecondsPerDay).toISOString();
}
