import { setTimeout as sleep } from 'node:timers/promises';
import { v7 as uuidv7 } from 'uuid';
import { systemClock } from '../../src/adapters/clock.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createDatabase } from '../../src/adapters/postgres.ts';
import { createChannel } from '../../src/adapters/redis.ts';
import { createOperation } from '../../src/operation.ts';
import { runChild } from '../child.ts';
import { mark, type ServerSettings, sharedClock, type WriteEvents } from './settings.ts';

// What a worker does: an event is committed, then told. All contenders hear the same.
runChild<ServerSettings, null>(async ({ databaseUrl, redisUrl }) => {
  const log = createLog({ level: 'warn' });
  const database = createDatabase({
    url: databaseUrl,
    poolSize: 8,
    connectionTimeout: 10_000,
    statementTimeout: 10_000,
    applicationName: 'bench writer',
    onError: () => undefined,
  });
  const channel = createChannel({ url: redisUrl, log });
  const resources = { database, channel, clock: systemClock() };
  const taskId = uuidv7();

  const write = async (userId: string): Promise<void> => {
    const note = `${mark}${sharedClock().toFixed(3)}`;
    await createOperation(resources, userId).write(async (operation) => {
      operation.emit({ type: 'task_progress', sessionId: null, taskId, progress: 0.5, note });
    });
  };
  return {
    ready: null,
    commands: {
      /** Writes at an even pace, whether or not the ones before are done. @returns how many were written */
      write: async ({ userIds, rate, seconds }: WriteEvents): Promise<number> => {
        const total = Math.round(userIds.length * rate * seconds);
        const pause = 1_000 / (userIds.length * rate);
        const start = performance.now();
        const written: Promise<void>[] = [];
        for (let number = 0; number < total; number += 1) {
          const wait = start + number * pause - performance.now();
          if (wait > 1) {
            await sleep(wait);
          }
          written.push(write(userIds[number % userIds.length] ?? ''));
        }
        await Promise.all(written);
        return total;
      },
    },
    stop: async () => {
      await channel.close();
      await database.close();
    },
  };
});
