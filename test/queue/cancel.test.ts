import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { rescueTasks } from '../../src/queue/claim.ts';
import { abortTopic } from '../../src/queue/signal.ts';
import { type Claim, endAttempt } from '../../src/queue/task.ts';
import { deleteAgent } from '../../src/services/agent.ts';
import { completeAgentRun } from '../../src/services/agent-run.ts';
import { failAttempt, startAttempt } from '../../src/services/attempt.ts';
import { sendMessage } from '../../src/services/message.ts';
import { deleteSession } from '../../src/services/session.ts';
import { cancelTask, cancelTasksOfAgent, cancelTasksOfSession } from '../../src/services/task.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditCounts } from './audit.ts';

let queue: TestQueue;

beforeAll(async () => {
  queue = await startTestQueue();
});
beforeEach(() => queue.database.owner('DELETE FROM users'));
afterAll(() => queue?.stop());

async function arrange() {
  const user = await queue.addUser();
  const agent = await queue.addAgent(user);
  const operation = queue.operation(user);
  return {
    user,
    agent,
    operation,
    cancel: (id: string) => operation.write((write) => cancelTask(write, id)),
    start: async (worker = uuidv7()): Promise<Claim> => {
      const [claim] = await queue.claim(worker, 1);
      if (claim === undefined) {
        throw new Error('nothing was claimed');
      }
      await operation.write((write) => startAttempt(write, claim));
      return claim;
    },
    status: async () => {
      const [row] = await queue.database.owner('SELECT status FROM agents WHERE id = $1', [agent]);
      return row?.['status'];
    },
    eventTypes: async () => (await queue.events(user)).map((event) => event.type),
  };
}

