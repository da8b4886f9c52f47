import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readlinkSync, renameSync } from 'node:fs';
import { createServer, Socket } from 'node:net';
import { join, sep } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** A process that can be told apart from a later one with the same id. */
export interface ProcessIdentity {
  readonly pid: number;
  /** When it started, in the operating system's own notation; only ever compared. */
  readonly startedAt: string;
}

/** A signal and how long, in milliseconds, the process gets to obey it before the next one. */
export type StopStep = readonly [signal: NodeJS.Signals, waitMs: number];

/** A server this process started. */
export interface ServerProcess {
  readonly name: string;
  readonly identity: ProcessIdentity;
  readonly logFile: string;
  hasExited(): boolean;
  /** Null while it runs and when a signal ended it. */
  exitCode(): number | null;
  /** Stops the server, asking first and killing last; resolves when it is gone. */
  stop(): Promise<void>;
}

export interface ServerCommand {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  /** The working directory, by which a forgotten process of this folder is recognised later. */
  readonly folder: string;
  readonly logFile: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly user?: { readonly uid: number; readonly gid: number } | null;
  readonly stopSteps: readonly StopStep[];
  /** Called in the same turn as the spawn, so that no kill can come between a process and its record. */
  readonly onSpawn?: (identity: ProcessIdentity) => void;
}

// Reads until its standard input closes, which the kernel does when the parent ends in whatever way.
const WATCHDOG_SCRIPT = `
while read -r line; do :; done
kill -s "$2" "$1" 2>/dev/null || exit 0
waited=0
while [ "$waited" -lt 20 ]; do
  kill -0 "$1" 2>/dev/null || exit 0
  sleep 1
  waited=$((waited + 1))
done
kill -s KILL "$1" 2>/dev/null
`;

/**
 * The identity of a running process, or null when there is none with this id (a zombie counts as none).
 */
export function identifyProcess(pid: number): ProcessIdentity | null {
  if (process.platform === 'linux') {
    try {
      // The command name stands in parentheses and may contain spaces, so fields are counted after the last one.
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      const [state, startedAt] = [fields[0], fields[19]];
      return state === 'Z' || state === 'X' || startedAt === undefined ? null : { pid, startedAt };
    } catch {
      return null;
    }
  }
  const ps = spawnSync('ps', ['-o', 'stat=,lstart=', '-p', String(pid)], { encoding: 'utf8', timeout: 5_000 });
  const line = ps.status === 0 ? ps.stdout.trim() : '';
  return line === '' || line.startsWith('Z') ? null : { pid, startedAt: line.replace(/^\S+\s+/, '') };
}

/** Whether this very process still runs. */
export function isRunning(identity: ProcessIdentity): boolean {
  return identifyProcess(identity.pid)?.startedAt === identity.startedAt;
}

/**
 * Starts a server detached from the terminal (Ctrl-C reaches the application only, which then stops its servers in
 * order) together with a watchdog that stops it when this process ends without having done so, also by SIGKILL.
 * Neither keeps this process alive. The server's output goes to `logFile`; the log of the run before is kept beside it.
 *
 * @throws Error when the command can't be started.
 */
export async function startServer(server: ServerCommand): Promise<ServerProcess> {
  if (existsSync(server.logFile)) renameSync(server.logFile, `${server.logFile}.previous`);
  const output = openSync(server.logFile, 'a', 0o600);
  let child: ChildProcess;
  try {
    child = spawn(server.command, server.args, {
      cwd: server.folder,
      detached: true,
      stdio: ['ignore', output, output],
      // A short environment of our own: PG*, QDRANT__* and locale variables of the caller must not change the server.
      env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin', HOME: server.folder, LC_ALL: 'C', TZ: 'UTC', ...server.env },
      ...(server.user ? { uid: server.user.uid, gid: server.user.gid } : {}),
    });
  } finally {
    closeSync(output);
  }
  if (child.pid === undefined) {
    const [error] = (await once(child, 'error')) as [Error];
    throw new Error(`${server.name} can't be started (${server.command}): ${error.message}`);
  }
  const identity = identifyProcess(child.pid) ?? { pid: child.pid, startedAt: 'ended at once' };
  server.onSpawn?.(identity);
  child.on('error', () => undefined);
  child.unref();
  const watchdog = startWatchdog(identity.pid, server.stopSteps[0]?.[0] ?? 'SIGTERM', server.folder);
  child.once('exit', () => watchdog.kill('SIGKILL'));
  const hasExited = (): boolean => child.exitCode !== null || child.signalCode !== null;
  return {
    name: server.name,
    identity,
    logFile: server.logFile,
    hasExited,
    exitCode: () => child.exitCode,
    stop: async () => {
      await signalUntilGone(server.stopSteps, (signal) => child.kill(signal), hasExited, `${server.name}`);
      watchdog.kill('SIGKILL');
      await waitUntil(() => watchdog.exitCode !== null || watchdog.signalCode !== null, 5_000, 25);
    },
  };
}

