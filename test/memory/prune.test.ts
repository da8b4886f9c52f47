import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { createPerAgentStore } from '../../src/adapters/qdrant-per-agent.ts';
import { collectionName } from '../../src/services/memory-index.ts';
import { rowId } from '../isolation/world.ts';
import { waitFor } from '../service.ts';
import { addAgent, ingest, type MemoryScene, search, startMemoryScene, untilJob } from './arrange.ts';

let scene: MemoryScene;

beforeAll(async () => {
  scene = await startMemoryScene();
});
afterAll(() => scene?.service.stop());

async function fill(name: string, memory: Record<string, unknown> = {}): Promise<string> {
  const agentId = await addAgent(scene.user, name, memory);
  for (const source of ['old', 'new']) {
    await ingest(scene.user, agentId, source, [
      { path: `${source}.txt`, content: `${source} text of ten.`.padEnd(20, '.') },
    ]);
  }
  return agentId;
}

async function prune(agentId: string, input: Record<string, unknown>) {
  const { data, errors } = await scene.user.ask(
    'mutation ($input: PruneMemoryInput!) { pruneMemory(input: $input) { job { task { id } } } }',
    { input: { agentId, ...input } },
  );
  return errors.length > 0 ? errors : untilJob(scene.user, data.pruneMemory.job.task.id);
}

async function sources(agentId: string): Promise<string[]> {
  const { data } = await scene.user.ask(
    'query ($id: ID!) { memoryDocuments(agentId: $id) { edges { node { source } } } }',
    { id: agentId },
  );
  return data.memoryDocuments.edges.map(({ node }: { node: { source: string } }) => node.source);
}

const makeOld = (agentId: string) =>
  scene.service.database.owner(
    `UPDATE memory_documents SET updated_at = now() - interval '10 days' WHERE memory_id = $1 AND source = 'old'`,
    [rowId(agentId)],
  );

describe('pruning', () => {
  it.each<[what: string, input: Record<string, unknown>, left: string[]]>([
    ['by age', { olderThanDays: 5 }, ['new']],
    ['by size, the oldest first', { maxBytes: 25 }, ['new']],
    ['by source', { source: 'new' }, ['old']],
    ['by age within a source', { olderThanDays: 5, source: 'new' }, ['old', 'new']],
    ['to nothing', { maxBytes: 0 }, []],
  ])('takes documents out of text and index %s', async (what, input, left) => {
    const agentId = await fill(`Prune ${what.replaceAll(',', '')}`);
    await makeOld(agentId);
    expect(await prune(agentId, input)).toMatchObject({ removed: 2 - left.length, unindexed: 2 - left.length });
    expect(await sources(agentId)).toEqual(left);
    const found = await search(scene.user, agentId, 'text of ten');
    expect(found.matches.map(({ source }) => source).sort()).toEqual(left.toSorted());
  });

  it('wants to be told what', async () => {
    expect(await prune(scene.agentId, {})).toMatchObject([{ extensions: { code: 'BAD_USER_INPUT', field: 'input' } }]);
  });

  it("goes by the agent's own settings with every job", async () => {
    const agentId = await fill('Settings', { maxAgeDays: 5, maxBytes: 1_000 });
    await makeOld(agentId);
    await ingest(scene.user, agentId, 'third', [{ path: 'a.txt', content: 'something' }]);
    expect(await sources(agentId)).toEqual(['new', 'third']);
  });
});

describe('a collection that nobody uses', () => {
  it('is dropped, and made anew by the next search', async () => {
    const agentId = await fill('Unused');
    const [row] = await scene.service.database.owner(
      `UPDATE memories SET used_at = now() - interval '40 days' WHERE id = $1 RETURNING user_id`,
      [rowId(agentId)],
    );
    const store = createPerAgentStore({
      url: inject('qdrantUrl') ?? '',
      apiKey: null,
      searchTimeout: 5_000,
      writeTimeout: 5_000,
    });
    const name = collectionName(String(row?.['user_id']), rowId(agentId));
    await waitFor('the collection to be gone', () =>
      store.count(name).then(
        () => false,
        () => true,
      ),
    );
    expect(await search(scene.user, agentId, 'new text')).toMatchObject({
      degraded: true,
      degradedReason: 'REBUILDING',
    });
    await waitFor(
      'search by meaning to be back',
      async () => !(await search(scene.user, agentId, 'new text')).degraded,
    );
    await waitFor('all to be there', async () => (await store.count(name)) === 2);
  });
});
