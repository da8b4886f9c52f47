import type { Channel } from '../adapters/redis.ts';

/** Tells workers that there may be something to claim. It carries nothing of any user. */
export const wakeTopic = 'tasks:wake';

/** Wakes the workers. Call it after a commit that enqueued something; a lost wake-up is made good by polling. */
export function wakeWorkers(channel: Channel): void {
  channel.publish(wakeTopic, {});
}
