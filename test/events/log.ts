import { v7 as uuidv7 } from 'uuid';
import { systemClock } from '../../src/adapters/clock.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createDatabase } from '../../src/adapters/postgres.ts';
import { type Channel, createChannel } from '../../src/adapters/redis.ts';
import { createOperation, type WriteOperation } from '../../src/operation.ts';
import type { TestDatabase } from '../service.ts';

/** A process that writes events, as a worker does: each is committed, then told. */
export interface EventWriter {
  channel: Channel;
  write(userId: string, work: (operation: WriteOperation) => Promise<unknown>): Promise<void>;
  /** Writes one small event. */
  progress(userId: string, note?: string): Promise<void>;
  close(): Promise<void>;
}

export function openWriter(database: TestDatabase, redisUrl: string | null): EventWriter {
  const pool = createDatabase({
    url: database.workerUrl,
    poolSize: 4,
    connectionTimeout: 10_000,
    statementTimeout: 10_000,
    applicationName: 'event writer',
    onError: () => undefined,
  });
  const channel = createChannel({ url: redisUrl, log: createLog({ level: 'silent' }) });
  const write: EventWriter['write'] = async (userId, work) => {
    const operation = createOperation({ database: pool, channel, clock: systemClock() }, userId);
    await operation.write(work);
    await operation.close();
  };
  return {
    channel,
    write,
    progress: (userId, note = 'on it') =>
      write(userId, async (operation) =>
        operation.emit({ type: 'task_progress', sessionId: null, taskId: uuidv7(), progress: 0.5, note }),
      ),
    close: async () => {
      await channel.close();
      await pool.close();
    },
  };
}

/** The row id of a user, whose first request has been answered. */
export async function userIdOf(database: TestDatabase, subject: string): Promise<string> {
  const [row] = await database.owner('SELECT id FROM users WHERE subject = $1', [subject]);
  return String(row?.['id']);
}

/** All places of a user's log, in order. */
export async function readLog(database: TestDatabase, userId: string): Promise<number[]> {
  const rows = await database.owner('SELECT sequence FROM events WHERE user_id = $1 ORDER BY sequence', [userId]);
  return rows.map((row) => Number(row['sequence']));
}

/** The place in the log that a cursor names. */
export function placeOf(cursor: string): number {
  return Number(Buffer.from(cursor, 'base64url').toString().slice('event:'.length));
}
