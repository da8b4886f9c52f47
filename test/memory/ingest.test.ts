import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { createPerAgentStore } from '../../src/adapters/qdrant-per-agent.ts';
import { collectionName } from '../../src/services/memory-index.ts';
import { rowId } from '../isolation/world.ts';
import { waitFor } from '../service.ts';
import { addAgent, ingest, type MemoryScene, rebuild, search, send, startMemoryScene, untilJob } from './arrange.ts';

let scene: MemoryScene;

beforeAll(async () => {
  scene = await startMemoryScene();
});
afterAll(() => scene?.service.stop());

const text = (about: string) => `${about} is described here.\n\nMore about ${about}, in a paragraph of its own.`;
const documents = ['zebra', 'volcano', 'violin'].map((about) => ({ path: `notes/${about}.md`, content: text(about) }));

/** What text and index hold of an agent's memory. */
async function contents(agentId: string): Promise<{ chunks: string[]; points: string[] }> {
  const [row] = await scene.service.database.owner('SELECT user_id FROM agents WHERE id = $1', [rowId(agentId)]);
  const store = createPerAgentStore({
    url: inject('qdrantUrl') ?? '',
    apiKey: null,
    searchTimeout: 5_000,
    writeTimeout: 5_000,
  });
  const chunks = await scene.service.database.owner('SELECT id FROM memory_chunks WHERE memory_id = $1 ORDER BY id', [
    rowId(agentId),
  ]);
  return {
    chunks: chunks.map((chunk) => String(chunk['id'])),
    points: await store.listIds(collectionName(String(row?.['user_id']), rowId(agentId)), null, 10_000),
  };
}

