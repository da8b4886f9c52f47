import { performance } from 'node:perf_hooks';
import {
  createDevelopmentKey,
  developmentAudience,
  developmentIssuer,
  signDevelopmentToken,
} from '../../dev/identity.ts';
import { startOfflineModel } from '../../dev/offline-model/server.ts';
import { createGraphqlClient } from '../../dev/sync/client.ts';
import { createLog } from '../../src/adapters/log.ts';
import { startAll } from '../../src/app.ts';
import { readConfig } from '../../src/config.ts';
import { createBenchDatabase, startBenchStack } from '../database.ts';
import { type BenchOptions, percentile, type Recorder } from '../harness.ts';

const who = 'Retinue';
const documents = 400;
const documentsPerRequest = 50;
const searches = 100;
const words =
  'harbour lantern violin orchard granite meadow copper signal engine ledger winter canal bridge tunnel'.split(' ');

/** Documents through the API, with database, model and index: how fast they can be searched, and how long a search takes. */
export async function measureIngest(options: BenchOptions, recorder: Recorder): Promise<void> {
  await using started = new AsyncDisposableStack();
  const stack = await startBenchStack(options.dataFolder, { redis: false, qdrant: true });
  started.defer(() => stack.stop());
  if (stack.qdrantUrl === null) {
    throw new Error(`this benchmark needs Qdrant: ${stack.notices.join(' ')}`);
  }
  const database = await createBenchDatabase(stack, 'memory');
  started.defer(() => database.close());
  const model = await startOfflineModel();
  started.defer(() => model.stop());
  const key = await createDevelopmentKey();
  const config = readConfig({
    DATABASE_URL: database.appUrl,
    WORKER_DATABASE_URL: database.workerUrl,
    QDRANT_URL: stack.qdrantUrl,
    MODEL_BASE_URL: model.url,
    MODEL_API_KEY: model.apiKey,
    MODEL_NAME: 'offline-1',
    MODEL_EMBEDDING_NAME: 'offline-embedding-1',
    TOKEN_ISSUER: developmentIssuer,
    TOKEN_AUDIENCE: developmentAudience,
    TOKEN_PUBLIC_KEY: JSON.stringify(key.publicKey),
    PORT: '0',
    LOG_LEVEL: 'warn',
    RATE_LIMIT_REQUESTS: '1000000',
    RATE_LIMIT_INGEST: '1000000',
  });
  const api = await startAll(config, createLog({ level: config.LOG_LEVEL }));
  started.defer(() => api.stop());
  const ask = createGraphqlClient(api.url, await signDevelopmentToken(key, 'bench'));
  const signal = AbortSignal.timeout(600_000);
  const team = await ask<{ agents: { edges: { node: { id: string } }[] } }>(
    '{ agents(first: 1) { edges { node { id } } } }',
    {},
    signal,
  );
  const agentId = team.agents.edges[0]?.node.id;

  options.log(`Ingesting ${documents} documents`);
  const begun = performance.now();
  for (let place = 0; place < documents; place += documentsPerRequest) {
    const part = Array.from({ length: documentsPerRequest }, (_, number) => ({
      path: `${place + number}.md`,
      content: madeUpText(),
    }));
    await ask(
      'mutation ($input: IngestDocumentsInput!) { ingestDocuments(input: $input) { job { kind } } }',
      { input: { agentId, source: 'bench', documents: part } },
      signal,
    );
  }
  recorder.add(who, 'documents stored and found by words', 'documents/s', rate(documents, begun));
  interface State {
    agent: { memoryState: { chunks: number; pending: number } };
  }
  let state: State;
  do {
    state = await ask<State>(
      'query ($id: ID!) { agent(id: $id) { memoryState { chunks pending } } }',
      { id: agentId },
      signal,
    );
  } while (state.agent.memoryState.pending > 0);
  recorder.add(who, 'chunks embedded and indexed', 'chunks/s', rate(state.agent.memoryState.chunks, begun));

  const times: number[] = [];
  for (let place = 0; place < searches; place += 1) {
    const query = `${pick()} ${pick()} ${pick()}`;
    const start = performance.now();
    await ask(
      'query ($id: ID!, $query: String!) { searchMemory(agentId: $id, query: $query) { degraded matches { path } } }',
      { id: agentId, query },
      signal,
    );
    times.push(performance.now() - start);
  }
  recorder.add(who, 'hybrid search through the API: p50', 'ms', percentile(times, 0.5));
  recorder.add(who, 'hybrid search through the API: p95', 'ms', percentile(times, 0.95));
}

function rate(count: number, since: number): number {
  return (count / (performance.now() - since)) * 1_000;
}

function pick(): string {
  return `${words[Math.floor(Math.random() * words.length)]}${Math.floor(Math.random() * 200)}`;
}

function madeUpText(): string {
  const paragraph = () => Array.from({ length: 60 }, pick).join(' ');
  return Array.from({ length: 8 }, (_, place) => `## Part ${place}\n\n${paragraph()}`).join('\n\n');
}
