import { v7 as uuidv7 } from 'uuid';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { beat, offerSlots } from '../../src/queue/claim.ts';
import { givenTopic } from '../../src/queue/signal.ts';
import {
  type Claim,
  endAttempt,
  enqueueJob,
  enqueueTask,
  type NewTask,
  StaleAttemptError,
} from '../../src/queue/task.ts';
import { findAttempt } from '../../src/services/attempt.ts';
import { defaultTerms } from '../../src/terms.ts';
import { waitFor } from '../service.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditCounts } from './audit.ts';

let queue: TestQueue;
let user: string;
let agent: string;

beforeEach(async () => {
  queue = await startTestQueue();
  user = await queue.addUser({ maxRunning: 5 });
  agent = await queue.addAgent(user, { maxRunning: 3 });
});
afterEach(() => queue.stop());

/** A worker that is alive and takes so many tasks unasked. @returns its id, and what it is told of */
async function addWorker(slots: number, offer: { kinds?: string[]; reach?: string | null } = {}) {
  const { database, channel } = queue.resources;
  const id = uuidv7();
  const given: Claim[] = [];
  await channel.subscribe(givenTopic(id), (claim) => void given.push(claim as Claim));
  await beat(database, id, []);
  await offerSlots(database, id, { slots, kinds: ['AGENT_RUN'], reach: channel.reach(), ...offer });
  return { id, given };
}

async function openSlots(workerId: string): Promise<number> {
  const [row] = await queue.database.owner(
    'SELECT sum(open_slots) AS open_slots FROM worker_places WHERE worker_id = $1',
    [workerId],
  );
  return Number(row?.['open_slots']);
}

