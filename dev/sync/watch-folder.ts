import { once } from 'node:events';
import { basename } from 'node:path';
import { watch } from 'chokidar';

/** Quiet time after a change before the folder is synced, in milliseconds: an editor writes several files at once. */
const quietTime = 500;

/** Syncs whenever something in the folder has changed, one time after the other, until the signal fires. */
export async function watchFolder(
  folder: string,
  signal: AbortSignal,
  sync: () => Promise<void>,
  onError: (error: unknown) => void,
): Promise<void> {
  // What .gitignore leaves out is left out by the sync itself; the two largest heaps need not even be watched.
  const watcher = watch(folder, {
    ignoreInitial: true,
    ignored: (path) => ['.git', 'node_modules'].includes(basename(path)),
  });
  let timer: NodeJS.Timeout | undefined;
  let running = Promise.resolve();
  watcher.on('all', () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      running = running.then(sync).catch(onError);
    }, quietTime);
  });
  watcher.on('error', onError);
  if (!signal.aborted) {
    await once(signal, 'abort');
  }
  clearTimeout(timer);
  await watcher.close();
  await running;
}
