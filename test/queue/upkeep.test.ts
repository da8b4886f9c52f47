import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { claimTasks, findStuckTasks } from '../../src/queue/claim.ts';
import { type StreamItem, writeEventCursor } from '../../src/services/event.ts';
import { EventFeeds } from '../../src/services/event-feeds.ts';
import { sendMessage } from '../../src/services/message.ts';
import { removeExpiredSessions, trimEvents } from '../../src/services/upkeep.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditCounts } from './audit.ts';

let queue: TestQueue;
const retention = { expiredSessionDays: 7, eventDays: 30, eventsPerSession: 10 };

beforeAll(async () => {
  queue = await startTestQueue();
});
beforeEach(() => queue.database.owner('DELETE FROM users'));
afterAll(() => queue?.stop());

const remove = () => removeExpiredSessions(queue.resources.database, queue.operation, retention);
const trim = () => trimEvents(queue.resources.database, queue.operation, retention);

async function expireSession(sessionId: string, daysAgo: number): Promise<void> {
  await queue.database.owner('UPDATE sessions SET expires_at = now() - make_interval(days => $2) WHERE id = $1', [
    sessionId,
    daysAgo,
  ]);
}

/** Appends events of a session past the service, as its user's next ones. */
async function addEvents(userId: string, sessionId: string | null, count: number, daysAgo = 0): Promise<void> {
  await queue.database.owner(
    `WITH place AS (
      UPDATE users SET event_sequence = event_sequence + $3 WHERE id = $1 RETURNING event_sequence - $3 AS base
    )
    INSERT INTO events (user_id, sequence, type, session_id, data, created_at)
    SELECT $1, base + number, 'message_created', $2, '{}', now() - make_interval(days => $4)
    FROM place, generate_series(1, $3::int) AS number`,
    [userId, sessionId, count, daysAgo],
  );
}

/** Makes the last look at the user's log old enough for the next one. */
async function lookedLongAgo(userId: string): Promise<void> {
  await queue.database.owner(`UPDATE users SET events_checked_at = now() - interval '2 days' WHERE id = $1`, [userId]);
}

async function log(userId: string): Promise<{ sequences: number[]; trimmedThrough: number }> {
  const rows = await queue.database.owner('SELECT sequence::int FROM events WHERE user_id = $1 ORDER BY sequence', [
    userId,
  ]);
  const [user] = await queue.database.owner('SELECT events_trimmed_through::int AS through FROM users WHERE id = $1', [
    userId,
  ]);
  return { sequences: rows.map((row) => Number(row['sequence'])), trimmedThrough: Number(user?.['through']) };
}

const range = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, place) => first + place);

describe('the removal of expired sessions', () => {
  it('takes those expired for longer than they are kept, with all that is in them, and no others', async () => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user);
    const [old, recent, open] = [
      await queue.addSession(user),
      await queue.addSession(user),
      await queue.addSession(user),
    ];
    for (const sessionId of [old, recent, open]) {
      await queue
        .operation(user)
        .write((write) => sendMessage(write, { sessionId, targetAgentId: agent, content: 'hello' }));
    }
    await expireSession(old, 8);
    await expireSession(recent, 6);
    expect(await remove()).toBe(1);
    const left = async (table: string) => {
      const rows = await queue.database.owner(`SELECT session_id FROM ${table} WHERE user_id = $1`, [user]);
      return new Set(rows.map((row) => row['session_id']));
    };
    expect(await left('messages')).toEqual(new Set([recent, open]));
    expect(await left('tasks')).toEqual(new Set([recent, open]));
    expect(await queue.database.owner('SELECT id FROM sessions WHERE id = $1', [old])).toEqual([]);
    expect(await remove()).toBe(0);
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('acts as the user of the session: each in a transaction of that user', async () => {
    const users = [await queue.addUser(), await queue.addUser()];
    for (const user of users) {
      await expireSession(await queue.addSession(user), 30);
    }
    const seen: string[] = [];
    await removeExpiredSessions(
      queue.resources.database,
      (userId) => {
        seen.push(userId);
        return queue.operation(userId);
      },
      retention,
    );
    expect(new Set(seen)).toEqual(new Set(users));
    expect(await queue.database.owner('SELECT id FROM sessions')).toEqual([]);
  });

  it('goes on with the others when one can not be removed', async () => {
    const user = await queue.addUser();
    const [bad, good] = [await queue.addSession(user), await queue.addSession(user)];
    await expireSession(bad, 30);
    await expireSession(good, 20);
    await queue.database.owner(
      `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
      CREATE TRIGGER refuse BEFORE DELETE ON sessions FOR EACH ROW WHEN (OLD.id = '${bad}') EXECUTE FUNCTION refuse()`,
    );
    await expect(remove()).rejects.toThrow('refused');
    await queue.database.owner('DROP TRIGGER refuse ON sessions; DROP FUNCTION refuse()');
    expect(await queue.database.owner('SELECT id FROM sessions')).toEqual([{ id: bad }]);
  });
});

