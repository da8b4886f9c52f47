import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { QdrantClient } from '@qdrant/js-client-rest';
import { v7 as uuidv7 } from 'uuid';
import { createPerAgentStore } from '../../src/adapters/qdrant-per-agent.ts';
import { collectionName } from '../../src/services/memory-index.ts';
import { percentile, type Recorder } from '../harness.ts';
import { diskUse, residentMemory, startOwnQdrant } from './server.ts';
import { dimensions, randomVector } from './vectors.ts';

export interface CollectionsCase {
  agents: number;
  layout: 'a collection each' | 'one shared collection';
}

/** Few, so that what a collection costs is not hidden by what is in it. */
const pointsPerAgent = 20;
const searches = 200;

/** What so many agents' memories cost at rest, at the start of the server and in a search, in one layout or the other. */
export async function measureCollections(
  folder: string,
  { agents, layout }: CollectionsCase,
  recorder: Recorder,
): Promise<void> {
  const label = `${agents.toLocaleString('en-US')} agents`;
  const isShared = layout === 'one shared collection';
  const names = Array.from({ length: agents }, () => collectionName(uuidv7(), uuidv7()));
  let server = await startOwnQdrant(folder);
  try {
    const store = createPerAgentStore({ url: server.url, apiKey: null, searchTimeout: 60_000, writeTimeout: 120_000 });
    const client = new QdrantClient({ url: server.url, checkCompatibility: false, timeout: 120_000 });
    const before = await residentMemory(server);
    const started = performance.now();
    if (isShared) {
      await client.createCollection('shared', {
        vectors: { size: dimensions, distance: 'Cosine' },
        hnsw_config: { payload_m: 16, m: 0 },
      });
      await client.createPayloadIndex('shared', {
        field_name: 'tenant',
        field_schema: { type: 'keyword', is_tenant: true },
        wait: true,
      });
    }
    for (const name of names) {
      const points = Array.from({ length: pointsPerAgent }, () => ({
        id: uuidv7(),
        vector: randomVector(),
        payload: { source: 'bench', within: ['bench'], kind: 'TEXT', time: 0 },
      }));
      if (isShared) {
        await client.upsert('shared', {
          wait: true,
          points: points.map((point) => ({ ...point, payload: { ...point.payload, tenant: name } })),
        });
      } else {
        await store.remakeCollection(name, dimensions);
        await store.upsert(name, points);
      }
    }
    recorder.add(layout, `making the memories of ${label}`, 'ms each', (performance.now() - started) / agents);
    recorder.add(layout, `memory for ${label}`, 'MB', (await residentMemory(server)) - before);
    recorder.add(layout, `disk for ${label}`, 'MB', await diskUse(join(folder, 'data')));
    await server.process.stop();
    const restarted = performance.now();
    server = await startOwnQdrant(folder);
    recorder.add(layout, `start with ${label}`, 'ms', performance.now() - restarted);
    const again = new QdrantClient({ url: server.url, checkCompatibility: false, timeout: 120_000 });
    const times: number[] = [];
    for (let place = 0; place < searches; place += 1) {
      const name = names[Math.floor(Math.random() * agents)] ?? '';
      const begun = performance.now();
      await again.query(isShared ? 'shared' : name, {
        query: randomVector(),
        limit: 10,
        ...(isShared ? { filter: { must: [{ key: 'tenant', match: { value: name } }] } } : {}),
      });
      times.push(performance.now() - begun);
    }
    recorder.add(layout, `search among ${label}: p50`, 'ms', percentile(times, 0.5));
    recorder.add(layout, `search among ${label}: p95`, 'ms', percentile(times, 0.95));
  } finally {
    await server.process.stop();
  }
}
