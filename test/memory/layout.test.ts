import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { VectorStore, VectorStoreOptions } from '../../src/adapters/qdrant.ts';
import { createPerAgentStore } from '../../src/adapters/qdrant-per-agent.ts';
import { createSharedStore } from '../../src/adapters/qdrant-shared.ts';
import { collectionModelOf, collectionName } from '../../src/services/memory-index.ts';
import { rowId } from '../isolation/world.ts';
import { waitFor } from '../service.ts';
import { ingest, type MemoryScene, search, startMemoryScene } from './arrange.ts';

type Open = (options: VectorStoreOptions) => VectorStore;

describe.each<[before: string, after: string, openBefore: Open, openAfter: Open]>([
  ['per-agent', 'shared', createPerAgentStore, createSharedStore],
  ['shared', 'per-agent', createSharedStore, createPerAgentStore],
])('a service whose collections were %s and are %s now', (_before, after, openBefore, openAfter) => {
  let scene: MemoryScene;

  beforeAll(async () => {
    scene = await startMemoryScene({ environment: { MEMORY_LAYOUT: after } });
  });
  afterAll(() => scene?.service.stop());

  it('makes a memory anew at its next search, out of kept vectors, and takes the old collection away', async () => {
    const options = { url: inject('qdrantUrl') ?? '', apiKey: null, searchTimeout: 5_000, writeTimeout: 5_000 };
    const [stored, current] = [openBefore(options), openAfter(options)];
    const { indexed } = await ingest(scene.user, scene.agentId, 'notes', [
      { path: 'a.txt', content: 'about the harbour' },
    ]);
    // As the service left it before the change.
    const [row] = await scene.service.database.owner(
      'UPDATE memories SET collection_model = $2 WHERE id = $1 RETURNING user_id',
      [rowId(scene.agentId), collectionModelOf({ vectors: stored, embeddingModel: 'offline-embedding-1' })],
    );
    const name = collectionName(String(row?.['user_id']), rowId(scene.agentId));
    await stored.remakeCollection(name, 256);
    await stored.upsert(name, [
      {
        id: rowId(scene.agentId),
        vector: Array.from({ length: 256 }, () => 1),
        payload: { source: 'notes', within: [], kind: 'TEXT', time: 0 },
      },
    ]);
    expect(await search(scene.user, scene.agentId, 'harbour')).toMatchObject({
      degradedReason: 'REBUILDING',
      matches: [{ path: 'a.txt' }],
    });
    await waitFor(
      'search by meaning to be back',
      async () => !(await search(scene.user, scene.agentId, 'harbour')).degraded,
    );
    await waitFor('all to be there', async () => (await current.count(name)) === indexed);
    await expect(stored.count(name)).rejects.toThrow(/does not exist/);
  });
});