function startWatchdog(pid: number, signal: NodeJS.Signals, folder: string): ChildProcess {
  // The folder is not used by the script: it shows up in `ps`, for whoever wonders what this process is.
  const args = ['-c', WATCHDOG_SCRIPT, 'retinue-watchdog', String(pid), signal.replace(/^SIG/, ''), folder];
  const watchdog = spawn('/bin/sh', args, { cwd: '/', detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
  watchdog.on('error', () => undefined);
  watchdog.stdin.on('error', () => undefined);
  if (watchdog.stdin instanceof Socket) watchdog.stdin.unref();
  watchdog.unref();
  return watchdog;
}

/**
 * Stops processes left behind by an earlier run, asking first and killing last.
 *
 * @throws Error when one survives even SIGKILL.
 */
export async function stopProcess(identity: ProcessIdentity, steps: readonly StopStep[]): Promise<void> {
  const isGone = (): boolean => !isRunning(identity);
  const send = (signal: NodeJS.Signals): void => {
    try {
      process.kill(identity.pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  };
  await signalUntilGone(steps, send, isGone, `process ${identity.pid}`);
}

async function signalUntilGone(
  steps: readonly StopStep[],
  send: (signal: NodeJS.Signals) => void,
  isGone: () => boolean,
  what: string,
): Promise<void> {
  const withKill: readonly StopStep[] = [...steps, ['SIGKILL', 5_000]];
  for (const [signal, waitMs] of withKill) {
    if (isGone()) return;
    send(signal);
    if (await waitUntil(isGone, waitMs, 25)) return;
  }
  throw new Error(`${what} could not be stopped, not even by SIGKILL.`);
}

/**
 * Processes that work in this folder or below and run one of the named executables. Only Linux can be asked this;
 * elsewhere the list is empty and the recorded ids have to do.
 */
export function findProcessesIn(folder: string, executables: RegExp): ProcessIdentity[] {
  if (process.platform !== 'linux') return [];
  const found: ProcessIdentity[] = [];
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const workingFolder = readlinkSync(join('/proc', entry, 'cwd')).replace(/ \(deleted\)$/, '');
      if (workingFolder !== folder && !workingFolder.startsWith(folder + sep)) continue;
      const command = readFileSync(join('/proc', entry, 'cmdline'), 'utf8').split('\0')[0] ?? '';
      const identity = executables.test(command) ? identifyProcess(Number(entry)) : null;
      if (identity) found.push(identity);
    } catch {
      // It ended meanwhile, or belongs to another user and so isn't ours to stop.
    }
  }
  return found;
}

/** Polls a condition; false when it still doesn't hold after `deadlineMs`. */
export async function waitUntil(
  condition: () => boolean | Promise<boolean>,
  deadlineMs: number,
  everyMs: number,
): Promise<boolean> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    if (await condition()) return true;
    if (performance.now() >= end) return false;
    await delay(everyMs);
  }
}

/**
 * Waits until a server answers.
 *
 * @throws Error with the last lines of the server's log when it exits or the deadline passes first.
 */
export async function waitUntilReady(
  server: ServerProcess,
  isReady: () => Promise<boolean>,
  deadlineMs: number,
): Promise<void> {
  let ready = false;
  const isSettled = async (): Promise<boolean> => {
    if (server.hasExited()) return true;
    ready = await isReady();
    return ready;
  };
  const settled = await waitUntil(isSettled, deadlineMs, 50);
  if (ready) return;
  const reason = settled ? 'ended before it answered' : `did not answer within ${deadlineMs / 1_000} s`;
  throw new Error(`${server.name} ${reason}. The end of its log:\n${readLogEnd(server.logFile)}`);
}

/** The last lines of a log file. */
export function readLogEnd(logFile: string, lines = 15): string {
  try {
    return readFileSync(logFile, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
  } catch {
    return '(no log)';
  }
}

/**
 * A port that is free on 127.0.0.1 now: the preferred one when it is, else a random one below the range that
 * operating systems give to outgoing connections, so that none of those takes it in the meantime.
 */
export async function findFreePort(preferred: number | null): Promise<number> {
  if (preferred !== null && (await isPortFree(preferred))) return preferred;
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const port = 15_000 + Math.floor(Math.random() * 15_000);
    if (await isPortFree(port)) return port;
  }
  throw new Error('No free port was found between 15000 and 29999 in 100 attempts.');
}

async function isPortFree(port: number): Promise<boolean> {
  const probe = createServer();
  return new Promise((resolve) => {
    probe.once('error', () => resolve(false));
    probe.listen({ port, host: '127.0.0.1', exclusive: true }, () => probe.close(() => resolve(true)));
  });
}

/**
 * Starts a server on a free port, and again on another one when somebody took the port between look and start.
 *
 * @throws Error of the last attempt.
 */
export async function startOnFreePort<T>(preferred: number | null, start: (port: number) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    const port = await findFreePort(attempt === 1 ? preferred : null);
    try {
      return await start(port);
    } catch (error) {
      if (attempt === 3 || !/address already in use|address in use/i.test(String(error))) throw error;
    }
  }
}