describe('the trimming of events', () => {
  it('keeps the newest of each session', async () => {
    const user = await queue.addUser();
    const [busy, calm] = [await queue.addSession(user), await queue.addSession(user)];
    await addEvents(user, calm, 5);
    await addEvents(user, busy, 25);
    await addEvents(user, null, 3);
    await lookedLongAgo(user);
    expect(await trim()).toBe(1);
    expect(await log(user)).toEqual({ sequences: [...range(1, 5), ...range(21, 33)], trimmedThrough: 20 });
  });

  it('takes events past their life, of sessions and without one', async () => {
    const user = await queue.addUser();
    const session = await queue.addSession(user);
    await addEvents(user, session, 4, 31);
    await addEvents(user, null, 4, 31);
    await addEvents(user, session, 4, 29);
    await lookedLongAgo(user);
    await trim();
    expect(await log(user)).toEqual({ sequences: range(9, 12), trimmedThrough: 8 });
  });

  it('looks at a user after 500 events, or after a while', async () => {
    const user = await queue.addUser();
    const session = await queue.addSession(user);
    await addEvents(user, session, 499);
    expect(await trim()).toBe(0);
    await addEvents(user, session, 1);
    expect(await trim()).toBe(1);
    expect(await log(user)).toEqual({ sequences: range(491, 500), trimmedThrough: 490 });
    expect(await trim()).toBe(0);
    await addEvents(user, session, 1);
    await lookedLongAgo(user);
    expect(await trim()).toBe(1);
    expect(await trim()).toBe(0);
    expect(await log(user)).toEqual({ sequences: range(492, 501), trimmedThrough: 491 });
  });

  it('tells a subscriber whose cursor is older than the log that history is lost, and goes on from there', async () => {
    const user = await queue.addUser();
    await addEvents(user, await queue.addSession(user), 25);
    await lookedLongAgo(user);
    await trim();
    const follow = async (after: number): Promise<StreamItem[]> => {
      const feeds = new EventFeeds({ ...queue.resources, openOperation: queue.operation });
      const filter = { sessionId: null, types: new Set<never>() };
      const reading = await feeds.read(user, { after: writeEventCursor(after), filter });
      const items: StreamItem[] = [];
      for await (const item of reading) {
        items.push(item);
        if (item.kind === 'event' && item.event.sequence === 25) {
          break;
        }
      }
      feeds.close();
      return items;
    };
    const kinds = (items: StreamItem[]) =>
      items.map((item) => (item.kind === 'event' ? item.event.sequence : item.kind));
    expect(kinds(await follow(3))).toEqual(['history_lost', ...range(16, 25)]);
    expect(kinds(await follow(15))).toEqual(range(16, 25));
  });

  it('holds up no writer: rows are deleted before the log is locked', async () => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user);
    const session = await queue.addSession(user);
    await addEvents(user, session, 25);
    await lookedLongAgo(user);
    // The removal itself is held up in the middle, by a lock on an event that no writer needs.
    const holder = new pg.Client({ connectionString: queue.database.ownerUrl });
    await holder.connect();
    await holder.query('BEGIN');
    await holder.query('SELECT FROM events WHERE user_id = $1 AND sequence = 1 FOR UPDATE', [user]);
    const trimming = trim();
    await queue.untilBlocked();
    await queue
      .operation(user)
      .write((write) => sendMessage(write, { sessionId: session, targetAgentId: agent, content: 'hello' }));
    await holder.end();
    await trimming;
    expect(await log(user)).toEqual({ sequences: range(16, 27), trimmedThrough: 15 });
  });

  it('goes on with the others when one log can not be trimmed', async () => {
    const [bad, good] = [await queue.addUser(), await queue.addUser()];
    for (const user of [bad, good]) {
      await addEvents(user, await queue.addSession(user), 25);
      await lookedLongAgo(user);
    }
    await queue.database.owner(`UPDATE users SET events_checked_at = now() - interval '3 days' WHERE id = $1`, [bad]);
    await queue.database.owner(
      `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
      CREATE TRIGGER refuse BEFORE DELETE ON events FOR EACH ROW WHEN (OLD.user_id = '${bad}') EXECUTE FUNCTION refuse()`,
    );
    await expect(trim()).rejects.toThrow('refused');
    await queue.database.owner('DROP TRIGGER refuse ON events; DROP FUNCTION refuse()');
    expect((await log(good)).sequences).toHaveLength(10);
    expect((await log(bad)).sequences).toHaveLength(25);
  });
});

describe('the report of stuck tasks', () => {
  it('names tasks that run, or are due and wait, for longer than the limits', async () => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user);
    const [running, queued, retrying] = await queue.addTasks(user, [agent], 4);
    await claimTasks(queue.resources.database, '00000000-0000-7000-8000-000000000001', 1, ['AGENT_RUN']);
    await queue.database.owner(`UPDATE tasks SET started_at = now() - interval '1 hour' WHERE id = $1`, [running]);
    await queue.database.owner(`UPDATE tasks SET due_at = now() - interval '1 hour' WHERE id = $1`, [queued]);
    await queue.database.owner(
      `UPDATE tasks SET state = 'RETRYING', due_at = now() - interval '1 hour' WHERE id = $1`,
      [retrying],
    );
    const stuck = await findStuckTasks(queue.resources.database, { running: 600_000, queued: 600_000 });
    expect(new Map(stuck.map((task) => [task.taskId, task.state]))).toEqual(
      new Map([
        [running, 'RUNNING'],
        [queued, 'QUEUED'],
      ]),
    );
    expect(Math.round((stuck[0]?.ageSeconds ?? 0) / 60)).toBe(60);
    expect(await findStuckTasks(queue.resources.database, { running: 7_200_000, queued: 7_200_000 })).toEqual([]);
  });
});