describe('ingesting documents', () => {
  it('stores text and index, reports what it did, and embeds what has not changed no second time', async () => {
    const agentId = await addAgent(scene.user, 'Ingest');
    expect(await ingest(scene.user, agentId, 'guide', documents)).toMatchObject({
      added: 3,
      changed: 0,
      unchanged: 0,
      indexed: 3,
      embedded: 3,
      reused: 0,
      pending: 0,
    });
    const first = await contents(agentId);
    expect(first.points).toEqual(first.chunks);
    expect(first.chunks).toHaveLength(3);
    const again = await ingest(scene.user, agentId, 'guide', [
      ...documents.slice(0, 2),
      { path: 'notes/violin.md', content: text('cello') },
    ]);
    expect(again).toMatchObject({ added: 0, changed: 1, unchanged: 2, indexed: 1, unindexed: 1, embedded: 1 });
    const second = await contents(agentId);
    expect(second.points).toEqual(second.chunks);
    expect(second.chunks).toHaveLength(3);
  });

  it('takes vectors of a text that it has seen before from what it keeps', async () => {
    const agentId = await addAgent(scene.user, 'Reuse');
    const moved = documents.map(({ content }, place) => ({ path: `moved/${place}.md`, content }));
    expect(await ingest(scene.user, agentId, 'elsewhere', moved)).toMatchObject({ added: 3, embedded: 0, reused: 3 });
  });

  it('keeps a document of the same path in two sources apart', async () => {
    const agentId = await addAgent(scene.user, 'Sources');
    await ingest(scene.user, agentId, 'one', [{ path: 'a.txt', content: 'the first apple' }]);
    await ingest(scene.user, agentId, 'two', [{ path: 'a.txt', content: 'the second apple' }]);
    const { data } = await scene.user.ask(
      `query ($id: ID!) { memoryDocuments(agentId: $id) { edges { node { source path bytes chunks kind hash agent { id } } } }
        agent(id: $id) { memoryState { documents chunks bytes pending indexed sources { source documents bytes } } } }`,
      { id: agentId },
    );
    expect(data.memoryDocuments.edges.map(({ node }: { node: unknown }) => node)).toMatchObject([
      { source: 'one', path: 'a.txt', bytes: 15, chunks: 1, kind: 'TEXT', agent: { id: agentId } },
      { source: 'two', path: 'a.txt', bytes: 16, chunks: 1 },
    ]);
    expect(data.agent.memoryState).toEqual({
      documents: 2,
      chunks: 2,
      bytes: 31,
      pending: 0,
      indexed: true,
      sources: [
        { source: 'one', documents: 1, bytes: 15 },
        { source: 'two', documents: 1, bytes: 16 },
      ],
    });
  });

  it('lets many writes in a row wait as one task', async () => {
    const agentId = await addAgent(scene.user, 'Many');
    const sent = await Promise.all(
      Array.from({ length: 150 }, (_, place) =>
        send(scene.user, agentId, 'many', [{ path: `${place}.txt`, content: `note number ${place}` }]),
      ),
    );
    expect(sent.flatMap(({ errors }) => errors)).toEqual([]);
    const tasks = new Set(sent.map(({ data }) => data.ingestDocuments.job.task.id as string));
    for (const id of tasks) {
      await untilJob(scene.user, id);
    }
    expect(tasks.size).toBeLessThan(150);
    const { chunks, points } = await contents(agentId);
    expect(chunks).toHaveLength(150);
    expect(points).toEqual(chunks);
  });

  it('tells how far it is, without making the agent busy', async () => {
    const agentId = await addAgent(scene.user, 'Progress');
    const { task } = await ingest(scene.user, agentId, 'guide', documents);
    const events = await scene.service.database.owner(
      `SELECT type, data FROM events WHERE data ->> 'taskId' = $1 OR data ->> 'agentId' = $2 ORDER BY sequence`,
      [rowId(task.id), rowId(agentId)],
    );
    expect(events.map(({ type }) => type)).toEqual(['task_started', 'task_completed', 'ingest_progress']);
    expect(events.at(-1)?.['data']).toMatchObject({ agentId: rowId(agentId), pending: 0 });
  });

  it.each<[what: string, input: Record<string, unknown>, field: string]>([
    ['no documents', { documents: [] }, 'input.documents'],
    ['a path twice', { documents: [documents[0], documents[0]] }, 'input.documents'],
    ['an empty path', { documents: [{ path: '/', content: 'x' }] }, 'input.documents.0.path'],
    ['a control character in a path', { documents: [{ path: 'a\u0007b', content: 'x' }] }, 'input.documents.0.path'],
    ['U+0000', { documents: [{ path: 'a', content: 'x\u0000' }] }, 'input.documents.0.content'],
    ['half a character', { documents: [{ path: 'a', content: '\ud83d' }] }, 'input.documents.0.content'],
    ['an empty source', { source: ' ' }, 'input.source'],
  ])('refuses %s and stores nothing', async (_what, wrong, field) => {
    const agentId = await addAgent(scene.user, `Refuse ${_what.replaceAll('+', ' ')}`);
    const { errors } = await scene.user.ask(
      `mutation ($input: IngestDocumentsInput!) { ingestDocuments(input: $input) { job { kind } } }`,
      { input: { agentId, source: 'guide', documents: [{ path: 'fine', content: 'fine' }], ...wrong } },
    );
    expect(errors.map(({ extensions }) => extensions)).toMatchObject([{ code: 'BAD_USER_INPUT', field }]);
    const [row] = await scene.service.database.owner(
      'SELECT count(*)::int AS documents FROM memory_documents WHERE memory_id = $1',
      [rowId(agentId)],
    );
    expect(row).toEqual({ documents: 0 });
  });
});

