import { v7 as uuidv7 } from 'uuid';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { enqueueGraph, type GraphTask, lockForGraph } from '../../src/queue/graph.ts';
import { wakeTopic } from '../../src/queue/signal.ts';
import type { BegunTask, Successor } from '../../src/queue/successor.ts';
import { type Claim, endAttempt, type NewTask } from '../../src/queue/task.ts';
import { completeAttempt, failAttempt, findAttempt } from '../../src/services/attempt.ts';
import { defaultTerms } from '../../src/terms.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditCounts } from './audit.ts';

let queue: TestQueue;
let user: string;
let agent: string;
let other: string;

beforeEach(async () => {
  queue = await startTestQueue();
  user = await queue.addUser({ maxRunning: 3 });
  agent = await queue.addAgent(user, { maxRunning: 3 });
  other = await queue.addAgent(user, { maxRunning: 1 });
});
afterEach(() => queue.stop());

/** A worker with so many slots when the attempt has ended. */
function workerWith(slots: number, kinds = ['AGENT_RUN']) {
  const taken: Claim[] = [];
  const workerId = uuidv7();
  const take: Successor['take'] = (attempts) => void taken.push(...attempts);
  const successor: Successor = { workerId, kinds, slots: () => slots, take };
  return { workerId, successor, taken };
}

/** Adds a task and claims it. */
async function startParent(task: Partial<NewTask> = {}): Promise<Claim> {
  await queue.enqueue(user, agent, task);
  const [claim] = await queue.claim(uuidv7(), 1);
  if (claim === undefined) {
    throw new Error('the parent could not be claimed');
  }
  return claim;
}

const complete = (claim: Claim, successor: Successor) =>
  queue.operation(user).write((write) => completeAttempt(write, { ...claim, successor }));

