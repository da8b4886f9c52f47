import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { QdrantClient } from '@qdrant/js-client-rest';
import type { QdrantServer } from '../../dev/qdrant.ts';
import type { VectorStore } from '../../src/adapters/qdrant.ts';
import { createPerAgentStore } from '../../src/adapters/qdrant-per-agent.ts';
import { collectionName } from '../../src/services/memory-index.ts';
import { type BenchOptions, type Check, percentile, type Recorder } from '../harness.ts';
import { addChunks, addMemory, finishMemory, makeUpQuestion } from './population.ts';
import { residentMemory } from './server.ts';
import { type MemoryService, timeSearch } from './service.ts';
import { dimensions, randomVector } from './vectors.ts';

const searches = 200;
const warmUpSearches = 50;
const batch = 500;
const optimiseDeadline = 3_600_000;
const ours = 'Retinue';
const bare = 'bare client';
const percentiles = { p50: 0.5, p95: 0.95, p99: 0.99 } as const;

/** Searches in one agent's memory of so many chunks: of the index alone beside its bare client, and as users search. */
export async function measureSearch(
  server: QdrantServer,
  service: MemoryService,
  size: number,
  recorder: Recorder,
  { rounds, log }: BenchOptions,
): Promise<Check[]> {
  const store = createPerAgentStore({ url: server.url, apiKey: null, searchTimeout: 60_000, writeTimeout: 120_000 });
  const client = new QdrantClient({ url: server.url, checkCompatibility: false });
  const name = collectionName(service.userId, service.agentId);
  const label = `${size.toLocaleString('en-US')} vectors`;
  log(`Storing ${label}`);
  await addMemory(service);
  await fill({ service, store, name }, size, recorder, label);
  await finishMemory(service, size);
  await untilOptimised(client, name);
  recorder.add('Qdrant', `memory with ${label}`, 'MB', await residentMemory(server));

  await searchIndex(store, client, name, warmUpSearches);
  await searchAsUser(service, warmUpSearches);
  let recall = 0;
  for (let round = 1; round <= rounds; round += 1) {
    log(`Searching in ${label}, round ${round} of ${rounds}`);
    const measured = await searchIndex(store, client, name, searches);
    for (const [metric, share] of Object.entries(percentiles)) {
      recorder.add(ours, `search in ${label}: ${metric}`, 'ms', percentile(measured.ours, share));
      recorder.add(bare, `search in ${label}: ${metric}`, 'ms', percentile(measured.bare, share));
    }
    recall = measured.recall;
    recorder.add(ours, `recall@10 in ${label}`, '', recall);
    const whole = await searchAsUser(service, searches);
    for (const [metric, share] of Object.entries(percentiles)) {
      recorder.add(ours, `by meaning and words, over the API, in ${label}: ${metric}`, 'ms', percentile(whole, share));
    }
  }
  const p95 = recorder.median(ours, `search in ${label}: p95`);
  const overhead = p95 - recorder.median(bare, `search in ${label}: p95`);
  const whole = recorder.median(ours, `by meaning and words, over the API, in ${label}: p95`);
  return [
    { id: `search_p95_${size}`, goal: 'below 50', value: p95, unit: 'ms', ok: p95 < 50 },
    { id: `hybrid_p95_${size}`, goal: 'below 50', value: whole, unit: 'ms', ok: whole < 50 },
    { id: `recall_at_10_${size}`, goal: 'at least 0.95', value: recall, unit: '', ok: recall >= 0.95 },
    { id: `overhead_p95_${size}`, goal: 'below 10', value: overhead, unit: 'ms', ok: overhead < 10 },
  ];
}

async function fill(
  { service, store, name }: { service: MemoryService; store: VectorStore; name: string },
  size: number,
  recorder: Recorder,
  label: string,
): Promise<void> {
  await store.remakeCollection(name, dimensions);
  let spent = 0;
  let done = 0;
  while (done < size) {
    const ids = await addChunks(service, Math.min(batch * 10, size - done));
    const started = performance.now();
    for (let first = 0; first < ids.length; first += batch) {
      await store.upsert(
        name,
        ids.slice(first, first + batch).map((id) => ({
          id,
          vector: randomVector(),
          payload: { source: 'bench', within: ['bench'], kind: 'TEXT', time: 0 },
        })),
      );
    }
    spent += performance.now() - started;
    done += ids.length;
  }
  recorder.add(ours, `storing ${label}`, 'vectors/s', (size / spent) * 1_000);
}

/** The same questions by both ways in turn, and exactly, to tell how many of the true ten nearest were found. */
async function searchIndex(
  store: VectorStore,
  client: QdrantClient,
  name: string,
  count: number,
): Promise<{ ours: number[]; bare: number[]; recall: number }> {
  const times: { ours: number[]; bare: number[] } = { ours: [], bare: [] };
  let found = 0;
  for (let place = 0; place < count; place += 1) {
    const vector = randomVector();
    const started = performance.now();
    const mine = await store.search(name, { vector, limit: 10 });
    const between = performance.now();
    await client.query(name, { query: vector, limit: 10, with_payload: false, params: { hnsw_ef: 128 } });
    times.bare.push(performance.now() - between);
    times.ours.push(between - started);
    const exact = new Set((await store.search(name, { vector, limit: 10, exact: true })).map(({ id }) => id));
    found += mine.filter(({ id }) => exact.has(id)).length;
  }
  return { ...times, recall: found / (count * 10) };
}

async function searchAsUser(service: MemoryService, count: number): Promise<number[]> {
  const times: number[] = [];
  for (let place = 0; place < count; place += 1) {
    times.push(await timeSearch(service, makeUpQuestion()));
  }
  return times;
}

async function untilOptimised(client: QdrantClient, name: string): Promise<void> {
  const deadline = performance.now() + optimiseDeadline;
  while ((await client.getCollection(name)).status !== 'green') {
    if (performance.now() > deadline) {
      throw new Error('the collection was not optimised in an hour');
    }
    await sleep(250);
  }
}
