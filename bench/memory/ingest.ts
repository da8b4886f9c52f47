import { performance } from 'node:perf_hooks';
import { percentile, type Recorder } from '../harness.ts';
import { type MemoryService, timeSearch } from './service.ts';

const who = 'Retinue';
const documents = 400;
const documentsPerRequest = 50;
const searches = 100;
const words =
  'harbour lantern violin orchard granite meadow copper signal engine ledger winter canal bridge tunnel'.split(' ');

/** Documents through the API, with database, model and index: how fast they can be searched, and how long a search takes. */
export async function measureIngest(
  service: MemoryService,
  recorder: Recorder,
  log: (line: string) => void,
): Promise<void> {
  const { ask, agentGlobalId: agentId } = service;
  const signal = AbortSignal.timeout(600_000);
  log(`Ingesting ${documents} documents`);
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
    times.push(await timeSearch(service, `${pick()} ${pick()} ${pick()}`));
  }
  recorder.add(who, `search by meaning and words in ${documents} documents: p50`, 'ms', percentile(times, 0.5));
  recorder.add(who, `search by meaning and words in ${documents} documents: p95`, 'ms', percentile(times, 0.95));
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
