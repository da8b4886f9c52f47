import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { findProcessesIn, type ServerProcess, waitUntil } from '../../dev/process.ts';

/** A server or process of ours that can be ended, paused and brought back, always at the same address. */
export interface Part {
  /** Brings it up and waits until it answers. */
  start(): Promise<void>;
  /** Asks it to stop, and waits until it did. */
  stop(): Promise<void>;
  /** Ends it at once, with all its processes. */
  kill(): Promise<void>;
  pause(): void;
  resume(): void;
}

const startDeadline = 60_000;

/** A server of the embedded stack. `folder` is where its processes work, when there are several. */
export function serverPart(start: () => Promise<ServerProcess>, several?: { folder: string; names: RegExp }): Part {
  let server: ServerProcess | null = null;
  const processIds = (): number[] => {
    const own = server === null ? [] : [server.identity.pid];
    const others = several === undefined ? [] : findProcessesIn(several.folder, several.names).map(({ pid }) => pid);
    return [...new Set([...own, ...others])];
  };
  const signal = (name: NodeJS.Signals): void => {
    for (const pid of processIds()) {
      sendSignal(pid, name);
    }
  };
  return {
    start: async () => {
      server = await start();
    },
    stop: async () => {
      await server?.stop();
      server = null;
    },
    kill: async () => {
      const killed = server;
      signal('SIGKILL');
      if (killed !== null && !(await waitUntil(() => killed.hasExited(), 10_000, 10))) {
        throw new Error(`${killed.name} outlived SIGKILL`);
      }
    },
    pause: () => signal('SIGSTOP'),
    resume: () => signal('SIGCONT'),
  };
}

/** A program of ours under Node.js. */
export function nodePart(options: {
  args: string[];
  environment: Record<string, string>;
  logFile: string;
  isReady: () => Promise<boolean>;
}): Part {
  let child: ChildProcess | null = null;
  const isOver = (one: ChildProcess): boolean => one.exitCode !== null || one.signalCode !== null;
  const startProgram = (): ChildProcess => {
    const started = spawn(process.execPath, options.args, {
      env: { PATH: process.env['PATH'] ?? '', ...options.environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const log = createWriteStream(options.logFile, { flags: 'a' });
    started.stdout.pipe(log, { end: false });
    started.stderr.pipe(log, { end: false });
    return started;
  };
  return {
    start: async () => {
      const end = performance.now() + startDeadline;
      // As an orchestrator does: a process that ends before it is ready, for want of its database say, is started again.
      for (let ready = false; !ready; ) {
        const started = startProgram();
        child = started;
        const isSettled = async (): Promise<boolean> => {
          ready = !isOver(started) && (await options.isReady().catch(() => false));
          return ready || isOver(started);
        };
        await waitUntil(isSettled, Math.max(0, end - performance.now()), 20);
        if (!ready && performance.now() > end) {
          throw new Error(`${options.args.join(' ')} did not come up; its log is ${options.logFile}`);
        }
      }
    },
    stop: async () => {
      if (child !== null && !isOver(child)) {
        const exited = once(child, 'exit');
        child.kill('SIGTERM');
        await exited;
      }
    },
    kill: async () => {
      if (child !== null && !isOver(child)) {
        const exited = once(child, 'exit');
        child.kill('SIGKILL');
        await exited;
      }
    },
    pause: () => void child?.kill('SIGSTOP'),
    resume: () => void child?.kill('SIGCONT'),
  };
}

function sendSignal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') {
      throw error;
    }
  }
}
