import { v7 as uuidv7 } from 'uuid';
import { beforeAll, describe, expect, inject, it } from 'vitest';
import { CollectionMissingError, type VectorPoint, type VectorStore } from '../../src/adapters/qdrant.ts';
import { createPerAgentStore } from '../../src/adapters/qdrant-per-agent.ts';
import { createSharedStore } from '../../src/adapters/qdrant-shared.ts';
import { collectionName } from '../../src/services/memory-index.ts';

const layouts = { 'per-agent': createPerAgentStore, shared: createSharedStore };
const open = (layout: keyof typeof layouts): VectorStore =>
  layouts[layout]({ url: inject('qdrantUrl') ?? '', apiKey: null, searchTimeout: 5_000, writeTimeout: 5_000 });

const newName = () => collectionName(uuidv7(), uuidv7());
const point = (vector: number[], source = 'notes', id = uuidv7()): VectorPoint => ({
  id,
  vector,
  payload: { source, within: [], kind: 'TEXT', time: 0 },
});
const ids = (points: { id: string }[]) => points.map(({ id }) => id);

describe.each(['per-agent', 'shared'] as const)('a store with collections %s', (layout) => {
  const store = open(layout);

  it('finds the nearest points that meet a filter', async () => {
    const name = newName();
    await store.remakeCollection(name, 3);
    const [near, nearer, other] = [point([1, 1, 0]), point([1, 0, 0]), point([1, 0, 0], 'mail')];
    await store.upsert(name, [near, nearer, other]);
    const found = await store.search(name, { vector: [1, 0, 0], limit: 5, filter: { source: 'notes' } });
    expect(ids(found)).toEqual([nearer.id, near.id]);
    expect(await store.search(name, { vector: [1, 0, 0], limit: 5, filter: { source: 'none' } })).toEqual([]);
  });

  it('stores a point over that of the same id, and takes away what is asked', async () => {
    const name = newName();
    await store.remakeCollection(name, 3);
    const [first, second] = [point([1, 0, 0]), point([0, 1, 0])];
    await store.upsert(name, [first, second]);
    await store.upsert(name, [{ ...first, vector: [0, 0, 1] }]);
    expect(await store.count(name)).toBe(2);
    expect((await store.search(name, { vector: [0, 0, 1], limit: 1 }))[0]).toMatchObject({ id: first.id, score: 1 });
    await store.remove(name, [first.id, uuidv7()]);
    expect(await store.listIds(name, null, 10)).toEqual([second.id]);
  });

  it('lists ids in their order, page by page', async () => {
    const name = newName();
    await store.remakeCollection(name, 3);
    const points = Array.from({ length: 5 }, () => point([1, 0, 0]));
    await store.upsert(name, points.toReversed());
    const sorted = ids(points).sort();
    expect(await store.listIds(name, null, 2)).toEqual(sorted.slice(0, 2));
    expect(await store.listIds(name, sorted[1] ?? '', 2)).toEqual(sorted.slice(2, 4));
    expect(await store.listIds(name, sorted[3] ?? '', 2)).toEqual(sorted.slice(4));
  });

  it('has nothing left of a collection that was dropped or made anew, also for vectors of another length', async () => {
    const name = newName();
    for (const dimensions of [3, 5]) {
      await store.remakeCollection(name, dimensions);
      await store.upsert(name, [point(Array.from({ length: dimensions }, () => 1))]);
      expect(await store.count(name)).toBe(1);
    }
    await store.dropCollection(name);
    await expect(store.count(name)).rejects.toThrow(CollectionMissingError);
    await expect(store.search(name, { vector: [1, 1, 1], limit: 1 })).rejects.toThrow(CollectionMissingError);
    await store.dropCollection(name);
  });

  it('takes points of the other layout along when it drops or remakes a collection', async () => {
    const other = open(layout === 'shared' ? 'per-agent' : 'shared');
    const name = newName();
    await other.remakeCollection(name, 3);
    await other.upsert(name, [point([1, 0, 0])]);
    await store.remakeCollection(name, 3);
    await store.upsert(name, [point([1, 0, 0])]);
    await expect(other.count(name)).rejects.toThrow(CollectionMissingError);
  });

  it('makes many collections at the same time', async () => {
    const names = Array.from({ length: 5 }, newName);
    await Promise.all(names.map((name) => store.remakeCollection(name, 6)));
    await Promise.all(names.map((name) => store.upsert(name, [point([1, 0, 0, 0, 0, 0])])));
    expect(await Promise.all(names.map((name) => store.count(name)))).toEqual([1, 1, 1, 1, 1]);
  });

  describe("can't be brought to another memory", () => {
    const [mine, theirs, empty] = [newName(), newName(), newName()];
    const [own, foreign] = [point([0, 1, 0]), point([1, 0, 0])];
    /** What the other memory holds must be the same after each attempt. */
    const untouched = async () => ({
      count: await store.count(theirs),
      ids: await store.listIds(theirs, null, 10),
      found: await store.search(theirs, { vector: [1, 0, 0], limit: 10 }),
    });
    const before = { count: 1, ids: [foreign.id], found: [{ id: foreign.id, score: 1 }] };

    beforeAll(async () => {
      for (const [name, stored] of [
        [mine, own],
        [theirs, foreign],
      ] as const) {
        await store.remakeCollection(name, 3);
        await store.upsert(name, [stored]);
      }
    });

    it('by a search, however near the other point is', async () => {
      expect(ids(await store.search(mine, { vector: [1, 0, 0], limit: 10 }))).toEqual([own.id]);
      expect(ids(await store.search(mine, { vector: [1, 0, 0], limit: 10, exact: true }))).toEqual([own.id]);
      const filter = { source: 'notes', kinds: ['TEXT'], since: new Date(0) };
      expect(ids(await store.search(mine, { vector: [1, 0, 0], limit: 10, filter }))).toEqual([own.id]);
    });

    it('by counting or listing, also from behind or before an id of the other', async () => {
      expect(await store.count(mine)).toBe(1);
      expect(await store.listIds(mine, null, 10)).toEqual([own.id]);
      const start = '00000000-0000-0000-0000-000000000000';
      expect(await store.listIds(mine, start, 10)).toEqual([own.id]);
      expect(await store.listIds(mine, foreign.id, 10)).not.toContain(foreign.id);
    });

    it('by removing an id of the other', async () => {
      await store.remove(mine, [foreign.id]);
      expect(await untouched()).toEqual(before);
    });

    it('by storing a point under an id of the other', async () => {
      await store.upsert(mine, [{ ...foreign, vector: [0, 0, 1] }]).catch(() => undefined);
      expect(await untouched()).toEqual(before);
      await store.remove(mine, [foreign.id]);
    });

    it('by remaking, dropping or indexing a memory of its own', async () => {
      await store.remakeCollection(empty, 3);
      await store.indexPayload(mine);
      await store.dropCollection(empty);
      expect(await untouched()).toEqual(before);
      expect(await store.count(mine)).toBe(1);
    });
  });
});

