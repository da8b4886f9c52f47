import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

/** What a child process offers to the benchmark that started it. */
export interface ChildPart<Ready> {
  /** Told to the parent once the part can be used. */
  readonly ready: Ready;
  readonly commands: Readonly<Record<string, (payload: never) => unknown>>;
  stop(): Promise<void>;
}

/** A part of a benchmark in a process of its own, so that its CPU time can be told from the others'. */
export interface Child<Ready> {
  readonly ready: Ready;
  /** @throws Error when the command failed, the child ended, or no answer came within the deadline (in milliseconds) */
  ask<Result>(command: string, payload: unknown, deadline: number): Promise<Result>;
  /** User and system time that the child has used so far, in milliseconds. */
  cpu(): Promise<number>;
  stop(): Promise<void>;
  /** Ends the process at once, as a crash would. */
  kill(): Promise<void>;
}

type Call = { id: number; command: string; payload: unknown };
type Answer = { id: number; result?: unknown; error?: string };

const startDeadline = 60_000;
const cpuDeadline = 10_000;
const stopDeadline = 10_000;

/** Starts a script that calls `runChild`, and waits until it is ready. @throws Error when it won't start */
export async function startChild<Ready>(script: URL, settings: unknown): Promise<Child<Ready>> {
  const child = fork(fileURLToPath(script), [], {
    execArgv: await serviceFlags(),
    env: { ...process.env, NODE_ENV: 'production' },
    // Standard output is the report's alone.
    stdio: ['ignore', 2, 2, 'ipc'],
  });
  const calls = new Map<number, PromiseWithResolvers<unknown>>();
  let lastId = 0;
  const exited = once(child, 'exit');
  child.on('message', (answer: Answer) => {
    const call = calls.get(answer.id);
    calls.delete(answer.id);
    if (answer.error === undefined) {
      call?.resolve(answer.result);
    } else {
      call?.reject(new Error(answer.error));
    }
  });
  child.on('exit', (code, signal) => {
    for (const call of calls.values()) {
      call.reject(new Error(`a process of the benchmark ended (${signal ?? code})`));
    }
    calls.clear();
  });

  const ask = async <Result>(command: string, payload: unknown, deadline: number): Promise<Result> => {
    lastId += 1;
    const id = lastId;
    const call = Promise.withResolvers<unknown>();
    calls.set(id, call);
    child.send({ id, command, payload } satisfies Call);
    const timer = setTimeout(() => call.reject(new Error(`no answer to ${command} in ${deadline} ms`)), deadline);
    try {
      return (await call.promise) as Result;
    } finally {
      clearTimeout(timer);
      calls.delete(id);
    }
  };
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      const force = setTimeout(() => child.kill('SIGKILL'), stopDeadline);
      if (child.connected) {
        child.disconnect();
      }
      await exited;
      clearTimeout(force);
    }
  };
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
  };
  try {
    const ready = await ask<Ready>('start', settings, startDeadline);
    return { ready, ask, cpu: () => ask<number>('cpu', null, cpuDeadline), stop, kill };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** What the service's processes tell Node.js: all children run under the same conditions, and as they run elsewhere. */
async function serviceFlags(): Promise<string[]> {
  const { scripts } = JSON.parse(await readFile(new URL('../package.json', import.meta.url), 'utf8')) as {
    scripts: Record<string, string>;
  };
  return (scripts['serve:api'] ?? '').split(' ').slice(1, -1);
}

/** The child's side: builds its part when asked to start, answers its commands, and ends when the parent lets go. */
export function runChild<Settings, Ready>(start: (settings: Settings) => Promise<ChildPart<Ready>>): void {
  let part: ChildPart<Ready> | undefined;
  const answer = async ({ command, payload }: Call): Promise<unknown> => {
    if (command === 'start') {
      part = await start(payload as Settings);
      return part.ready;
    }
    if (command === 'cpu') {
      const { user, system } = process.cpuUsage();
      return (user + system) / 1_000;
    }
    const run = part?.commands[command];
    if (run === undefined) {
      throw new Error(`there is no command ${command}`);
    }
    return run(payload as never);
  };
  process.on('message', (call: Call) => {
    answer(call).then(
      (result) => process.send?.({ id: call.id, result } satisfies Answer),
      (error: unknown) =>
        process.send?.({ id: call.id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    );
  });
  process.on('disconnect', () => {
    void (part?.stop() ?? Promise.resolve()).finally(() => process.exit());
  });
  // Ctrl-C reaches the whole group: the parent stops its children in order.
  process.on('SIGINT', () => undefined);
}