describe('what the end of an attempt frees', () => {
  it('begins in that commit with the worker that ended it', async () => {
    const parent = await startParent();
    const child = await queue.enqueue(user, other, { parentIds: [parent.taskId] });
    const worker = workerWith(1);
    await complete(parent, worker.successor);
    expect(await queue.task(child)).toMatchObject({ state: 'RUNNING', attempt: 1, worker_id: worker.workerId });
    const task = expect.objectContaining({ id: child, agentId: other, laneId: other, input: {} });
    const begun = { requestId: null, traceparent: null, task };
    expect(worker.taken).toEqual([{ userId: user, taskId: child, attempt: 1, kind: 'AGENT_RUN', begun }]);
    expect(await auditCounts(queue.database)).toEqual([]);
    const [claim] = worker.taken as [Claim];
    const { remaining } = await findAttempt(queue.operation(user).read, claim);
    expect(remaining).toBeGreaterThan(defaultTerms.taskTimeout - 60_000);
    expect(remaining).toBeLessThanOrEqual(defaultTerms.taskTimeout);
  });

  it('is told to begin behind the end, with its agent', async () => {
    const parent = await startParent();
    const child = await queue.enqueue(user, other, { parentIds: [parent.taskId] });
    await complete(parent, workerWith(1).successor);
    const events = await queue.database.owner('SELECT type, data FROM events WHERE user_id = $1 ORDER BY sequence', [
      user,
    ]);
    expect(events.slice(-3)).toEqual([
      { type: 'task_completed', data: { taskId: parent.taskId } },
      { type: 'agent_status_changed', data: { agentId: other, status: 'BUSY' } },
      { type: 'task_started', data: { taskId: child, attempt: 1 } },
    ]);
  });

  it('leaves an agent BUSY that goes on, and tells nothing of it', async () => {
    const parent = await startParent();
    await queue.database.owner(`UPDATE agents SET status = 'BUSY' WHERE id = $1`, [agent]);
    await queue.enqueue(user, agent, { parentIds: [parent.taskId] });
    await complete(parent, workerWith(1).successor);
    const [row] = await queue.database.owner('SELECT status FROM agents WHERE id = $1', [agent]);
    expect(row).toEqual({ status: 'BUSY' });
    expect((await queue.events(user)).map(({ type }) => type)).toEqual(['task_completed', 'task_started']);
  });

  it('begins also behind a failure, where only the end was waited for', async () => {
    const parent = await startParent();
    const child = await queue.enqueue(user, other, { parentIds: [parent.taskId], needsSuccess: false });
    const worker = workerWith(1);
    await queue
      .operation(user)
      .write((write) =>
        failAttempt(write, { ...parent, successor: worker.successor }, { code: 'MODEL_REFUSED', message: 'no' }),
      );
    expect(worker.taken.map(({ taskId }) => taskId)).toEqual([child]);
  });

  it('begins as far as the worker has slots; the rest is queued, and the workers are woken', async () => {
    const parent = await startParent();
    const children = [
      await queue.enqueue(user, agent, { parentIds: [parent.taskId] }),
      await queue.enqueue(user, agent, { parentIds: [parent.taskId] }),
    ];
    let woken = 0;
    await queue.resources.channel.subscribe(wakeTopic, () => {
      woken += 1;
    });
    const worker = workerWith(1);
    await complete(parent, worker.successor);
    expect(worker.taken).toHaveLength(1);
    expect((await queue.states(children)).toSorted()).toEqual(['QUEUED', 'RUNNING']);
    expect(woken).toBe(1);
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  const nothing = async (): Promise<Partial<NewTask>> => ({});
  it.each<[string, { slots?: number; kinds?: string[] }, () => Promise<Partial<NewTask>>]>([
    ['the worker has no slot', { slots: 0 }, nothing],
    ['the worker does other work', { kinds: ['PLAN'] }, nothing],
    [
      'its agent has as many running as it may',
      {},
      async () => {
        await queue.addTasks(user, [other], 1);
        await queue.claim(uuidv7(), 1);
        return {};
      },
    ],
    [
      'something else of the user is queued, which may be before it in the fair order',
      {},
      async () => {
        await queue.addTasks(user, [agent], 1);
        return {};
      },
    ],
    [
      'an earlier task of its session is open',
      {},
      async () => {
        const sessionId = await queue.addSession(user);
        await queue.database.owner(
          `INSERT INTO tasks (user_id, kind, state, session_id, session_order) VALUES ($1, 'AGENT_RUN', 'WAITING', $2, 1)`,
          [user, sessionId],
        );
        return { sessionId, sessionOrder: 2 };
      },
    ],
  ])('is left to the queue when %s', async (_when, { slots = 9, kinds }, arrange) => {
    const parent = await startParent();
    const child = await queue.enqueue(user, other, { ...(await arrange()), parentIds: [parent.taskId] });
    const worker = workerWith(slots, kinds);
    await complete(parent, worker.successor);
    expect((await queue.task(child)).state).toBe('QUEUED');
    expect(worker.taken).toEqual([]);
  });

  it("is nobody else's when the commit fails", async () => {
    const parent = await startParent();
    const child = await queue.enqueue(user, other, { parentIds: [parent.taskId] });
    const worker = workerWith(1);
    const failing = queue.operation(user).write(async (write) => {
      await endAttempt(write, { ...parent, successor: worker.successor }, { state: 'COMPLETED' });
      throw new Error('the connection broke');
    });
    await expect(failing).rejects.toThrow('the connection broke');
    expect((await queue.task(child)).state).toBe('BLOCKED');
    expect(worker.taken).toEqual([]);
  });
});

describe('a graph that an attempt makes', () => {
  /** Ends the attempt of a plan's making with so many tasks for each of two agents, none of which waits for another. */
  async function endWithGraph(slots: number, counts: { agent: number; other: number }) {
    const sessionId = await queue.addSession(user);
    const parent = await startParent({ sessionId, sessionOrder: 1 });
    const planId = uuidv7();
    await queue.database.owner(`INSERT INTO plans (user_id, id, session_id, request) VALUES ($1, $2, $3, 'r')`, [
      user,
      planId,
      sessionId,
    ]);
    const tasks = [...Array(counts.agent).fill(agent), ...Array(counts.other).fill(other)].map(
      (laneId: string): GraphTask => ({
        id: uuidv7(),
        kind: 'AGENT_RUN',
        laneId,
        agentId: laneId,
        sessionId,
        messageId: null,
        planId,
        sessionOrder: 1,
        input: {},
        requestId: 'request',
        traceparent: null,
        parents: [],
      }),
    );
    const worker = workerWith(slots);
    let begun: BegunTask[] = [];
    await queue.operation(user).write(async (write) => {
      await lockForGraph(write, [agent, other], parent.taskId);
      await endAttempt(write, parent, { state: 'COMPLETED' });
      begun = await enqueueGraph(write, tasks, worker.successor);
    });
    expect(await auditCounts(queue.database)).toEqual([]);
    expect(worker.taken.map(({ taskId }) => taskId)).toEqual(begun.map(({ id }) => id));
    return {
      worker,
      running: tasks.flatMap(({ id, laneId }) => (begun.some((task) => task.id === id) ? [laneId] : [])),
    };
  }

  it('begins with its worker, and tells where it comes from', async () => {
    const { worker } = await endWithGraph(3, { agent: 1, other: 0 });
    expect(worker.taken).toMatchObject([{ attempt: 1, begun: { requestId: 'request', traceparent: null } }]);
    const [row] = await queue.database.owner('SELECT status FROM agents WHERE id = $1', [agent]);
    expect(row).toEqual({ status: 'BUSY' });
  });

  it.each<[string, number, { agent: number; other: number }, { agent: number; other: number }]>([
    ['slots of the worker', 2, { agent: 3, other: 0 }, { agent: 2, other: 0 }],
    ['limit of an agent', 9, { agent: 1, other: 2 }, { agent: 1, other: 1 }],
    ['limit of the user', 9, { agent: 4, other: 0 }, { agent: 3, other: 0 }],
  ])('begins as far as the %s goes', async (_limit, slots, counts, expected) => {
    const { running } = await endWithGraph(slots, counts);
    expect(running.filter((lane) => lane === agent)).toHaveLength(expected.agent);
    expect(running.filter((lane) => lane === other)).toHaveLength(expected.other);
  });
});
