import type { Channel } from '../adapters/redis.ts';

/** Tells workers that there may be something to claim. It carries nothing of any user. */
export const wakeTopic = 'tasks:wake';
/** Tells one worker of a task that it was given. */
export function givenTopic(workerId: string): string {
  return `tasks:given:${workerId}`;
}
/** Tells workers which runs to abort. Task ids only; a worker knows which are its own. */
export const abortTopic = 'tasks:abort';

/** Wakes the workers. Call it after a commit that made something due; a lost wake-up is made good by polling. */
export function wakeWorkers(channel: Channel): void {
  channel.publish(wakeTopic, {});
}

/** Aborts runs wherever they are. A lost signal is made good by the worker's next heartbeat. */
export function abortRuns(channel: Channel, taskIds: readonly string[]): void {
  if (taskIds.length > 0) {
    channel.publish(abortTopic, { taskIds });
  }
}