describe('the storage quota', () => {
  it('lets exactly as much through as fits, of many writes at once, and counts what goes', async () => {
    const user = await scene.service.user('hoarder');
    const agentId = await addAgent(user, 'Hoarder');
    const { data } = await user.ask('{ viewer { id } }');
    const userId = rowId(data.viewer.id);
    await scene.service.database.owner('INSERT INTO quotas (user_id, stored_bytes) VALUES ($1, 1000)', [userId]);
    const answers = await Promise.all(
      Array.from({ length: 12 }, (_, place) =>
        send(user, agentId, 'hoard', [{ path: `${place}.txt`, content: 'x'.repeat(150) }]),
      ),
    );
    const refused = answers.flatMap(({ errors }) => errors);
    expect(refused).toHaveLength(6);
    expect(refused[0]).toMatchObject({
      extensions: { code: 'QUOTA_EXCEEDED', quota: { name: 'STORED_BYTES', limit: 1000 } },
    });
    const stored = async () =>
      (
        await scene.service.database.owner('SELECT stored_bytes::int AS stored FROM tenants WHERE user_id = $1', [
          userId,
        ])
      )[0];
    expect(await stored()).toEqual({ stored: 900 });
    await user.ask(`mutation ($id: ID!) { deleteAgent(id: $id) { deletedAgentId } }`, { id: agentId });
    await waitFor('the text to be gone', async () => (await stored())?.['stored'] === 0);
  });
});

describe('rebuilding', () => {
  it('makes the same index anew without asking the model', async () => {
    const agentId = await addAgent(scene.user, 'Rebuild');
    await ingest(scene.user, agentId, 'guide', documents);
    const before = await contents(agentId);
    const asked = scene.service.model.requests().embeddings;
    expect(await rebuild(scene.user, agentId)).toMatchObject({ indexed: 3, embedded: 0, reused: 3 });
    expect(scene.service.model.requests().embeddings).toBe(asked);
    expect(await contents(agentId)).toEqual(before);
  });

  it('mends an index that has lost points and kept others too long', async () => {
    const agentId = await addAgent(scene.user, 'Mend');
    await ingest(scene.user, agentId, 'guide', documents);
    const { chunks } = await contents(agentId);
    const [row] = await scene.service.database.owner('SELECT user_id FROM agents WHERE id = $1', [rowId(agentId)]);
    const store = createPerAgentStore({
      url: inject('qdrantUrl') ?? '',
      apiKey: null,
      searchTimeout: 5_000,
      writeTimeout: 5_000,
    });
    const collection = collectionName(String(row?.['user_id']), rowId(agentId));
    await store.remove(collection, chunks.slice(0, 2));
    await store.upsert(collection, [
      {
        id: '00000000-0000-7000-8000-000000000000',
        vector: Array.from({ length: 256 }, () => 1),
        payload: { source: '', within: [], kind: 'TEXT', time: 0 },
      },
    ]);
    // Any job that follows finds it by counting.
    await ingest(scene.user, agentId, 'guide', [{ path: 'more.md', content: text('a harp') }]);
    const after = await contents(agentId);
    expect(after.points).toEqual(after.chunks);
    expect(after.chunks).toHaveLength(4);
  });
});

describe('deleting an agent', () => {
  it('takes its text and its collection along', async () => {
    const agentId = await addAgent(scene.user, 'Doomed');
    await ingest(scene.user, agentId, 'guide', documents);
    expect((await contents(agentId)).points).toHaveLength(3);
    const [row] = await scene.service.database.owner('SELECT user_id FROM agents WHERE id = $1', [rowId(agentId)]);
    const name = collectionName(String(row?.['user_id']), rowId(agentId));
    await scene.user.ask(`mutation ($id: ID!) { deleteAgent(id: $id) { deletedAgentId } }`, { id: agentId });
    await waitFor('the memory to be gone', async () => {
      const [left] = await scene.service.database.owner('SELECT count(*)::int AS left FROM memories WHERE id = $1', [
        rowId(agentId),
      ]);
      return left?.['left'] === 0;
    });
    const response = await fetch(`${inject('qdrantUrl')}/collections/${name}/exists`);
    expect(await response.json()).toMatchObject({ result: { exists: false } });
    await expect(search(scene.user, agentId, 'zebra')).rejects.toThrow(/NOT_FOUND/);
  });
});
