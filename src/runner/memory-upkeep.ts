import type { Log } from '../adapters/log.ts';
import type { Metrics } from '../adapters/metrics.ts';
import type { VectorStore } from '../adapters/qdrant.ts';
import { createOperation, type OperationResources } from '../operation.ts';
import { leadsUpkeep } from '../queue/claim.ts';
import {
  dropExcessCollections,
  dropUnusedCollections,
  pruneAgingMemories,
  removeOrphanedMemories,
} from '../services/memory-upkeep.ts';
import { startLoop } from './loop.ts';

export interface MemoryUpkeepOptions {
  /** How long a silent worker keeps its tasks, in milliseconds. */
  lease: number;
  vectors: VectorStore | null;
  /** Days after which a collection that nobody uses is dropped. */
  unusedDays: number;
  /** Collections that are kept at once, where each agent has its own. */
  maxCollections: number;
}

const interval = 5_000;

/** Takes away what deleted agents remembered, drops collections that nobody uses or that are too many, and prunes by age. The leading worker does it. */
export function startMemoryUpkeep(
  resources: OperationResources & { log: Log; metrics: Metrics },
  workerId: string,
  { lease, vectors, unusedDays, maxCollections }: MemoryUpkeepOptions,
): () => Promise<void> {
  const { database, log, metrics } = resources;
  const failed = (work: string) => (error: unknown) => {
    metrics.upkeepFailures.add({ work });
    log.error({ err: error }, `upkeep failed: ${work}`);
  };
  const openOperation = (userId: string) => createOperation(resources, userId);
  return startLoop(
    interval,
    async () => {
      if (!(await leadsUpkeep(database, workerId, lease))) {
        return;
      }
      await removeOrphanedMemories(database, openOperation, vectors).catch(failed('memories of deleted agents'));
      await pruneAgingMemories(database, openOperation).catch(failed('aging memories'));
      if (vectors !== null) {
        await dropUnusedCollections(database, openOperation, vectors, unusedDays).catch(failed('unused collections'));
      }
      if (vectors?.layout === 'per-agent') {
        await dropExcessCollections(database, openOperation, vectors, maxCollections).catch(
          failed('excess collections'),
        );
      }
    },
    failed('memories'),
  );
}
