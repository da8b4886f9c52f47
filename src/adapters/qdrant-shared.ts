import {
  asDomainErrors,
  CollectionMissingError,
  type Condition,
  connectVectors,
  sharedCollection,
  tenantCondition,
  toConditions,
  type VectorStore,
  type VectorStoreOptions,
} from './qdrant.ts';

/**
 * A store in which all memories whose vectors are of one length lie in one collection, each point with the name of its
 * memory. Every request below carries the condition for that name; without a point a memory has no collection.
 */
export function createSharedStore(options: VectorStoreOptions): VectorStore {
  const { reader, writer, search, listIds, drop, sharedCollections, status } = connectVectors(options);

  /** Where the points of a memory may lie. @throws CollectionMissingError when the server has none of ours */
  const collections = async (): Promise<string[]> => {
    const found = await sharedCollections();
    if (found.length === 0) {
      throw new CollectionMissingError();
    }
    return found;
  };

  const makeShared = async (dimensions: number): Promise<void> => {
    const collection = sharedCollection(dimensions);
    await asDomainErrors(() =>
      writer
        .createCollection(collection, {
          vectors: { size: dimensions, distance: 'Cosine' },
          on_disk_payload: true,
          // A graph for each memory and none over all: no search goes beyond its own.
          hnsw_config: { payload_m: 16, m: 0 },
        })
        .catch(ignoreConflict),
    );
  };

  /** Makes what is not there yet. Another process may do the same, or have died in between. */
  const ensureShared = async (dimensions: number): Promise<void> => {
    const collection = sharedCollection(dimensions);
    const read = () => asDomainErrors(() => writer.getCollection(collection));
    const { payload_schema: schema } = await read().catch(async (error: unknown) => {
      if (!(error instanceof CollectionMissingError)) {
        throw error;
      }
      await makeShared(dimensions);
      return read();
    });
    if (schema['tenant'] === undefined) {
      await asDomainErrors(() =>
        writer.createPayloadIndex(collection, {
          field_name: 'tenant',
          field_schema: { type: 'keyword', is_tenant: true },
          wait: true,
        }),
      );
    }
  };

  return {
    layout: 'shared',
    remakeCollection: async (name, dimensions) => {
      await drop(name);
      await ensureShared(dimensions);
    },
    dropCollection: drop,
    upsert: async (name, points) => {
      const tenant = tenantCondition(name);
      const [first] = points;
      if (first === undefined) {
        return;
      }
      const collection = sharedCollection(first.vector.length);
      const ids: Condition = { has_id: points.map(({ id }) => id) };
      const stranger = { must: [ids], must_not: [tenant] };
      const { count } = await asDomainErrors(() => writer.count(collection, { exact: true, filter: stranger }));
      if (count > 0) {
        // Ids are those of chunks and drawn at random: this is a fault of ours, and no later attempt would do better.
        throw new Error('a point of that id belongs to another memory');
      }
      await asDomainErrors(() =>
        writer.upsert(collection, {
          wait: true,
          points: points.map(({ id, vector, payload }) => ({ id, vector, payload: { ...payload, tenant: name } })),
          // Should one have come in since: Qdrant leaves points alone that are there and of another memory.
          update_filter: { must: [tenant] },
        }),
      );
    },
    remove: async (name, ids) => {
      const filter = { must: [{ has_id: [...ids] }, tenantCondition(name)] };
      for (const collection of await collections()) {
        await asDomainErrors(() => writer.delete(collection, { wait: true, filter }));
      }
    },
    search: async (name, query) => {
      const tenant = tenantCondition(name);
      const collection = sharedCollection(query.vector.length);
      const found = await search(collection, query, [tenant, ...toConditions(query.filter)]);
      if (found.length === 0) {
        // Nothing that meets the filter, or nothing at all: the server was wiped and has been filled by others since.
        const { points } = await asDomainErrors(() =>
          reader.scroll(collection, { limit: 1, with_payload: false, with_vector: false, filter: { must: [tenant] } }),
        );
        if (points.length === 0) {
          throw new CollectionMissingError();
        }
      }
      return found;
    },
    count: async (name) => {
      const filter = { must: [tenantCondition(name)] };
      let points = 0;
      for (const collection of await collections()) {
        points += (await asDomainErrors(() => writer.count(collection, { exact: true, filter }))).count;
      }
      if (points === 0) {
        throw new CollectionMissingError();
      }
      return points;
    },
    listIds: async (name, after, limit) => {
      const conditions = [tenantCondition(name)];
      const ids: string[] = [];
      for (const collection of await collections()) {
        ids.push(...(await listIds(collection, after, limit, conditions)));
      }
      return ids.sort().slice(0, limit);
    },
    // Each index would also add a graph for each of its values, over all memories at once. The tenant's own narrows enough.
    indexPayload: async () => undefined,
    status,
  };
}

function ignoreConflict(error: unknown): void {
  if (!(error instanceof Error && 'status' in error && error.status === 409)) {
    throw error;
  }
}
