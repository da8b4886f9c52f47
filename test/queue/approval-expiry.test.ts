import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/adapters/clock.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createDatabase, type Database } from '../../src/adapters/postgres.ts';
import { type Channel, createChannel } from '../../src/adapters/redis.ts';
import { createOperation } from '../../src/operation.ts';
import { expireApprovals } from '../../src/services/upkeep.ts';
import { startTestService, type TestService } from '../service.ts';

let service: TestService;
let database: Database;
let channel: Channel;

beforeAll(async () => {
  service = await startTestService({ worker: false });
  channel = createChannel({ url: null, log: createLog({ level: 'silent' }) });
  database = createDatabase({
    url: service.database.workerUrl,
    poolSize: 2,
    connectionTimeout: 5_000,
    statementTimeout: 5_000,
    applicationName: 'test',
    onError: () => undefined,
  });
});
afterAll(async () => {
  await database.close();
  await channel.close();
  await service.stop();
});

const look = (sql: string, values?: unknown[]) => service.database.owner(sql, values);

/** One round of the upkeep, as the worker does it. */
function upkeep(): Promise<number> {
  return expireApprovals(database, (userId) => createOperation({ database, channel, clock: systemClock() }, userId));
}

/** A task that waits for approvals, which expire after the given number of seconds. */
async function arrangeWaitingTask(userName: string, lives: number[]): Promise<{ userId: string; taskId: string }> {
  const user = await service.user(userName);
  const team = await user.ask('{ agents(first: 1) { edges { node { id } } } }');
  const session = await user.ask('mutation { createSession { session { id } } }');
  await user.ask('mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }', {
    input: {
      sessionId: session.data.createSession.session.id,
      targetAgentId: team.data.agents.edges[0].node.id,
      content: 'something dangerous',
    },
  });
  const [task] = await look(
    `UPDATE tasks SET state = 'WAITING', waiting_since = now() - interval '1 minute', deadline_at = now()
     WHERE user_id = (SELECT id FROM users WHERE subject = $1) RETURNING user_id, id`,
    [userName],
  );
  for (const life of lives) {
    await look(
      `INSERT INTO approvals (user_id, kind, session_id, task_id, expires_at)
       SELECT user_id, 'TOOL', session_id, id, now() + make_interval(secs => $3) FROM tasks WHERE user_id = $1 AND id = $2`,
      [task?.['user_id'], task?.['id'], life],
    );
  }
  return { userId: String(task?.['user_id']), taskId: String(task?.['id']) };
}

describe('an approval that nobody decides', () => {
  it('expires by the clock of the database, with an event, and its task goes on', async () => {
    const { userId, taskId } = await arrangeWaitingTask('late', [-1]);
    expect(await upkeep()).toBe(1);
    expect(
      await look('SELECT state, decided_at IS NOT NULL AS decided FROM approvals WHERE task_id = $1', [taskId]),
    ).toEqual([{ state: 'EXPIRED', decided: true }]);
    // The minute of waiting does not count as running.
    expect(
      await look(`SELECT state, deadline_at > now() + interval '50 seconds' AS moved FROM tasks WHERE id = $1`, [
        taskId,
      ]),
    ).toEqual([{ state: 'QUEUED', moved: true }]);
    expect(
      await look(`SELECT data ->> 'state' AS state FROM events WHERE user_id = $1 AND type = 'approval_resolved'`, [
        userId,
      ]),
    ).toEqual([{ state: 'EXPIRED' }]);
  });

  it('expires once, however often and by however many the upkeep looks', async () => {
    const { userId } = await arrangeWaitingTask('often', [-1]);
    await Promise.all([upkeep(), upkeep(), upkeep()]);
    expect(
      await look(`SELECT count(*)::int AS events FROM events WHERE user_id = $1 AND type = 'approval_resolved'`, [
        userId,
      ]),
    ).toEqual([{ events: 1 }]);
  });

  it('leaves its task waiting while another approval of it is pending', async () => {
    const { taskId } = await arrangeWaitingTask('two', [-1, 60]);
    await upkeep();
    expect(await look('SELECT state FROM tasks WHERE id = $1', [taskId])).toEqual([{ state: 'WAITING' }]);
    await look(
      `UPDATE approvals SET expires_at = now() - interval '1 second' WHERE task_id = $1 AND state = 'PENDING'`,
      [taskId],
    );
    await upkeep();
    expect(await look('SELECT state FROM tasks WHERE id = $1', [taskId])).toEqual([{ state: 'QUEUED' }]);
  });

  it('does not expire before its time', async () => {
    const { taskId } = await arrangeWaitingTask('early', [60]);
    expect(await upkeep()).toBe(0);
    expect(await look('SELECT state FROM approvals WHERE task_id = $1', [taskId])).toEqual([{ state: 'PENDING' }]);
  });
});
