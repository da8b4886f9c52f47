import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findFreePort } from '../../dev/process.ts';
import { type QdrantServer, startQdrant } from '../../dev/qdrant.ts';
import { createPerAgentStore } from '../../src/adapters/qdrant-per-agent.ts';
import { createSharedStore } from '../../src/adapters/qdrant-shared.ts';
import { collectionName } from '../../src/services/memory-index.ts';
import { rowId } from '../isolation/world.ts';
import { waitFor } from '../service.ts';
import { addAgent, ingest, type MemoryScene, rebuild, search, send, startMemoryScene, untilJob } from './arrange.ts';

describe.each(['per-agent', 'shared'] as const)('with collections %s,', (layout) => {
  let scene: MemoryScene;
  let folder: string;
  let port: number;
  let qdrant: QdrantServer;

  /** Starts a Qdrant of this test's own, always on the same port. */
  async function start(): Promise<void> {
    qdrant = await startQdrant({
      folder: join(folder, 'data'),
      logFile: join(folder, `qdrant-${Date.now()}.log`),
      preferredPort: port,
      onSpawn: () => undefined,
    });
    expect(qdrant.port).toBe(port);
  }

  async function kill(): Promise<void> {
    process.kill(qdrant.process.identity.pid, 'SIGKILL');
    await waitFor(
      'Qdrant to be gone',
      async () =>
        !(await fetch(`${qdrant.url}/readyz`).then(
          () => true,
          () => false,
        )),
    );
    await qdrant.process.stop();
  }

  async function wipe(): Promise<void> {
    await kill();
    await rm(join(folder, 'data'), { recursive: true });
    await start();
  }

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qdrant-'));
    port = await findFreePort(null);
    await start();
    scene = await startMemoryScene({
      qdrant: false,
      environment: { QDRANT_URL: `http://127.0.0.1:${port}`, MEMORY_LAYOUT: layout },
    });
  });
  afterAll(async () => {
    await scene?.service.stop();
    await qdrant?.process.stop();
    await rm(folder, { recursive: true, force: true });
  });

  const documents = (count: number) =>
    Array.from({ length: count }, (_, place) => ({
      path: `${place}.txt`,
      content: `note ${place} about harbour number ${place}`,
    }));

  /** Whether text and index hold the same. */
  async function agree(agentId: string): Promise<{ chunks: number; points: number }> {
    const [row] = await scene.service.database.owner(
      'SELECT user_id, chunks::int AS chunks FROM memories WHERE id = $1',
      [rowId(agentId)],
    );
    const store = (layout === 'shared' ? createSharedStore : createPerAgentStore)({
      url: `http://127.0.0.1:${port}`,
      apiKey: null,
      searchTimeout: 5_000,
      writeTimeout: 5_000,
    });
    return {
      chunks: Number(row?.['chunks']),
      points: await store.count(collectionName(String(row?.['user_id']), rowId(agentId))),
    };
  }

  describe('without the index', () => {
    it('search goes by words and says so, writes wait, and both recover by themselves', async () => {
      const agentId = await addAgent(scene.user, 'Away');
      await ingest(scene.user, agentId, 'notes', documents(5));
      expect((await search(scene.user, agentId, 'harbour number 3')).degraded).toBe(false);
      await kill();
      const found = await search(scene.user, agentId, 'harbour number 3', { first: 1 });
      expect(found).toMatchObject({
        degraded: true,
        degradedReason: 'INDEX_UNAVAILABLE',
        matches: [{ path: '3.txt' }],
      });
      const { data, errors } = await send(scene.user, agentId, 'more', [{ path: 'new.txt', content: 'a lighthouse' }]);
      expect(errors).toEqual([]);
      // Found by its words at once, although no index has heard of it.
      expect((await search(scene.user, agentId, 'lighthouse', { first: 1 })).matches[0]?.path).toBe('new.txt');
      const { id } = data.ingestDocuments.job.task;
      await waitFor('the task to wait for the index', async () => {
        const [task] = await scene.service.database.owner(
          'SELECT state, failures, error_code FROM tasks WHERE id = $1',
          [rowId(id)],
        );
        return (
          task?.['state'] === 'RETRYING' && task['failures'] === 0 && task['error_code'] === 'MEMORY_INDEX_UNAVAILABLE'
        );
      });
      await start();
      expect(await untilJob(scene.user, id)).toMatchObject({ indexed: 1 });
      await waitFor(
        'search by meaning to be back',
        async () => !(await search(scene.user, agentId, 'lighthouse')).degraded,
      );
      expect(await agree(agentId)).toEqual({ chunks: 6, points: 6 });
    });
  });

  describe('the index killed in the middle of a job', () => {
    it('ends with text and index in agreement, and nothing stored twice', async () => {
      const agentId = await addAgent(scene.user, 'Killed');
      const sent = await send(scene.user, agentId, 'notes', documents(400));
      const { id } = sent.data.ingestDocuments.job.task;
      await waitFor('a part to be indexed', async () => {
        const [job] = await scene.service.database.owner(
          'SELECT indexed::int AS indexed FROM memory_jobs WHERE task_id = $1',
          [rowId(id)],
        );
        return Number(job?.['indexed']) > 0;
      });
      await kill();
      await start();
      await untilJob(scene.user, id);
      expect(await agree(agentId)).toEqual({ chunks: 400, points: 400 });
    });
  });

  describe('an index that lost everything', () => {
    it('is made anew by rebuildMemory, without asking the model', async () => {
      const agentId = await addAgent(scene.user, 'Wiped');
      await ingest(scene.user, agentId, 'notes', documents(20));
      await wipe();
      const asked = scene.service.model.requests().embeddings;
      expect(await rebuild(scene.user, agentId)).toMatchObject({ indexed: 20, embedded: 0 });
      expect(scene.service.model.requests().embeddings).toBe(asked);
      expect(await agree(agentId)).toEqual({ chunks: 20, points: 20 });
      expect((await search(scene.user, agentId, 'harbour')).degraded).toBe(false);
    });

    it('is made anew by the first search that finds it gone', async () => {
      const agentId = await addAgent(scene.user, 'Demand');
      await ingest(scene.user, agentId, 'notes', documents(20));
      await wipe();
      expect(await search(scene.user, agentId, 'harbour')).toMatchObject({
        degraded: true,
        degradedReason: 'REBUILDING',
      });
      await waitFor(
        'search by meaning to be back',
        async () => !(await search(scene.user, agentId, 'harbour')).degraded,
      );
      await waitFor('all to be there', async () => (await agree(agentId)).points === 20);
    });

    it('is made anew by the next job that writes to it', async () => {
      const agentId = await addAgent(scene.user, 'Write');
      await ingest(scene.user, agentId, 'notes', documents(20));
      await wipe();
      await ingest(scene.user, agentId, 'notes', [{ path: 'one more.txt', content: 'one more' }]);
      expect(await agree(agentId)).toEqual({ chunks: 21, points: 21 });
    });
  });
});
