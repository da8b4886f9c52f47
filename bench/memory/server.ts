import { mkdir, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { findFreePort } from '../../dev/process.ts';
import { type QdrantServer, startQdrant } from '../../dev/qdrant.ts';

/** How long a start may take, in milliseconds: that is one of the things that are measured. */
const readyDeadline = 3_600_000;

/** A Qdrant of the benchmark's own, with what it holds in a folder. */
export async function startOwnQdrant(folder: string): Promise<QdrantServer> {
  await mkdir(folder, { recursive: true });
  return startQdrant({
    folder: join(folder, 'data'),
    logFile: join(folder, `qdrant-${await findFreePort(null)}.log`),
    preferredPort: null,
    onSpawn: () => undefined,
    readyDeadline,
  });
}

/** Megabytes of memory that the server holds. */
export async function residentMemory(server: QdrantServer): Promise<number> {
  const status = await readFile(`/proc/${server.process.identity.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? Number.NaN) / 1_024;
}

/** Megabytes that files below a folder take. What is written meanwhile comes and goes. */
export async function diskUse(folder: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) {
      const found = await stat(join(entry.parentPath, entry.name)).catch(() => null);
      bytes += (found?.blocks ?? 0) * 512;
    }
  }
  return bytes / 2 ** 20;
}
