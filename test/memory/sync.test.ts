import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createGraphqlClient } from '../../dev/sync/client.ts';
import { readFolder } from '../../dev/sync/read-folder.ts';
import { pagesOf, syncFolder } from '../../dev/sync/sync-folder.ts';
import { watchFolder } from '../../dev/sync/watch-folder.ts';
import { waitFor } from '../service.ts';
import { addAgent, type MemoryScene, search, startMemoryScene } from './arrange.ts';

let scene: MemoryScene;
let folder: string;
const never = new AbortController().signal;

beforeAll(async () => {
  scene = await startMemoryScene();
});
afterAll(() => scene?.service.stop());
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sync-'));
});
afterEach(() => rm(folder, { recursive: true }));

async function write(files: Record<string, string | Buffer>): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), content);
  }
}

const sync = (agent: string) =>
  syncFolder(
    createGraphqlClient(scene.service.api.url, scene.user.token),
    { folder, agent, source: 'folder' },
    never,
    () => undefined,
  );

describe('reading a folder', () => {
  it('leaves out what .gitignore files name, binaries, links and what is no UTF-8', async () => {
    await write({
      '.gitignore': 'build/\n*.log\n!keep.log\n',
      'a.txt': 'a',
      'keep.log': 'kept',
      'drop.log': 'dropped',
      'build/out.js': 'dropped',
      'src/.gitignore': '/secret.txt\n',
      'src/secret.txt': 'dropped',
      'src/deep/secret.txt': 'kept',
      'image.png': Buffer.from([1, 0, 2]),
      'latin.txt': Buffer.from([0xe9, 0x20]),
      'large.txt': 'x'.repeat(500_001),
      '.git/config': 'dropped',
      'Ä.txt': 'umlaut',
    });
    await symlink('/etc/hostname', join(folder, 'link.txt'));
    const { files, skipped } = await readFolder(folder, never);
    expect(files.map(({ path }) => path)).toEqual([
      '.gitignore',
      'a.txt',
      'keep.log',
      'src/.gitignore',
      'src/deep/secret.txt',
      'Ä.txt',
    ]);
    expect(skipped).toBe(3);
  });

  it('makes pages that cover every path', () => {
    const files = Array.from({ length: 2_500 }, (_, place) => ({
      path: String(place).padStart(5, '0'),
      hash: '',
      bytes: 0,
    }));
    expect(pagesOf(files).map(({ entries, startAfter, through }) => [entries.length, startAfter, through])).toEqual([
      [1_000, null, '00999'],
      [1_000, '00999', '01999'],
      [500, '01999', null],
    ]);
    expect(pagesOf([])).toEqual([{ entries: [], startAfter: null, through: null }]);
  });
});

describe('syncing a folder', () => {
  it('sends what is new or changed, takes out what has vanished, and nothing when nothing did', async () => {
    const agentId = await addAgent(scene.user, 'Shipwright');
    await write({
      'src/one.ts': 'export const lantern = 1;\n',
      'src/two.ts': 'export const anchor = 2;\n',
      'README.md': '# Boat\n',
    });
    expect(await sync('shipwright')).toMatchObject({ files: 3, sent: 3, unchanged: 0, removed: 0 });
    expect(await sync('Shipwright')).toMatchObject({ files: 3, sent: 0, unchanged: 3, removed: 0 });
    await write({ 'src/one.ts': 'export const candle = 1;\n' });
    await rename(join(folder, 'src/two.ts'), join(folder, 'src/three.ts'));
    expect(await sync('Shipwright')).toMatchObject({ files: 3, sent: 2, unchanged: 1, removed: 1 });
    const { data } = await scene.user.ask(
      `query ($id: ID!) { memoryDocuments(agentId: $id, filter: { source: "folder" }) { edges { node { path kind } } } }`,
      { id: agentId },
    );
    const stored = data.memoryDocuments.edges.map(({ node }: { node: { path: string; kind: string } }) => [
      node.path,
      node.kind,
    ]);
    expect(stored.sort()).toEqual([
      ['README.md', 'MARKDOWN'],
      ['src/one.ts', 'CODE'],
      ['src/three.ts', 'CODE'],
    ]);
    expect((await search(scene.user, agentId, 'lantern')).matches.map(({ content }) => content)).not.toContain(
      'lantern',
    );
    expect((await search(scene.user, agentId, 'anchor', { first: 1 })).matches[0]?.path).toBe('src/three.ts');
  });

  it('sends what changes while it watches', async () => {
    const agentId = await addAgent(scene.user, 'Watcher');
    await write({ 'a.txt': 'first' });
    await sync('Watcher');
    const stop = new AbortController();
    let synced = 0;
    const watching = watchFolder(
      folder,
      stop.signal,
      async () => {
        await sync('Watcher');
        synced += 1;
      },
      () => undefined,
    );
    // The watcher needs a moment to be ready; writing until it has seen something needs no guess of how long.
    await waitFor('a change to be seen', async () => {
      await write({ 'b.txt': `the heron stands still ${Math.random()}` });
      await new Promise((resolve) => setTimeout(resolve, 700));
      return synced > 0;
    });
    stop.abort();
    await watching;
    expect((await search(scene.user, agentId, 'heron')).matches[0]?.path).toBe('b.txt');
  });

  it('says so when there is no such agent', async () => {
    await expect(sync('Nobody')).rejects.toThrow('You have no agent named Nobody.');
  });
});
