import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { collectionName, foldersOf } from '../../src/services/memory-index.ts';
import { rowId } from '../isolation/world.ts';
import type { TestUser } from '../service.ts';
import { addAgent, ingest, type MemoryScene, search, send, startMemoryScene } from './arrange.ts';

const text = (value: unknown) => JSON.stringify(value);

describe.each(['per-agent', 'shared'] as const)(
  "a memory can't be reached by another user, with collections %s,",
  (layout) => {
    let scene: MemoryScene;
    let bob: TestUser;
    let bobsAgent: string;

    beforeAll(async () => {
      scene = await startMemoryScene({ environment: { MEMORY_LAYOUT: layout } });
      bob = await scene.service.user('bob');
      bobsAgent = await addAgent(bob, 'Librarian');
      await ingest(scene.user, scene.agentId, 'secrets', [
        { path: 'safe.txt', content: 'The combination of the safe is sesame.' },
      ]);
      await ingest(bob, bobsAgent, 'secrets', [
        { path: 'cellar.txt', content: 'The key of the cellar hangs in the shed.' },
      ]);
    });
    afterAll(() => scene?.service.stop());

    it('under an agent of the same name, or with a source and path of the same name', async () => {
      const found = await search(bob, bobsAgent, 'The combination of the safe', { filter: { source: 'secrets' } });
      expect(found.matches.map(({ path }) => path)).toEqual(['cellar.txt']);
    });

    it.each([
      ['the name of the collection', (agent: string, user: string) => collectionName(user, agent).slice(0, 80)],
      ['the ids as they are', (agent: string) => agent],
      ['a path to the collection', (agent: string) => `x ${agent} sesame`],
      ['a name like a filter', () => `a' OR 'a' - 'a`.replaceAll(/[^\p{L}\p{N} ._'-]/gu, '-')],
    ])('through an agent that is named after %s', async (_what, nameFor) => {
      const [row] = await scene.service.database.owner('SELECT user_id FROM agents WHERE id = $1', [
        rowId(scene.agentId),
      ]);
      const name = nameFor(rowId(scene.agentId), String(row?.['user_id']));
      const agentId = await addAgent(bob, name);
      await ingest(bob, agentId, name, [{ path: name, content: 'nothing of interest' }]);
      const found = await search(bob, agentId, 'The combination of the safe is sesame');
      expect(found.matches.map(({ path }) => path)).toEqual([name]);
      expect(text(found)).not.toContain('sesame.');
    });

    it.each<[what: string, argument: (agent: string, collection: string) => Record<string, unknown>]>([
      ['the source', (_agent, collection) => ({ filter: { source: collection } })],
      ['the path', (agent) => ({ filter: { path: `../${agent}` } })],
      ['the question', (agent) => ({ query: `memory:${agent} combination safe` })],
    ])('by %s that names the other memory', async (_what, argument) => {
      const [row] = await scene.service.database.owner('SELECT user_id FROM agents WHERE id = $1', [
        rowId(scene.agentId),
      ]);
      const collection = collectionName(String(row?.['user_id']), rowId(scene.agentId));
      const { query = 'combination of the safe', ...more } = argument(rowId(scene.agentId), collection);
      expect(text(await search(bob, bobsAgent, String(query), more))).not.toContain('sesame');
    });

    it('by the id of the agent: it is answered like one that does not exist, and nothing is stored', async () => {
      const madeUp = Buffer.from('Agent:01a1fc36-7ce8-70c6-b409-82eac1b10aa5').toString('base64url');
      const answers = await Promise.all(
        [scene.agentId, madeUp].map((id) => send(bob, id, 'secrets', [{ path: 'safe.txt', content: 'overwritten' }])),
      );
      expect(
        answers.map(({ errors }) => errors.map(({ message, extensions }) => [message, extensions['code']])),
      ).toEqual([[['No such agent.', 'NOT_FOUND']], [['No such agent.', 'NOT_FOUND']]]);
      await expect(search(bob, scene.agentId, 'safe')).rejects.toThrow(/NOT_FOUND/);
      expect((await search(scene.user, scene.agentId, 'safe')).matches[0]?.content).toContain('sesame');
    });

    it('by knowing the same text: what one user had embedded is no cache of the other', async () => {
      const agentId = await addAgent(bob, 'Guesser');
      const report = await ingest(bob, agentId, 'guess', [
        { path: 'a', content: 'The combination of the safe is sesame.' },
      ]);
      expect(report).toMatchObject({ embedded: 1, reused: 0 });
    });

    it('in the index itself: each point belongs to one agent, and holds no text', async () => {
      for (const agentId of [scene.agentId, bobsAgent]) {
        const [row] = await scene.service.database.owner('SELECT user_id FROM agents WHERE id = $1', [rowId(agentId)]);
        const name = collectionName(String(row?.['user_id']), rowId(agentId));
        const collection = layout === 'shared' ? 'memory_shared_256' : name;
        const filter = layout === 'shared' ? { must: [{ key: 'tenant', match: { value: name } }] } : {};
        const points = await fetch(`${inject('qdrantUrl')}/collections/${collection}/points/scroll`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ limit: 10, with_payload: true, filter }),
        });
        const body = text(await points.json());
        expect(body).toContain('secrets');
        expect(body).not.toContain('sesame');
      }
    });
  },
);

describe('the name of a collection', () => {
  it('is made of two row ids and of nothing else', () => {
    const [user, agent] = ['01a1fc36-7ce8-70c6-b409-82eac1b10aa5', '01a1fc36-7ce8-70c6-b409-82eac1b10aa6'];
    expect(collectionName(user, agent)).toBe(
      'memory_01a1fc367ce870c6b40982eac1b10aa5_01a1fc367ce870c6b40982eac1b10aa6',
    );
  });

  it.each([
    '',
    'x',
    '../collections',
    '01A1FC36-7CE8-70C6-B409-82EAC1B10AA5',
    '01a1fc36-7ce8-70c6-b409-82eac1b10aa5/points',
  ])('is not made of %j', (id) => {
    const fine = '01a1fc36-7ce8-70c6-b409-82eac1b10aa5';
    expect(() => collectionName(id, fine)).toThrow();
    expect(() => collectionName(fine, id)).toThrow();
  });

  it.each<[path: string, folders: string[]]>([
    ['a', ['a']],
    ['a/b/c.ts', ['a', 'a/b', 'a/b/c.ts']],
    ['a//b', ['a', 'a/', 'a//b']],
  ])('finds %s below %j', (path, folders) => {
    expect(foldersOf(path)).toEqual(folders);
  });
});
