import { mkdir, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { performance } from 'node:perf_hooks';
import { QdrantClient } from '@qdrant/js-client-rest';
import { v7 as uuidv7 } from 'uuid';
import { findFreePort } from '../../dev/process.ts';
import { type QdrantServer, startQdrant } from '../../dev/qdrant.ts';
import { createVectorStore, type VectorStore } from '../../src/adapters/qdrant.ts';
import { collectionName } from '../../src/services/memory-index.ts';
import { type Bench, type BenchOptions, type Check, type Measured, percentile, Recorder } from '../harness.ts';
import { measureCollections } from './collections.ts';
import { measureIngest } from './ingest.ts';

/** Length of the vectors: that of the offline model. */
export const dimensions = 256;
const searches = 200;
const batch = 500;
const ours = 'Retinue';
const bare = 'bare client';

export const memory: Bench = {
  name: 'memory',
  summary:
    'ingest, search and recall on the real Qdrant beside its bare client, and what collections cost; ' +
    'RETINUE_BENCH_VECTORS and RETINUE_BENCH_COLLECTIONS name the sizes (10000 and 1,1000)',
  rounds: 3,
  run,
};

async function run(options: BenchOptions): Promise<Measured> {
  await mkdir(options.dataFolder, { recursive: true });
  const folder = await mkdtemp(join(resolve(options.dataFolder), 'memory-'));
  const recorder = new Recorder();
  const checks: Check[] = [];
  try {
    for (const size of sizes('RETINUE_BENCH_VECTORS', '10000')) {
      await using stack = new AsyncDisposableStack();
      const server = await startOwnQdrant(join(folder, `search-${size}`));
      stack.defer(() => server.process.stop());
      checks.push(...(await measureSearch(server, size, recorder, options)));
    }
    await measureIngest(options, recorder);
    for (const layout of ['a collection each', 'one shared collection'] as const) {
      for (const agents of sizes('RETINUE_BENCH_COLLECTIONS', '1,1000')) {
        options.log(`${agents} agents in ${layout}`);
        await measureCollections(
          join(folder, `${layout.replaceAll(' ', '-')}-${agents}`),
          { agents, layout },
          recorder,
        );
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return { series: recorder.series(), checks };
}

async function measureSearch(
  server: QdrantServer,
  size: number,
  recorder: Recorder,
  { rounds, log }: BenchOptions,
): Promise<Check[]> {
  const store = createVectorStore({ url: server.url, apiKey: null, searchTimeout: 60_000, writeTimeout: 120_000 });
  const client = new QdrantClient({ url: server.url, checkCompatibility: false });
  const name = collectionName(uuidv7(), uuidv7());
  const label = `${size.toLocaleString('en-US')} vectors`;
  log(`Storing ${label}`);
  await fill(store, name, size, recorder, label);
  await untilOptimised(client, name);
  recorder.add('Qdrant', `memory with ${label}`, 'MB', await residentMemory(server));
  await searchOnce(store, client, name, 50);
  let recall = 0;
  for (let round = 1; round <= rounds; round += 1) {
    const measured = await searchOnce(store, client, name, searches);
    for (const [who, times] of Object.entries(measured.times)) {
      for (const [share, metric] of [
        [0.5, 'p50'],
        [0.95, 'p95'],
        [0.99, 'p99'],
      ] as const) {
        recorder.add(who, `search in ${label}: ${metric}`, 'ms', percentile(times, share));
      }
    }
    recall = measured.recall;
    recorder.add(ours, `recall@10 in ${label}`, '', recall);
  }
  const p95 = recorder.median(ours, `search in ${label}: p95`);
  const overhead = p95 - recorder.median(bare, `search in ${label}: p95`);
  return [
    { id: `search_p95_${size}`, goal: 'below 50', value: p95, unit: 'ms', ok: p95 < 50 },
    { id: `recall_at_10_${size}`, goal: 'at least 0.95', value: recall, unit: '', ok: recall >= 0.95 },
    { id: `overhead_p95_${size}`, goal: 'below 10', value: overhead, unit: 'ms', ok: overhead < 10 },
  ];
}

async function fill(store: VectorStore, name: string, size: number, recorder: Recorder, label: string): Promise<void> {
  await store.remakeCollection(name, dimensions);
  const started = performance.now();
  for (let done = 0; done < size; done += batch) {
    await store.upsert(
      name,
      Array.from({ length: Math.min(batch, size - done) }, () => ({
        id: uuidv7(),
        vector: randomVector(),
        payload: { source: 'bench', within: ['bench'], kind: 'TEXT', time: 0 },
      })),
    );
  }
  recorder.add(ours, `storing ${label}`, 'vectors/s', (size / (performance.now() - started)) * 1_000);
}

/** The same questions by both ways in turn, and exactly, to tell how many of the true ten nearest were found. */
async function searchOnce(
  store: VectorStore,
  client: QdrantClient,
  name: string,
  count: number,
): Promise<{ times: Record<string, number[]>; recall: number }> {
  const times: Record<string, number[]> = { [ours]: [], [bare]: [] };
  let found = 0;
  for (let place = 0; place < count; place += 1) {
    const vector = randomVector();
    const started = performance.now();
    const mine = await store.search(name, { vector, limit: 10 });
    const between = performance.now();
    await client.query(name, { query: vector, limit: 10, with_payload: false, params: { hnsw_ef: 128 } });
    times[bare]?.push(performance.now() - between);
    times[ours]?.push(between - started);
    const exact = new Set((await store.search(name, { vector, limit: 10, exact: true })).map(({ id }) => id));
    found += mine.filter(({ id }) => exact.has(id)).length;
  }
  return { times, recall: found / (count * 10) };
}

async function untilOptimised(client: QdrantClient, name: string): Promise<void> {
  const deadline = performance.now() + 3_600_000;
  while ((await client.getCollection(name)).status !== 'green') {
    if (performance.now() > deadline) {
      throw new Error('the collection was not optimised in an hour');
    }
    await new Promise((resolveTimer) => setTimeout(resolveTimer, 250));
  }
}

/** Vectors gather around 200 centres, as texts gather around topics: without any order there is nothing to be near to. */
const centres = Array.from({ length: 200 }, () => Array.from({ length: dimensions }, () => Math.random() - 0.5));

export function randomVector(): number[] {
  const centre = centres[Math.floor(Math.random() * centres.length)] ?? [];
  return centre.map((value) => value + (Math.random() - 0.5) * 0.8);
}

export async function startOwnQdrant(folder: string): Promise<QdrantServer> {
  await mkdir(folder, { recursive: true });
  return startQdrant({
    folder: join(folder, 'data'),
    logFile: join(folder, `qdrant-${await findFreePort(null)}.log`),
    preferredPort: null,
    onSpawn: () => undefined,
  });
}

/** Megabytes of memory that the server holds. */
export async function residentMemory(server: QdrantServer): Promise<number> {
  const status = await readFile(`/proc/${server.process.identity.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? Number.NaN) / 1_024;
}

/** Megabytes that files below a folder take. */
export async function diskUse(folder: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) {
      bytes += (await stat(join(entry.parentPath, entry.name))).blocks * 512;
    }
  }
  return bytes / 2 ** 20;
}

function sizes(name: string, fallback: string): number[] {
  const values = (process.env[name] ?? fallback).split(',').map(Number);
  if (values.some((value) => !Number.isInteger(value) || value <= 0)) {
    throw new Error(`${name} must be whole numbers, separated by commas`);
  }
  return values;
}
