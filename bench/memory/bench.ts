import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type Bench, type BenchOptions, type Check, type Measured, Recorder } from '../harness.ts';
import { measureCollections } from './collections.ts';
import { measureIngest } from './ingest.ts';
import { measureSearch } from './search.ts';
import { startOwnQdrant } from './server.ts';
import { startMemoryService } from './service.ts';

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
      const service = stack.use(await startMemoryService(options.dataFolder, server.url));
      checks.push(...(await measureSearch(server, service, size, recorder, options)));
    }
    await measureIngestAlone(join(folder, 'ingest'), options, recorder);
    for (const layout of ['a collection each', 'one shared collection'] as const) {
      for (const agents of sizes('RETINUE_BENCH_COLLECTIONS', '1,1000')) {
        options.log(`${agents} agents in ${layout}`);
        try {
          const at = join(folder, `${layout.replaceAll(' ', '-')}-${agents}`);
          await measureCollections(at, { agents, layout }, recorder);
        } catch (error) {
          // A server may run out of open files: that is a result too, and the table has no figures for it.
          const [reason] = (error instanceof Error ? error.message : String(error)).split('\n');
          options.log(`  ${agents} agents in ${layout} were too many for this machine: ${reason}`);
        }
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return { series: recorder.series(), checks };
}

async function measureIngestAlone(folder: string, options: BenchOptions, recorder: Recorder): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const server = await startOwnQdrant(folder);
  stack.defer(() => server.process.stop());
  const service = stack.use(await startMemoryService(options.dataFolder, server.url));
  await measureIngest(service, recorder, options.log);
}

function sizes(name: string, fallback: string): number[] {
  const values = (process.env[name] ?? fallback).split(',').map(Number);
  if (values.some((value) => !Number.isInteger(value) || value <= 0)) {
    throw new Error(`${name} must be whole numbers, separated by commas`);
  }
  return values;
}