describe('cancelling a task', () => {
  it('ends a queued one at once', async () => {
    const { user, agent, cancel, eventTypes } = await arrange();
    const task = await queue.enqueue(user, agent);
    await cancel(task);
    expect(await queue.task(task)).toMatchObject({ state: 'CANCELLED', attempt: 0, finished_at: expect.any(Date) });
    expect(await queue.claim(uuidv7(), 1)).toEqual([]);
    expect(await eventTypes()).toEqual(['task_cancelled']);
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('ends a running one, tells its worker, frees its slot and drops its late result', async () => {
    const { user, agent, operation, cancel, start, status, eventTypes } = await arrange();
    const sessionId = await queue.addSession(user);
    const task = await queue.enqueue(user, agent, { sessionId, sessionOrder: 1 });
    const claim = await start();
    expect(await status()).toBe('BUSY');
    const aborted: unknown[] = [];
    const stop = await queue.resources.channel.subscribe(abortTopic, (message) => aborted.push(message));
    await cancel(task);
    stop();
    expect(aborted).toEqual([{ taskIds: [task] }]);
    expect(await status()).toBe('READY');
    await expect(operation.write((write) => completeAgentRun(write, claim, 'late'))).rejects.toThrow('no longer');
    expect(await queue.database.owner('SELECT id FROM messages WHERE user_id = $1', [user])).toEqual([]);
    expect(await eventTypes()).toEqual([
      'agent_status_changed',
      'task_started',
      'agent_status_changed',
      'task_cancelled',
    ]);
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it.each(['WAITING', 'RETRYING', 'BLOCKED'] as const)('ends one that is %s', async (state) => {
    const { user, agent, operation, cancel, start } = await arrange();
    const parent = await queue.enqueue(user, agent);
    const blocked = await queue.enqueue(user, agent, { parentIds: [parent] });
    const claim = await start();
    if (state === 'WAITING') {
      await operation.write((write) => endAttempt(write, claim, { state }));
    } else if (state === 'RETRYING') {
      await operation.write((write) => failAttempt(write, claim, { code: 'MODEL_UNAVAILABLE', message: '' }));
    }
    const task = state === 'BLOCKED' ? blocked : parent;
    expect((await queue.task(task)).state).toBe(state);
    await cancel(task);
    expect(await queue.task(task)).toMatchObject({ state: 'CANCELLED', waiting_since: null });
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it.each(['COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED'])('refuses one that is %s', async (state) => {
    const { user, agent, cancel, eventTypes } = await arrange();
    const task = await queue.enqueue(user, agent);
    await queue.database.owner('UPDATE tasks SET state = $2::task_state WHERE id = $1', [task, state]);
    await expect(cancel(task)).rejects.toMatchObject({ code: 'TASK_ENDED', field: 'id' });
    expect((await queue.task(task)).state).toBe(state);
    expect(await eventTypes()).toEqual([]);
  });

  it('knows neither made-up tasks nor those of another user', async () => {
    const [alice, bob] = [await arrange(), await arrange()];
    const task = await queue.enqueue(bob.user, bob.agent);
    await expect(alice.cancel(task)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(alice.cancel(uuidv7())).rejects.toMatchObject({ code: 'NOT_FOUND' });
    expect((await queue.task(task)).state).toBe('QUEUED');
  });
});

describe("the agent's status after a cancel", () => {
  it('is BUSY while another task of it runs', async () => {
    const { user, agent, cancel, start, status } = await arrange();
    await queue.addTasks(user, [agent], 2);
    const [first, second] = [await start(), await start()];
    await cancel(first.taskId);
    expect(await status()).toBe('BUSY');
    await cancel(second.taskId);
    expect(await status()).toBe('READY');
  });

  it('is READY also when the worker of the task had died before', async () => {
    const { user, agent, cancel, start, status } = await arrange();
    const task = await queue.enqueue(user, agent);
    const worker = uuidv7();
    await start(worker);
    await queue.silence(worker, 60);
    await rescueTasks(queue.resources.database, 10_000);
    await cancel(task);
    expect(await status()).toBe('READY');
  });

  it('keeps the ERROR of an earlier task', async () => {
    const { user, agent, operation, cancel, start, status } = await arrange();
    await queue.addTasks(user, [agent], 2);
    const failed = await start();
    await operation.write((write) => failAttempt(write, failed, { code: 'MODEL_REFUSED', message: 'no' }));
    const [task] = await queue.claim(uuidv7(), 1);
    await cancel((task as Claim).taskId);
    expect(await status()).toBe('ERROR');
  });
});

describe('cancelling all', () => {
  it('of a session ends its open tasks and no others', async () => {
    const { user, agent, operation } = await arrange();
    const [session, other] = [await queue.addSession(user), await queue.addSession(user)];
    const mine = [];
    for (let sessionOrder = 1; sessionOrder <= 3; sessionOrder += 1) {
      mine.push(await queue.enqueue(user, agent, { sessionId: session, sessionOrder }));
    }
    const kept = await queue.enqueue(user, agent, { sessionId: other, sessionOrder: 1 });
    expect(await operation.write((write) => cancelTasksOfSession(write, session))).toEqual({ cancelled: '3' });
    expect(await queue.states([...mine, kept])).toEqual(['CANCELLED', 'CANCELLED', 'CANCELLED', 'QUEUED']);
    await expect(operation.write((write) => cancelTasksOfSession(write, uuidv7()))).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
  });

  it('of an agent ends its open tasks, and skips what other agents were to do after them', async () => {
    const { user, agent, operation } = await arrange();
    const other = await queue.addAgent(user);
    const task = await queue.enqueue(user, agent);
    const after = await queue.enqueue(user, other, { parentIds: [task] });
    const kept = await queue.enqueue(user, other);
    expect(await operation.write((write) => cancelTasksOfAgent(write, agent))).toEqual({ cancelled: '2' });
    expect(await queue.states([task, after, kept])).toEqual(['CANCELLED', 'SKIPPED', 'QUEUED']);
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('leaves nothing behind of what is sent to an agent or session at the moment when it is deleted', async () => {
    for (let round = 0; round < 10; round += 1) {
      const { user, agent, operation } = await arrange();
      const keeper = await queue.addAgent(user);
      const [session, other] = [await queue.addSession(user), await queue.addSession(user)];
      const send = (sessionId: string, targetAgentId: string) =>
        queue.operation(user).write((write) => sendMessage(write, { sessionId, targetAgentId, content: 'hello' }));
      const results = await Promise.allSettled([
        ...Array.from({ length: 4 }, () => send(other, agent)),
        operation.write((write) => deleteAgent(write, agent)),
        ...Array.from({ length: 4 }, () => send(session, keeper)),
        operation.write((write) => deleteSession(write, session)),
        ...Array.from({ length: 4 }, () => send(other, agent)),
      ]);
      for (const result of results) {
        expect(result.status === 'fulfilled' ? null : result.reason).toSatisfy(
          (reason) => reason === null || reason.code === 'NOT_FOUND',
        );
      }
      const open = await queue.database.owner(
        `SELECT id FROM tasks WHERE user_id = $1 AND state NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')`,
        [user],
      );
      expect(open).toEqual([]);
    }
    expect(await auditCounts(queue.database)).toEqual([]);
  });
});
