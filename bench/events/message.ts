import { Redis } from 'ioredis';
import { type LiveMessage, liveTopic, type StoredEvent } from '../../src/outbox.ts';
import { encodeId } from '../../src/schema/builder.ts';
import { writeEventCursor } from '../../src/services/event.ts';

/** An event with the members that the benchmark's document asks for, as the service tells them. */
export interface ToldEvent {
  __typename: 'TaskProgress';
  cursor: string;
  at: string;
  taskId: string;
  progress: number;
  note: string;
}

export function tellEvent(event: StoredEvent): ToldEvent {
  return {
    __typename: 'TaskProgress',
    cursor: writeEventCursor(event.sequence),
    at: new Date(event.at).toISOString(),
    taskId: encodeId('Task', String(event.data['taskId'])),
    progress: Number(event.data['progress']),
    note: String(event.data['note']),
  };
}

/** The user whom a development token is for. Peers look no further: what they save there is theirs. */
export function subjectOf(authorization: string | undefined): string {
  const payload = authorization?.split('.')[1] ?? '';
  return String((JSON.parse(Buffer.from(payload, 'base64url').toString()) as { sub?: unknown }).sub);
}

/** Hears what the service publishes for a user. */
export function openRedis(url: string): Redis {
  return new Redis(url, { connectTimeout: 5_000, maxRetriesPerRequest: null, enableReadyCheck: false });
}

export { type LiveMessage, liveTopic };
