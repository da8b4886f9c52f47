import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { claimTasks, completeAttempts } from '../../src/queue/claim.ts';
import { type Claim, enqueueJob } from '../../src/queue/task.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditCounts } from './audit.ts';

let queue: TestQueue;
let worker: string;

beforeAll(async () => {
  queue = await startTestQueue();
});
beforeEach(async () => {
  await queue.database.owner('DELETE FROM users');
  worker = uuidv7();
});
afterAll(() => queue?.stop());

const add = (user: string, laneId: string) =>
  enqueueJob(queue.operation(user), { kind: 'AGENT_RUN', laneId, input: { size: 1 } }, 'agent');
const complete = (claims: readonly Claim[]) => completeAttempts(queue.resources.database, worker, claims);
const statesOf = (claims: readonly Claim[]) => queue.states(claims.map(({ taskId }) => taskId));

/** Claims of one task of each of several users. */
async function claimOfEach(users: number): Promise<Claim[]> {
  for (let user = 0; user < users; user += 1) {
    const id = await queue.addUser();
    await queue.enqueue(id, await queue.addAgent(id));
  }
  return queue.claimAll(worker, users);
}

describe('a job', () => {
  it('is added in one statement, with its input, and counted in its lane', async () => {
    const user = await queue.addUser();
    const id = await add(user, await queue.addAgent(user));
    expect(await queue.task(String(id))).toMatchObject({ state: 'QUEUED', input: { size: 1 } });
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('finds exactly as much room as its lane has, also when many are added at once', async () => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user, { maxWaiting: 5 });
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => add(user, agent)));
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(5);
    for (const result of results.filter(({ status }) => status === 'rejected')) {
      expect((result as PromiseRejectedResult).reason).toMatchObject({ code: 'AGENT_QUEUE_FULL', field: 'agent' });
    }
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it("finds no room in another user's lane, as in none", async () => {
    const [user, other] = [await queue.addUser(), await queue.addUser()];
    const theirs = await queue.addAgent(other);
    expect([await add(user, theirs), await add(user, uuidv7())]).toEqual([null, null]);
  });
});

describe('attempts that end at once', () => {
  it('are completed over all users, with right counts', async () => {
    const claims = await claimOfEach(4);
    expect([...(await complete(claims))]).toEqual([]);
    expect(await statesOf(claims)).toEqual(Array(4).fill('COMPLETED'));
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('are not those that others wait for: these are named, and go on', async () => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user);
    const parent = await queue.enqueue(user, agent);
    const child = await queue.enqueue(user, agent, { parentIds: [parent] });
    const claims = await queue.claimAll(worker, 5);
    expect([...(await complete(claims))]).toEqual([parent]);
    expect(await queue.states([parent, child])).toEqual(['RUNNING', 'BLOCKED']);
  });

  it('are not those in a lane that someone holds: these are named without waiting', async () => {
    const [held, free] = await claimOfEach(2);
    const { promise, resolve } = Promise.withResolvers<void>();
    const holding = queue.operation((held as Claim).userId).write(async (write) => {
      await add((held as Claim).userId, uuidv7());
      await write.query({ name: 'hold', text: 'SELECT id FROM lanes WHERE user_id = $1 FOR UPDATE' }, [write.userId]);
      resolve();
      await queue.untilBlocked(0);
      expect([...(await complete([held as Claim, free as Claim]))]).toEqual([(held as Claim).taskId]);
    });
    await promise;
    await holding;
    expect(await statesOf([held as Claim, free as Claim])).toEqual(['RUNNING', 'COMPLETED']);
  });

  it('wait for the locks of a user who is named, and leave those of others alone', async () => {
    const [held, other] = (await claimOfEach(2)) as [Claim, Claim];
    const { completing } = await queue.operation(held.userId).write(async (write) => {
      await write.query({ name: 'hold', text: 'SELECT id FROM lanes WHERE user_id = $1 FOR UPDATE' }, [write.userId]);
      const waiting = completeAttempts(queue.resources.database, worker, [held, other], held.userId);
      await queue.untilBlocked(1);
      expect(await statesOf([held, other])).toEqual(['RUNNING', 'RUNNING']);
      return { completing: waiting };
    });
    expect([...(await completing)]).toEqual([other.taskId]);
    expect(await statesOf([held, other])).toEqual(['COMPLETED', 'RUNNING']);
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('are not those of an attempt that is no longer the newest: these change nothing', async () => {
    const claims = await claimOfEach(1);
    await queue.silence(worker, 60);
    await queue.database.owner(`UPDATE tasks SET state = 'QUEUED', worker_id = NULL`);
    const [again] = await claimTasks(queue.resources.database, worker, 1, ['AGENT_RUN']);
    expect([...(await complete(claims))]).toEqual([]);
    expect(await queue.task((again as Claim).taskId)).toMatchObject({ state: 'RUNNING', attempt: 2 });
  });

  it("are not another worker's", async () => {
    const claims = await claimOfEach(1);
    await completeAttempts(queue.resources.database, uuidv7(), claims);
    expect(await statesOf(claims)).toEqual(['RUNNING']);
  });
});