describe('a store with one collection for all', () => {
  const store = open('shared');

  it('refuses a point whose id is in use by another memory', async () => {
    const [mine, theirs] = [newName(), newName()];
    const stored = point([1, 0, 0]);
    await store.remakeCollection(theirs, 3);
    await store.upsert(theirs, [stored]);
    await expect(store.upsert(mine, [point([1, 0, 0]), stored])).rejects.toThrow(/belongs to another memory/);
    await expect(store.count(mine)).rejects.toThrow(CollectionMissingError);
  });

  it.each(['', '*', 'memory_shared_3', 'memory_', `${newName()} `, newName().toUpperCase()])(
    'takes no name that is not made of two row ids: %j',
    async (name) => {
      await expect(store.dropCollection(name)).rejects.toThrow(/two row ids/);
      await expect(store.remakeCollection(name, 3)).rejects.toThrow(/two row ids/);
      await expect(store.upsert(name, [point([1, 0, 0])])).rejects.toThrow(/two row ids/);
      await expect(store.remove(name, [uuidv7()])).rejects.toThrow(/two row ids/);
      await expect(store.search(name, { vector: [1, 0, 0], limit: 1 })).rejects.toThrow(/two row ids/);
      await expect(store.count(name)).rejects.toThrow(/two row ids/);
      await expect(store.listIds(name, null, 1)).rejects.toThrow(/two row ids/);
    },
  );
});
