import { type ChildProcessByStdio, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readFile, realpath, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { Redis } from 'ioredis';
import { Client } from 'pg';
import { afterEach, describe, expect, it } from 'vitest';
import { findProcessesIn, isRunning, type ProcessIdentity, waitUntil } from '../../dev/process.ts';
import { type Stack, type StackOptions, startStack } from '../../dev/stack.ts';

const PATIENCE_MS = 180_000;
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
}, PATIENCE_MS);

async function newFolder(): Promise<string> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), 'retinue-stack-test-')));
  // Processes of a test that failed must not outlive it.
  cleanups.push(async () => {
    for (const { pid } of processesOf(folder)) process.kill(pid, 'SIGKILL');
    await waitUntil(() => processesOf(folder).length === 0, 10_000, 25);
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  });
  return folder;
}

async function start(dataFolder: string, options: Partial<StackOptions> = {}): Promise<Stack> {
  const stack = await startStack({ dataFolder, postgresSettings: { fsync: 'off' }, ...options });
  cleanups.push(() => stack.stop());
  return stack;
}

/** All processes that work in the folder or name it on their command line, watchdogs included. */
function processesOf(folder: string): { pid: number }[] {
  const named = spawnSync('ps', ['-ww', '-eo', 'pid=,args='], { encoding: 'utf8' })
    .stdout.split('\n')
    .filter((line) => line.includes(folder) && !line.includes('stack-process.ts'))
    .map((line) => ({ pid: Number.parseInt(line, 10) }));
  return [...findProcessesIn(folder, /./), ...named];
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 10_000 });
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows;
  } finally {
    await client.end();
  }
}

