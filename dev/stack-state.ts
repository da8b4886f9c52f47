import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { z } from 'zod';
import { POSTGRES_STOP_STEPS } from './postgres.ts';
import { isRunning, type StopStep, stopProcess } from './process.ts';
import { QDRANT_STOP_STEPS } from './qdrant.ts';
import { REDIS_STOP_STEPS } from './redis.ts';

const processIdentity = z.object({ pid: z.number().int().positive(), startedAt: z.string() });

const stackState = z.object({
  /** Tells this start from all others. */
  id: z.uuid(),
  /** The process that started the stack, and with whose end it ends. */
  owner: processIdentity,
  /** Every process spawned for the stack, in order, also those of attempts that failed. */
  spawned: z.array(z.object({ part: z.enum(['postgres', 'redis', 'qdrant']), process: processIdentity })),
  /** Set once the stack is up. */
  running: z
    .object({
      postgres: z.object({ port: z.number().int(), passwordFile: z.string() }),
      redisUrl: z.string().nullable(),
      qdrantUrl: z.string().nullable(),
      notices: z.array(z.string()),
    })
    .nullable(),
  /** The ports of the last start, tried first at the next. */
  ports: z.object({ postgres: z.number().int(), redis: z.number().int(), qdrant: z.number().int() }).partial(),
});

/** What a stack writes down about itself, so that another process can reuse it or clear it away. */
export type StackState = z.infer<typeof stackState>;
export type StackPart = StackState['spawned'][number]['part'];

const STOP_STEPS: Readonly<Record<StackPart, readonly StopStep[]>> = {
  postgres: POSTGRES_STOP_STEPS,
  redis: REDIS_STOP_STEPS,
  qdrant: QDRANT_STOP_STEPS,
};

/** The state of the folder's last stack, or null when there is none or it can't be read. */
export function readStackState(file: string): StackState | null {
  try {
    return stackState.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch {
    return null;
  }
}

/** Replaces the state in one step; synchronous, so that no kill comes between a spawn and its record. */
export function writeStackState(file: string, state: StackState): void {
  writeFileSync(`${file}.new`, JSON.stringify(state, null, 2), { mode: 0o600 });
  renameSync(`${file}.new`, file);
}

/** Stops every process that the state names and that still runs, in reverse order of their start. */
export async function stopRecordedProcesses(state: StackState): Promise<void> {
  for (const { part, process } of state.spawned.toReversed()) {
    if (isRunning(process)) await stopProcess(process, STOP_STEPS[part]);
  }
}
