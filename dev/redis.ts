import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Redis } from 'ioredis';
import { findProgram, installPackage } from './debian-package.ts';
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
const PROGRAMS = ['redis-server', 'valkey-server'];
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
  const command = (await findProgram(PROGRAMS)) ?? (await installRedis(options.folder, options.log));
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

async function installRedis(folder: string, log: (line: string) => void): Promise<string> {
  const missing = 'Neither redis-server nor valkey-server is on the PATH';
  const failureFile = join(folder, 'installation-failed');
  await installPackage({ name: 'redis-server', missing, failureFile, timeoutMs: 90_000, log });
  // Where systemd runs, the package's own service would start at the next boot.
  await run('systemctl', ['disable', '--now', 'redis-server'], { timeout: 20_000 }).catch(() => undefined);
  const command = await findProgram(PROGRAMS);
  if (command === null) throw new Error(`${missing}, although its package was installed`);
  return command;
}
