import { asDomainErrors, connectVectors, toConditions, type VectorStore, type VectorStoreOptions } from './qdrant.ts';

/** A store in which each name is a collection of the server: the name alone parts one memory from all others. */
export function createPerAgentStore(options: VectorStoreOptions): VectorStore {
  const { writer, search, listIds, drop, status } = connectVectors(options);
  return {
    layout: 'per-agent',
    remakeCollection: async (name, dimensions) => {
      await drop(name);
      await asDomainErrors(() =>
        writer.createCollection(name, {
          vectors: { size: dimensions, distance: 'Cosine' },
          shard_number: 1,
          on_disk_payload: true,
          // A user may have many agents: what each costs at rest is weighed in the decision on vector collections.
          optimizers_config: { default_segment_number: 2 },
          wal_config: { wal_capacity_mb: 1, wal_segments_ahead: 0 },
        }),
      );
    },
    dropCollection: drop,
    upsert: (name, points) =>
      asDomainErrors(async () => {
        await writer.upsert(name, {
          wait: true,
          points: points.map(({ id, vector, payload }) => ({ id, vector, payload: { ...payload } })),
        });
      }),
    remove: (name, ids) =>
      asDomainErrors(async () => {
        await writer.delete(name, { wait: true, points: [...ids] });
      }),
    search: (name, query) => search(name, query, toConditions(query.filter)),
    count: (name) => asDomainErrors(async () => (await writer.count(name, { exact: true })).count),
    listIds: (name, after, limit) => listIds(name, after, limit, []),
    indexPayload: (name) =>
      asDomainErrors(async () => {
        for (const [field, schema] of [
          ['source', 'keyword'],
          ['within', 'keyword'],
          ['kind', 'keyword'],
          ['time', 'integer'],
        ] as const) {
          await writer.createPayloadIndex(name, { field_name: field, field_schema: schema, wait: false });
        }
      }),
    status,
  };
}
