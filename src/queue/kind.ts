/** Kinds of tasks that work on a memory. Nobody waits for them, so that others go first where the model is short. */
export const memoryTaskKinds = ['INGEST', 'PRUNE', 'REBUILD'] as const;

/** Whether an agent is BUSY with a task of the kind. Work on its memory goes on beside it, in a lane of its own. */
export function occupiesAgent(kind: string): boolean {
  return !memoryTaskKinds.some((beside) => beside === kind);
}