describe('a new task', () => {
  it('is given to a worker with a free slot in the commit that adds it', async () => {
    const worker = await addWorker(2);
    const task = await queue.enqueue(user, agent);
    expect(await queue.task(task)).toMatchObject({ state: 'RUNNING', attempt: 1, worker_id: worker.id });
    const begun = { requestId: null, traceparent: null, task: expect.objectContaining({ id: task, agentId: agent }) };
    expect(worker.given).toEqual([{ userId: user, taskId: task, attempt: 1, kind: 'AGENT_RUN', begun }]);
    expect(await openSlots(worker.id)).toBe(1);
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('begins in that commit, with its agent', async () => {
    const worker = await addWorker(2);
    const task = await queue.enqueue(user, agent);
    const events = await queue.database.owner('SELECT type, data FROM events WHERE user_id = $1 ORDER BY sequence', [
      user,
    ]);
    expect(events).toEqual([
      { type: 'agent_status_changed', data: { agentId: agent, status: 'BUSY' } },
      { type: 'task_started', data: { taskId: task, attempt: 1 } },
    ]);
    const [row] = await queue.database.owner('SELECT status FROM agents WHERE id = $1', [agent]);
    expect(row).toEqual({ status: 'BUSY' });
    const [claim] = worker.given as [Claim];
    const { remaining } = await findAttempt(queue.operation(user).read, claim);
    expect(remaining).toBeGreaterThan(defaultTerms.taskTimeout - 60_000);
    expect(remaining).toBeLessThanOrEqual(defaultTerms.taskTimeout);
  });

  it('is told of by its ids: what it holds of texts is for its worker to read', async () => {
    const worker = await addWorker(2);
    await queue.enqueue(user, agent, { input: { question: 'a secret' } });
    expect(JSON.stringify(worker.given)).not.toContain('secret');
    expect(worker.given).toHaveLength(1);
  });

  it('tells nothing of its start where it is left to the queue', async () => {
    await queue.enqueue(user, agent);
    expect(await queue.database.owner('SELECT type FROM events WHERE user_id = $1', [user])).toEqual([]);
  });

  it('is given to one worker alone, the one with the most free slots', async () => {
    const [busy, idle] = [await addWorker(1), await addWorker(2)];
    await queue.enqueue(user, agent);
    expect([busy.given.length, idle.given.length]).toEqual([0, 1]);
  });

  it('is given as a job is, in one trip', async () => {
    const worker = await addWorker(1, { kinds: ['TIDY'] });
    const id = await enqueueJob(queue.operation(user), { kind: 'TIDY', laneId: agent }, 'agentId');
    await waitFor('the worker to be told', () => worker.given.length === 1);
    expect(worker.given).toEqual([{ userId: user, taskId: id, attempt: 1, kind: 'TIDY' }]);
  });

  const session = async (): Promise<Partial<NewTask>> => {
    const sessionId = await queue.addSession(user);
    await queue.database.owner(
      `INSERT INTO tasks (user_id, kind, state, session_id, session_order) VALUES ($1, 'AGENT_RUN', 'WAITING', $2, 1)`,
      [user, sessionId],
    );
    return { sessionId, sessionOrder: 2 };
  };
  const nothing = async (): Promise<Partial<NewTask>> => ({});
  it.each<[string, () => Promise<unknown>, () => Promise<Partial<NewTask>>]>([
    ['no worker takes any', () => addWorker(0), nothing],
    ['the worker does other work', () => addWorker(1, { kinds: ['INGEST'] }), nothing],
    ['messages of the sender do not reach the worker', () => addWorker(1, { reach: 'elsewhere' }), nothing],
    ['no messages reach the worker', () => addWorker(1, { reach: null }), nothing],
    ['the worker has not shown itself for long', async () => queue.silence((await addWorker(1)).id, 11), nothing],
    [
      'the agent has as many running as it may',
      async () => {
        await queue.addTasks(user, [agent], 3);
        await queue.claim(uuidv7(), 3);
        await addWorker(9);
      },
      nothing,
    ],
    [
      'the user has as many running as they may',
      async () => {
        await queue.addTasks(user, [await queue.addAgent(user), await queue.addAgent(user)], 5);
        await queue.claim(uuidv7(), 5);
        await addWorker(9);
      },
      nothing,
    ],
    [
      'an older one of the agent is queued',
      async () => {
        await queue.addTasks(user, [agent], 1);
        await addWorker(9);
      },
      nothing,
    ],
    [
      'one of another agent of the user is queued, whom a claim may pass over just now',
      async () => {
        await queue.addTasks(user, [await queue.addAgent(user, { maxRunning: 0 })], 1);
        await addWorker(9);
      },
      nothing,
    ],
    ['an earlier one of its session is still open', () => addWorker(9), session],
  ])('is left to the queue when %s', async (_why, arrange, describeTask) => {
    await arrange();
    const task = await queue.enqueue(user, agent, await describeTask());
    expect(await queue.task(task)).toMatchObject({ state: 'QUEUED', attempt: 0, worker_id: null });
  });

  it('keeps to the limits of agent, user and worker when many are added at once', async () => {
    const others = await Promise.all([queue.addAgent(user), queue.addAgent(user)]);
    const worker = await addWorker(4);
    await Promise.all([agent, ...others].flatMap((lane) => Array.from({ length: 8 }, () => queue.enqueue(user, lane))));
    expect(worker.given.length).toBeGreaterThan(0);
    expect(worker.given.length).toBeLessThanOrEqual(4);
    expect(await openSlots(worker.id)).toBe(4 - worker.given.length);
    expect(await auditCounts(queue.database)).toEqual([]);
    const claimed = await queue.claimAll(uuidv7(), 20);
    expect(claimed.length + worker.given.length).toBe(5);
  });

  it('takes no slot when its transaction fails', async () => {
    const worker = await addWorker(1);
    const failure = new Error('no');
    const added = queue.operation(user).write(async (write) => {
      const refs = { sessionId: null, messageId: null, sessionOrder: null };
      await enqueueTask(write, { kind: 'AGENT_RUN', laneId: agent, agentId: agent, ...refs });
      throw failure;
    });
    await expect(added).rejects.toBe(failure);
    expect(await openSlots(worker.id)).toBe(1);
    expect(worker.given).toEqual([]);
  });
});

describe('a task that was given to a worker whom nobody reaches', () => {
  const addDeafWorker = async (): Promise<void> => {
    const { database, channel } = queue.resources;
    const id = uuidv7();
    await beat(database, id, []);
    await offerSlots(database, id, { slots: 1, kinds: ['AGENT_RUN'], reach: channel.reach() });
  };

  it('is queued again at once, and that is no crash', async () => {
    await addDeafWorker();
    const task = await queue.enqueue(user, agent);
    await waitFor('the task to be queued', async () => (await queue.task(task)).state === 'QUEUED');
    expect(await queue.task(task)).toMatchObject({ worker_id: null, crashes: 0 });
    expect(await queue.claim(uuidv7(), 5)).toMatchObject([{ taskId: task, attempt: 2 }]);
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('takes from the worker whatever it may still write, should it have heard after all', async () => {
    const worker = await addWorker(1);
    const task = await queue.enqueue(user, agent);
    const [claim] = worker.given as [Claim];
    await queue.operation(user).write((write) => {
      return write.query({ name: 'take back', text: 'SELECT queue.take_back($1, 1)' }, [task]);
    });
    await expect(findAttempt(queue.operation(user).read, claim)).rejects.toThrow(StaleAttemptError);
    const end = queue.operation(user).write((write) => endAttempt(write, claim, { state: 'COMPLETED' }));
    await expect(end).rejects.toThrow(StaleAttemptError);
    expect(await queue.task(task)).toMatchObject({ state: 'QUEUED', worker_id: null });
  });
});

describe('an offer', () => {
  it('counts the tasks that the worker has', async () => {
    await queue.addTasks(user, [agent], 2);
    const worker = await addWorker(0);
    await queue.claim(worker.id, 2);
    await offerSlots(queue.resources.database, worker.id, { slots: 5, kinds: ['AGENT_RUN'], reach: null });
    expect(await openSlots(worker.id)).toBe(3);
  });

  it('does not wait for a sender who is just taking a slot', async () => {
    const worker = await addWorker(2);
    const { promise: sent, resolve: send } = Promise.withResolvers<void>();
    const { promise: held, resolve: hold } = Promise.withResolvers<void>();
    const sending = queue.operation(user).write(async (write) => {
      const values = [agent, 'AGENT_RUN', queue.resources.channel.reach()];
      await write.query({ name: 'take', text: 'SELECT queue.take_worker($1, $2, $3)' }, values);
      hold();
      await sent;
    });
    await held;
    await offerSlots(queue.resources.database, worker.id, { slots: 9, kinds: ['AGENT_RUN'], reach: null });
    send();
    await sending;
    // What the sender holds stays as it was; the other places have their parts of nine.
    expect(await openSlots(worker.id)).toBe(6);
  });
});
