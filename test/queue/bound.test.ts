import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { DomainError } from '../../src/errors.ts';
import { sendMessage } from '../../src/services/message.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditCounts } from './audit.ts';

let queue: TestQueue;

beforeAll(async () => {
  queue = await startTestQueue();
});
beforeEach(() => queue.database.owner('DELETE FROM users'));
afterAll(() => queue?.stop());

const send = (userId: string, sessionId: string, targetAgentId: string) =>
  queue.operation(userId).write((write) => sendMessage(write, { sessionId, targetAgentId, content: 'hello' }));

async function countRows(userId: string): Promise<Record<string, unknown>> {
  const [counts] = await queue.database.owner(
    `SELECT (SELECT count(*)::int FROM messages WHERE user_id = $1) AS messages,
      (SELECT count(*)::int FROM tasks WHERE user_id = $1) AS tasks,
      (SELECT count(*)::int FROM events WHERE user_id = $1) AS events,
      (SELECT event_sequence::int FROM users WHERE id = $1) AS sequence,
      (SELECT sum(message_count)::int FROM sessions WHERE user_id = $1) AS "messageCounts",
      (SELECT sum(request_count)::int FROM sessions WHERE user_id = $1) AS "requestCounts"`,
    [userId],
  );
  return counts ?? {};
}

describe('the bound of an agent', () => {
  it.each([
    { running: 0, stored: 100 },
    { running: 3, stored: 103 },
  ])(
    'lets exactly 100 wait of 150 sent at once while $running run, and stores nothing of the others',
    async ({ running, stored }) => {
      const user = await queue.addUser();
      const agent = await queue.addAgent(user);
      const sessions = await Promise.all(Array.from({ length: 8 }, () => queue.addSession(user)));
      for (let place = 0; place < running; place += 1) {
        await send(user, sessions[place] as string, agent);
      }
      expect(await queue.claimAll(uuidv7(), 10)).toHaveLength(running);
      const results = await Promise.allSettled(
        Array.from({ length: 150 }, (_, place) => send(user, sessions[place % 8] as string, agent)),
      );
      const refused = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
      expect(refused).toHaveLength(50);
      for (const error of refused) {
        expect(error).toBeInstanceOf(DomainError);
        expect(error).toMatchObject({ code: 'AGENT_QUEUE_FULL', field: 'input.targetAgentId', retryAfter: 5 });
      }
      expect(await countRows(user)).toEqual({
        messages: stored,
        tasks: stored,
        events: stored * 2,
        sequence: stored * 2,
        messageCounts: stored,
        requestCounts: stored,
      });
      expect(await auditCounts(queue.database)).toEqual([]);
    },
  );

  it('counts tasks that wait for a parent or a retry', async () => {
    const user = await queue.addUser();
    const [agent, other] = [await queue.addAgent(user, { maxWaiting: 3 }), await queue.addAgent(user)];
    const parent = await queue.enqueue(user, other);
    await queue.enqueue(user, agent, { parentIds: [parent] });
    const retrying = await queue.enqueue(user, agent);
    await queue.enqueue(user, agent);
    await queue.database.owner(
      `UPDATE tasks SET state = 'RETRYING', due_at = now() + interval '1 hour' WHERE id = $1`,
      [retrying],
    );
    await expect(send(user, await queue.addSession(user), agent)).rejects.toMatchObject({ code: 'AGENT_QUEUE_FULL' });
  });

  it('leaves other agents alone', async () => {
    const user = await queue.addUser();
    const [full, free] = [await queue.addAgent(user, { maxWaiting: 0 }), await queue.addAgent(user)];
    const session = await queue.addSession(user);
    await expect(send(user, session, full)).rejects.toMatchObject({ code: 'AGENT_QUEUE_FULL' });
    await expect(send(user, session, free)).resolves.toMatchObject({ sessionId: session });
  });
});