async function requestQdrant(url: string | null, method: string, path: string, body?: unknown): Promise<unknown> {
  const response = await fetch(`${url}${path}`, {
    method,
    // A connection kept open makes Qdrant's stop take seconds.
    headers: { 'content-type': 'application/json', connection: 'close' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(20_000),
  });
  return ((await response.json()) as { result: unknown }).result;
}

interface StarterReport {
  readonly isReused: boolean;
  readonly processes: Readonly<Record<string, ProcessIdentity>>;
  readonly postgres: { readonly ownerUrl: string };
}

/** A process of its own that starts a stack and then stays. */
async function startInOwnProcess(folder: string): Promise<{ kill: () => Promise<void>; report: StarterReport }> {
  const starter: ChildProcessByStdio<null, Readable, null> = spawn(
    process.execPath,
    [join(import.meta.dirname, 'stack-process.ts'), folder],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const kill = async (): Promise<void> => {
    if (starter.exitCode !== null || starter.signalCode !== null) return;
    const gone = once(starter, 'exit');
    starter.kill('SIGKILL');
    await gone;
  };
  cleanups.push(kill);
  const [line] = (await once(createInterface(starter.stdout), 'line', {
    signal: AbortSignal.timeout(PATIENCE_MS),
  })) as [string];
  return { kill, report: JSON.parse(line) as StarterReport };
}

describe('the embedded stack', { timeout: PATIENCE_MS }, () => {
  it('starts servers that answer, keeps their data over a stop and a start, and leaves no process', async () => {
    const folder = await newFolder();
    const first = await start(folder);
    expect(first.notices).toEqual([]);
    await query(first.postgres.ownerUrl, "CREATE TABLE note AS SELECT 'kept' AS text");
    await requestQdrant(first.qdrantUrl, 'PUT', '/collections/notes', { vectors: { size: 2, distance: 'Cosine' } });
    await requestQdrant(first.qdrantUrl, 'PUT', '/collections/notes/points?wait=true', {
      points: [{ id: 1, vector: [1, 0], payload: { text: 'kept' } }],
    });
    const redis = new Redis(first.redisUrl ?? '');
    expect(await redis.ping()).toBe('PONG');
    await redis.quit();

    await first.stop();
    expect(processesOf(folder)).toEqual([]);

    const second = await start(folder);
    expect(await query(second.postgres.ownerUrl, 'SELECT text FROM note')).toEqual([{ text: 'kept' }]);
    expect(await requestQdrant(second.qdrantUrl, 'GET', '/collections/notes/points/1')).toMatchObject({
      payload: { text: 'kept' },
    });
    expect([second.postgres.port, second.redisUrl, second.qdrantUrl]).toEqual([
      first.postgres.port,
      first.redisUrl,
      first.qdrantUrl,
    ]);
  });

  it('keeps the password to itself and Postgres durable, reachable on this machine only', async () => {
    const folder = await newFolder();
    const stack = await startStack({ dataFolder: folder, redis: false, qdrant: false });
    cleanups.push(() => stack.stop());
    const passwordFile = join(folder, 'postgres', 'owner-password');
    expect((await stat(passwordFile)).mode & 0o777).toBe(0o600);
    expect((await readFile(passwordFile, 'utf8')).trim()).toBe(stack.postgres.ownerPassword);
    const shown = `SELECT name, setting FROM pg_settings WHERE name IN
      ('fsync', 'synchronous_commit', 'max_connections', 'listen_addresses', 'unix_socket_directories', 'server_encoding')
      ORDER BY name`;
    expect(await query(stack.postgres.ownerUrl, shown)).toEqual([
      { name: 'fsync', setting: 'on' },
      { name: 'listen_addresses', setting: '127.0.0.1' },
      { name: 'max_connections', setting: '300' },
      { name: 'server_encoding', setting: 'UTF8' },
      { name: 'synchronous_commit', setting: 'on' },
      { name: 'unix_socket_directories', setting: '' },
    ]);
    const wrongPassword = stack.postgres.ownerUrl.replace(stack.postgres.ownerPassword, 'wrong');
    await expect(query(wrongPassword, 'SELECT 1')).rejects.toThrow(/password authentication failed/);
  });

  it('reuses a stack that already runs, and leaves it running', async () => {
    const folder = await newFolder();
    const first = await start(folder, { qdrant: false });
    const second = await start(folder, { qdrant: false });
    expect(second).toMatchObject({ isReused: true, postgres: first.postgres, redisUrl: first.redisUrl });
    await second.stop();
    expect(await query(first.postgres.ownerUrl, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    await expect(start(folder, { reuse: false })).rejects.toThrow(/already runs/);
  });

  it('lets one of two simultaneous starts wait for the other', async () => {
    const folder = await newFolder();
    const stacks = await Promise.all([start(folder, { qdrant: false }), startInOwnProcess(folder)]);
    const reused = [stacks[0].isReused, stacks[1].report.isReused];
    expect(reused.toSorted()).toEqual([false, true]);
    expect(stacks[0].postgres.ownerUrl).toBe(stacks[1].report.postgres.ownerUrl);
  });

  it('ends with the process that started it, also when that is killed', async () => {
    const folder = await newFolder();
    const starter = await startInOwnProcess(folder);
    await starter.kill();
    expect(await waitUntil(() => processesOf(folder).length === 0, 30_000, 50)).toBe(true);
  });

  it('clears away what a killed process and its killed watchdogs left, and keeps the committed data', async () => {
    const folder = await newFolder();
    const starter = await startInOwnProcess(folder);
    await query(starter.report.postgres.ownerUrl, "CREATE TABLE note AS SELECT 'committed' AS text");
    const isWatchdog = (line: string): boolean => line.includes('retinue-watchdog') && line.includes(folder);
    const lines = spawnSync('ps', ['-ww', '-eo', 'pid=,args='], { encoding: 'utf8' }).stdout.split('\n');
    for (const line of lines.filter(isWatchdog)) process.kill(Number.parseInt(line, 10), 'SIGKILL');
    await starter.kill();
    const orphans = Object.values(starter.report.processes);
    expect(orphans.map(isRunning)).toEqual([true, true, true]);

    const next = await start(folder);
    expect(next.isReused).toBe(false);
    expect(orphans.map(isRunning)).toEqual([false, false, false]);
    expect(await query(next.postgres.ownerUrl, 'SELECT text FROM note')).toEqual([{ text: 'committed' }]);
    await next.stop();
    expect(processesOf(folder)).toEqual([]);
  });

  it('starts over a Postgres that was killed itself and whose lock names a process of somebody else', async () => {
    const folder = await newFolder();
    const first = await start(folder, { redis: false, qdrant: false });
    const postgres = first.processes.postgres;
    if (!postgres) throw new Error('Postgres was not started.');
    process.kill(postgres.pid, 'SIGKILL');
    await waitUntil(() => processesOf(folder).length === 0, 10_000, 25);
    const lockFile = join(folder, 'postgres', 'data', 'postmaster.pid');
    const lock = await readFile(lockFile, 'utf8');
    await writeFile(lockFile, lock.replace(/^\d+/, String(process.pid)));
    const second = await start(folder, { redis: false, qdrant: false });
    expect(second.isReused).toBe(false);
  });

  it('goes on without a part that cannot start, and says what that costs', async () => {
    const folder = await newFolder();
    await writeFile(join(folder, 'qdrant'), 'a file where a folder should be');
    const stack = await start(folder, { redis: false });
    expect(stack.qdrantUrl).toBeNull();
    expect(stack.notices).toEqual([expect.stringMatching(/^Qdrant couldn't be started: .*searched by words/s)]);
  });

  it.runIf(process.getuid?.() === 0)('moves Postgres where its user can reach it', async () => {
    const closed = await newFolder();
    await chmod(closed, 0o700);
    const folder = join(closed, 'data');
    await mkdir(folder);
    const stack = await start(folder, { redis: false, qdrant: false });
    const [row] = await query(stack.postgres.ownerUrl, 'SHOW data_directory');
    const { data_directory: place } = row as { data_directory: string };
    cleanups.unshift(() => rm(join(place, '..', '..'), { recursive: true, force: true }));
    expect(place.startsWith(closed)).toBe(false);
    expect(stack.notices).toEqual([expect.stringContaining("can't reach")]);
  });
});
