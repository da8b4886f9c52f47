import { afterAll, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import type { VectorStore } from '../../src/adapters/qdrant.ts';
import { createPerAgentStore } from '../../src/adapters/qdrant-per-agent.ts';
import { collectionName } from '../../src/services/memory-index.ts';
import { dropExcessCollections } from '../../src/services/memory-upkeep.ts';
import { rowId } from '../isolation/world.ts';
import { startTestQueue, type TestQueue } from '../queue/arrange.ts';
import { waitFor } from '../service.ts';
import { addAgent, ingest, type MemoryScene, search, startMemoryScene } from './arrange.ts';

let store: VectorStore;

beforeAll(() => {
  store = createPerAgentStore({
    url: inject('qdrantUrl') ?? '',
    apiKey: null,
    searchTimeout: 5_000,
    writeTimeout: 5_000,
  });
});

const isThere = (name: string) =>
  store.count(name).then(
    () => true,
    () => false,
  );

describe('collections above the most that are kept', () => {
  let queue: TestQueue;

  beforeAll(async () => {
    queue = await startTestQueue();
  });
  afterAll(() => queue?.stop());
  beforeEach(async () => void (await queue.database.owner('DELETE FROM memories')));

  interface Stored {
    userId: string;
    agentId: string;
    name: string;
  }

  /** A memory with a collection that was last used so many days ago. */
  async function addMemory(days: number): Promise<Stored> {
    const userId = await queue.addUser();
    const agentId = await queue.addAgent(userId);
    await queue.database.owner(
      `INSERT INTO lanes (user_id, kind, agent_id, max_running) VALUES ($1, 'MEMORY', $2, 1)`,
      [userId, agentId],
    );
    await queue.database.owner(
      `INSERT INTO memories (user_id, id, agent_id, collection_model, collection_dimensions, used_at)
       VALUES ($1, $2, $2, 'offline-embedding-1', 4, now() - make_interval(days => $3))`,
      [userId, agentId, days],
    );
    const name = collectionName(userId, agentId);
    await store.remakeCollection(name, 4);
    return { userId, agentId, name };
  }

  const drop = (most: number) => dropExcessCollections(queue.resources.database, queue.operation, store, most);

  /** Which of the memories have a collection, in the index and by their rows. */
  async function kept(memories: Stored[]): Promise<{ index: boolean[]; rows: boolean[] }> {
    const rows = await queue.database.owner(
      `SELECT collection_model IS NOT NULL AS kept FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, place)
       JOIN memories USING (id) ORDER BY place`,
      [memories.map(({ agentId }) => agentId)],
    );
    return {
      index: await Promise.all(memories.map(({ name }) => isThere(name))),
      rows: rows.map((row) => row['kept'] === true),
    };
  }

  it('are dropped, the least recently used first, whoever they belong to', async () => {
    const memories = [await addMemory(2), await addMemory(4), await addMemory(1), await addMemory(3)];
    expect(await drop(2)).toBe(2);
    const left = [true, false, true, false];
    expect(await kept(memories)).toEqual({ index: left, rows: left });
    expect(await drop(2)).toBe(0);
  });

  it('are left alone while their memory is being worked on', async () => {
    const memories = [await addMemory(1), await addMemory(9), await addMemory(2)];
    await queue.database.owner(
      `INSERT INTO tasks (user_id, kind, lane_id, agent_id)
       SELECT user_id, 'INGEST', id, agent_id FROM lanes WHERE agent_id = $1 AND kind = 'MEMORY'`,
      [memories[1]?.agentId],
    );
    expect(await drop(2)).toBe(1);
    const left = [true, true, false];
    expect(await kept(memories)).toEqual({ index: left, rows: left });
  });

  it('are dropped in bounded portions', async () => {
    const userId = await queue.addUser();
    await queue.database.owner(
      `INSERT INTO memories (user_id, collection_model, collection_dimensions)
       SELECT $1, 'offline-embedding-1', 4 FROM generate_series(1, 25)`,
      [userId],
    );
    expect([await drop(1), await drop(1), await drop(1)]).toEqual([20, 4, 0]);
  });
});

describe('a service that keeps one collection', () => {
  let scene: MemoryScene;

  beforeAll(async () => {
    scene = await startMemoryScene({ environment: { MEMORY_MAX_COLLECTIONS: '1' } });
  });
  afterAll(() => scene?.service.stop());

  it('has the one that gave way made anew by the next search', async () => {
    const other = await addAgent(scene.user, 'Other');
    const names: string[] = [];
    for (const agentId of [scene.agentId, other]) {
      await ingest(scene.user, agentId, 'notes', [{ path: 'a.txt', content: 'about the harbour' }]);
      const [row] = await scene.service.database.owner('SELECT user_id FROM memories WHERE id = $1', [rowId(agentId)]);
      names.push(collectionName(String(row?.['user_id']), rowId(agentId)));
    }
    const [first = '', second = ''] = names;
    await waitFor('the older collection to be gone', async () => !(await isThere(first)));
    expect(await isThere(second)).toBe(true);
    expect(await search(scene.user, scene.agentId, 'harbour')).toMatchObject({ degradedReason: 'REBUILDING' });
    await waitFor('it to be back', async () => !(await search(scene.user, scene.agentId, 'harbour')).degraded);
    await waitFor('the other one to give way', async () => !(await isThere(second)));
  });
});
