import { setTimeout as sleep } from 'node:timers/promises';
import type { GraphqlClient } from './client.ts';
import { readFolder, readText, type SyncedFile } from './read-folder.ts';

export interface SyncTarget {
  folder: string;
  /** Name of the agent. */
  agent: string;
  source: string;
}

export interface SyncReport {
  files: number;
  skipped: number;
  sent: number;
  removed: number;
  unchanged: number;
  indexed: number;
}

export type ShowProgress = (progress: { step: string; done: number; total: number }) => void;

/** Entries of one page of the manifest, and bytes of text in one request: both fit well into the largest body. */
const pageSize = 1_000;
const batchBytes = 400_000;
const batchFiles = 200;
const pollInterval = 500;

const findAgents = `query ($after: String) { agents(first: 100, after: $after) {
  edges { node { id name } } pageInfo { hasNextPage endCursor } } }`;
const sync = `mutation ($input: SyncSourceInput!) { syncSource(input: $input) { wanted removed again job { task { id } } } }`;
const ingest = `mutation ($input: IngestDocumentsInput!) { ingestDocuments(input: $input) { job { task { id } } } }`;
const readJob = `query ($id: ID!) { task(id: $id) { state errorMessage memoryJob { indexed pending } } }`;

interface SyncAnswer {
  syncSource: { wanted: string[]; removed: number; again: boolean; job: { task: { id: string } | null } | null };
}
interface IngestAnswer {
  ingestDocuments: { job: { task: { id: string } | null } | null };
}
interface JobAnswer {
  task: { state: string; errorMessage: string | null; memoryJob: { indexed: number; pending: number } | null } | null;
}

/**
 * Brings an agent's memory in step with a folder: only what is new or has changed is sent, what has vanished is taken
 * out. It keeps no state, so that it may be broken off and begun again at any time.
 * @throws Error when there is no such agent, or the service refuses
 */
export async function syncFolder(
  client: GraphqlClient,
  target: SyncTarget,
  signal: AbortSignal,
  show: ShowProgress,
): Promise<SyncReport> {
  const agentId = await findAgent(client, target.agent, signal);
  const { files, skipped } = await readFolder(target.folder, signal);
  const report = { files: files.length, skipped, sent: 0, removed: 0, unchanged: 0, indexed: 0 };
  const tasks = new Set<string>();
  const wanted = new Set<string>();
  for (const page of pagesOf(files)) {
    const input = { agentId, source: target.source, ...page };
    let again = true;
    while (again) {
      const { syncSource: answer } = await client<SyncAnswer>(sync, { input }, signal);
      report.removed += answer.removed;
      again = answer.again;
      for (const path of answer.wanted) {
        wanted.add(path);
      }
      addTask(tasks, answer.job);
    }
    show({ step: 'comparing', done: 0, total: wanted.size });
  }
  report.unchanged = files.length - wanted.size;
  for (const batch of batchesOf(files.filter(({ path }) => wanted.has(path)))) {
    const texts = await Promise.all(
      batch.map(async ({ path }) => ({ path, content: await readText(target.folder, path).catch(() => null) })),
    );
    const documents = texts.filter(({ content }) => content !== null);
    if (documents.length > 0) {
      const input = { agentId, source: target.source, documents };
      addTask(tasks, (await client<IngestAnswer>(ingest, { input }, signal)).ingestDocuments.job);
    }
    report.sent += documents.length;
    show({ step: `sending ${batch[0]?.path ?? ''}`, done: report.sent, total: wanted.size });
  }
  for (const id of tasks) {
    report.indexed += await awaitJob(client, id, signal, show);
  }
  return report;
}

/** Pages of a manifest: together they cover all paths there can be, so that what vanished lies in one of them. */
export function pagesOf(files: readonly SyncedFile[]): {
  entries: { path: string; hash: string }[];
  startAfter: string | null;
  through: string | null;
}[] {
  const pages = [];
  for (let start = 0; start === 0 || start < files.length; start += pageSize) {
    const page = files.slice(start, start + pageSize);
    pages.push({
      entries: page.map(({ path, hash }) => ({ path, hash })),
      startAfter: files[start - 1]?.path ?? null,
      through: start + pageSize >= files.length ? null : (page.at(-1)?.path ?? null),
    });
  }
  return pages;
}

function* batchesOf(files: readonly SyncedFile[]): Generator<SyncedFile[]> {
  let batch: SyncedFile[] = [];
  let bytes = 0;
  for (const file of files) {
    if (batch.length >= batchFiles || (batch.length > 0 && bytes + file.bytes > batchBytes)) {
      yield batch;
      [batch, bytes] = [[], 0];
    }
    batch.push(file);
    bytes += file.bytes;
  }
  if (batch.length > 0) {
    yield batch;
  }
}

async function findAgent(client: GraphqlClient, name: string, signal: AbortSignal): Promise<string> {
  interface Agents {
    agents: {
      edges: { node: { id: string; name: string } }[];
      pageInfo: { hasNextPage: boolean; endCursor: string | null };
    };
  }
  let after: string | null = null;
  for (;;) {
    const { agents }: Agents = await client<Agents>(findAgents, { after }, signal);
    const found = agents.edges.find(({ node }) => node.name.toLowerCase() === name.toLowerCase());
    if (found !== undefined) {
      return found.node.id;
    }
    after = agents.pageInfo.endCursor;
    if (!agents.pageInfo.hasNextPage) {
      throw new Error(`You have no agent named ${name}.`);
    }
  }
}

async function awaitJob(client: GraphqlClient, id: string, signal: AbortSignal, show: ShowProgress): Promise<number> {
  for (;;) {
    const { task } = await client<JobAnswer>(readJob, { id }, signal);
    const { indexed = 0, pending = 0 } = task?.memoryJob ?? {};
    show({ step: 'indexing', done: indexed, total: indexed + pending });
    if (task === null || ['COMPLETED', 'CANCELLED', 'SKIPPED'].includes(task.state)) {
      return indexed;
    }
    if (task.state === 'FAILED') {
      throw new Error(`The text is stored, but was not indexed: ${task.errorMessage ?? 'the task failed'}`);
    }
    await sleep(pollInterval, undefined, { signal });
  }
}

function addTask(tasks: Set<string>, job: { task: { id: string } | null } | null): void {
  if (job?.task) {
    tasks.add(job.task.id);
  }
}
