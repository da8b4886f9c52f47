import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access, mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { Redis } from 'ioredis';
import {
  type ProcessIdentity,
  type ServerProcess,
  type StopStep,
  startOnFreePort,
  startServer,
  waitUntilReady,
} from './process.ts';

export const REDIS_STOP_STEPS: readonly StopStep[] = [['SIGTERM', 5_000]];
const READY_DEADLINE_MS = 20_000;
const POLICY_FILE = '/usr/sbin/policy-rc.d';
const run = promisify(execFile);

export interface RedisServer {
  readonly process: ServerProcess;
  readonly url: string;
  readonly port: number;
}

/**
 * Starts `redis-server` or `valkey-server` without persistence. Where neither is on the PATH, Debian as root installs
 * it, once for a data folder. Throws when there is no server to start or it won't start.
 */
export async function startRedis(options: {
  readonly folder: string;
  readonly logFile: string;
  readonly preferredPort: number | null;
  readonly onSpawn: (identity: ProcessIdentity) => void;
  readonly log: (line: string) => void;
}): Promise<RedisServer> {
  await mkdir(options.folder, { recursive: true });
  const command = (await findRedisBinary()) ?? (await installRedis(options.folder, options.log));
  return startOnFreePort(options.preferredPort, async (port) => {
    const redis = await startServer({
      name: 'Redis',
      command,
      args: [
        '--port',
        String(port),
        '--bind',
        '127.0.0.1',
        '--dir',
        options.folder,
        '--save',
        '',
        '--appendonly',
        'no',
      ],
      folder: options.folder,
      logFile: options.logFile,
      stopSteps: REDIS_STOP_STEPS,
      onSpawn: options.onSpawn,
    });
    const url = `redis://127.0.0.1:${port}`;
    try {
      // The process id proves that it's this process that answers and not another one that took the port first.
      const isReady = async (): Promise<boolean> => (await askRedisProcessId(url)) === redis.identity.pid;
      await waitUntilReady(redis, isReady, READY_DEADLINE_MS);
    } catch (error) {
      await redis.stop();
      throw error;
    }
    return { process: redis, url, port };
  });
}

/** The process id that the Redis at this address reports, or null when none answers within two seconds. */
export async function askRedisProcessId(url: string): Promise<number | null> {
  const client = new Redis(url, {
    lazyConnect: true,
    connectTimeout: 2_000,
    commandTimeout: 2_000,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
  // Without a listener ioredis prints each failed connection to the console.
  client.on('error', () => undefined);
  try {
    await client.connect();
    return Number(/process_id:(\d+)/.exec(await client.info('server'))?.[1] ?? 0);
  } catch {
    return null;
  } finally {
    client.disconnect();
  }
}

async function findRedisBinary(): Promise<string | null> {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/local/bin', '/usr/bin', '/opt/homebrew/bin'];
  for (const name of ['redis-server', 'valkey-server']) {
    for (const folder of folders.filter((path) => path !== '')) {
      const file = join(folder, name);
      if (await isExecutable(file)) return file;
    }
  }
  return null;
}

async function isExecutable(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return (await stat(file)).isFile();
  } catch {
    return false;
  }
}

async function installRedis(folder: string, log: (line: string) => void): Promise<string> {
  const missing = 'neither redis-server nor valkey-server is on the PATH';
  if (process.getuid?.() !== 0 || !(await isExecutable('/usr/bin/apt-get'))) throw new Error(missing);
  const attempted = join(folder, 'installation-failed');
  if (await exists(attempted)) {
    throw new Error(`${missing}, and installing it failed before (remove ${attempted} to try again)`);
  }
  log('Redis is not installed: installing the redis-server package of this system (once).');
  // Debian starts a service as soon as its package is installed; this file, where there is none, forbids it.
  const forbidsService = !(await exists(POLICY_FILE));
  if (forbidsService) await writeFile(POLICY_FILE, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    await installPackage();
  } catch (error) {
    await writeFile(attempted, String(error));
    throw new Error(`${missing}, and installing it failed: ${String(error).split('\n').slice(-3).join(' ')}`);
  } finally {
    if (forbidsService) await rm(POLICY_FILE, { force: true });
  }
  // Where systemd runs, the package's own service would start at the next boot.
  await run('systemctl', ['disable', '--now', 'redis-server'], { timeout: 20_000 }).catch(() => undefined);
  const command = await findRedisBinary();
  if (command === null) throw new Error(`${missing}, although its package was installed`);
  return command;
}

async function installPackage(): Promise<void> {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' };
  const lock = ['-o', 'DPkg::Lock::Timeout=60'];
  const install = ['install', '-y', '--no-install-recommends', ...lock, 'redis-server'];
  try {
    await run('apt-get', install, { env, timeout: 90_000 });
  } catch {
    // The package list may be missing or old.
    await run('apt-get', ['update', ...lock], { env, timeout: 60_000 });
    await run('apt-get', install, { env, timeout: 90_000 });
  }
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}
