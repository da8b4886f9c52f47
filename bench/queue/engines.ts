import type { Engine } from './engine.ts';

const engines = {
  Retinue: () => import('./retinue.ts'),
  'pg-boss': () => import('./pg-boss.ts'),
  'graphile-worker, no local queue': () => import('./graphile-worker.ts'),
  'graphile-worker, local queue': () => import('./graphile-worker-local-queue.ts'),
  BullMQ: () => import('./bullmq.ts'),
} satisfies Record<string, () => Promise<{ engine: Engine }>>;

export type EngineName = keyof typeof engines;

export const engineNames = Object.keys(engines) as EngineName[];

/** Loads one engine only, so that a process carries nothing of the others. */
export async function loadEngine(name: EngineName): Promise<Engine> {
  return (await engines[name]()).engine;
}
