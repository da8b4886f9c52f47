import pg from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Database } from '../../src/adapters/postgres.ts';
import { createOperation } from '../../src/operation.ts';
import { claimTasks, completeAttempts } from '../../src/queue/claim.ts';
import { type Claim, endAttempt } from '../../src/queue/task.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditContinuously, auditCounts } from './audit.ts';

let queue: TestQueue;
const worker = uuidv7();

beforeAll(async () => {
  queue = await startTestQueue();
});
// Claims look at the tasks of all users, so that each test begins with none.
beforeEach(() => queue.database.owner('DELETE FROM users'));
afterAll(() => queue?.stop());

/** Says when a user or a lane was last served, in seconds before now. */
async function served(table: 'tenants' | 'lanes', id: string, secondsAgo: number): Promise<void> {
  await queue.database.owner(
    `UPDATE ${table} SET served_at = now() - make_interval(secs => $2) WHERE ${table === 'tenants' ? 'user_id' : 'id'} = $1`,
    [id, secondsAgo],
  );
}

async function complete(database: Database, claim: Claim): Promise<void> {
  const operation = createOperation({ ...queue.resources, database }, claim.userId);
  await operation.write((write) => endAttempt(write, claim, { state: 'COMPLETED' }));
}

const usersOf = (claims: Claim[]): string[] => claims.map((claim) => claim.userId);
const tasksOf = (claims: Claim[]): string[] => claims.map((claim) => claim.taskId);

/** How many claims each key has, most first. */
function tally(keys: string[]): number[] {
  return Object.values(Object.groupBy(keys, (key) => key))
    .map((group) => group?.length ?? 0)
    .toSorted((one, other) => other - one);
}

describe('the order of claims', () => {
  it('begins with the user served least recently, who then stands last', async () => {
    const people = [];
    for (const secondsAgo of [20, 30, 10]) {
      const user = await queue.addUser();
      await queue.addTasks(user, [await queue.addAgent(user)], 2);
      await served('tenants', user, secondsAgo);
      people.push(user);
    }
    const [twenty, thirty, ten] = people;
    const order = [];
    for (let turn = 0; turn < 6; turn += 1) {
      order.push(...usersOf(await queue.claim(worker, 1)));
    }
    expect(order).toEqual([thirty, twenty, ten, thirty, twenty, ten]);
  });

  it("takes the user's lane served least recently, which then stands last", async () => {
    const user = await queue.addUser();
    const tasks: string[][] = [];
    for (const secondsAgo of [20, 30, 10]) {
      const agent = await queue.addAgent(user);
      tasks.push(await queue.addTasks(user, [agent], 1), await queue.addTasks(user, [agent], 1));
      await served('lanes', agent, secondsAgo);
    }
    const order = [];
    for (let turn = 0; turn < 6; turn += 1) {
      order.push(...tasksOf(await queue.claim(worker, 1)));
    }
    expect(order).toEqual([2, 0, 4, 3, 1, 5].flatMap((place) => tasks[place] ?? []));
  });

  it("fills the user's lanes served least recently first, when one claim takes from several", async () => {
    const user = await queue.addUser();
    const lanes: string[][] = [];
    for (const secondsAgo of [10, 30, 20]) {
      const agent = await queue.addAgent(user);
      lanes.push(await queue.addTasks(user, [agent], 5));
      await served('lanes', agent, secondsAgo);
    }
    const claimed = new Set(tasksOf(await queue.claim(worker, 7)));
    expect(lanes.map((tasks) => tasks.map((task) => Number(claimed.has(task))))).toEqual([
      [1, 0, 0, 0, 0],
      [1, 1, 1, 0, 0],
      [1, 1, 1, 0, 0],
    ]);
  });

  it('takes the oldest task of the lane', async () => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user);
    const tasks = await queue.addTasks(user, [agent], 3);
    await queue.database.owner(`UPDATE tasks SET due_at = now() - interval '1 minute' WHERE id = $1`, [tasks[2]]);
    expect(tasksOf(await queue.claim(worker, 1))).toEqual([tasks[2]]);
    expect(tasksOf(await queue.claim(worker, 1))).toEqual([tasks[0]]);
  });

  it('gives a user who comes later a turn before a flood that came first', async () => {
    const flood = await queue.addUser({ maxRunning: 1_000 });
    const agents = await Promise.all(Array.from({ length: 50 }, () => queue.addAgent(flood)));
    await queue.addTasks(flood, agents, 1_000);
    await queue.claim(worker, 10);
    const late = await queue.addUser();
    await queue.addTasks(late, [await queue.addAgent(late)], 2);
    expect(usersOf(await queue.claim(worker, 2))).toContain(late);
  });

  it.each([
    { users: 2, slots: 10, shares: [5, 5] },
    { users: 3, slots: 10, shares: [4, 3, 3] },
    { users: 9, slots: 10, shares: [2, 1, 1, 1, 1, 1, 1, 1, 1] },
    { users: 10, slots: 4, shares: [1, 1, 1, 1] },
    { users: 1, slots: 7, shares: [7] },
  ])('shares $slots slots between $users users, and fills no more', async ({ users, slots, shares }) => {
    for (let place = 0; place < users; place += 1) {
      const user = await queue.addUser();
      const agents = await Promise.all(Array.from({ length: 4 }, () => queue.addAgent(user)));
      await queue.addTasks(user, agents, 40);
    }
    expect(tally(usersOf(await queue.claim(worker, slots)))).toEqual(shares);
  });

  it('gives slots that one user has no use for to the others', async () => {
    const [light, heavy] = [await queue.addUser(), await queue.addUser()];
    await queue.addTasks(light, [await queue.addAgent(light)], 1);
    await queue.addTasks(heavy, await Promise.all(Array.from({ length: 4 }, () => queue.addAgent(heavy))), 20);
    expect(tally(usersOf(await queue.claim(worker, 10)))).toEqual([9, 1]);
  });
});

it('reads no more of a flood than it takes, also by a plan that was made when there was nothing to read', async () => {
  const pool = queue.openPool(1);
  const user = await queue.addUser();
  const agents = await Promise.all(Array.from({ length: 10 }, () => queue.addAgent(user)));
  await queue.database.owner('VACUUM (ANALYZE) tasks');
  await queue.addTasks(user, agents, 1);
  await completeAttempts(pool, worker, await claimTasks(pool, worker, 20, ['AGENT_RUN']));
  await queue.addTasks(user, agents, 3_000);
  const read = async (): Promise<number> => {
    await pool.query({ name: 'flush', text: 'SELECT pg_stat_force_next_flush()' });
    const [row] = await queue.database.owner(
      `SELECT (seq_tup_read + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'tasks'))::int AS read
       FROM pg_stat_user_tables WHERE relname = 'tasks'`,
    );
    return Number(row?.['read']);
  };
  const before = await read();
  const claims = await claimTasks(pool, worker, 20, ['AGENT_RUN']);
  expect(claims).toHaveLength(20);
  expect([...(await completeAttempts(pool, worker, claims))]).toEqual([]);
  expect((await read()) - before).toBeLessThan(300);
});

it('takes nothing, and changes nothing, when it is for no slot', async () => {
  const user = await queue.addUser();
  const tasks = await queue.addTasks(user, [await queue.addAgent(user)], 2);
  expect(await queue.claim(worker, 0)).toEqual([]);
  expect(await queue.states(tasks)).toEqual(['QUEUED', 'QUEUED']);
  expect(await queue.claim(worker, 5)).toHaveLength(2);
});

describe('the limits of claims', () => {
  it('let at most three tasks of an agent run, and as many as there are free', async () => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user);
    await queue.addTasks(user, [agent], 10);
    const claims = await queue.claimAll(worker, 10);
    expect(claims).toHaveLength(3);
    await Promise.all(claims.slice(0, 2).map((claim) => complete(queue.resources.database, claim)));
    expect(await queue.claim(worker, 10)).toHaveLength(2);
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('let at most as many tasks of a user run as the user may', async () => {
    const user = await queue.addUser({ maxRunning: 5 });
    const agents = await Promise.all(Array.from({ length: 4 }, () => queue.addAgent(user)));
    await queue.addTasks(user, agents, 40);
    const claims = await queue.claimAll(worker, 20);
    expect(claims).toHaveLength(5);
    await complete(queue.resources.database, claims[0] as Claim);
    expect(await queue.claim(worker, 20)).toHaveLength(1);
  });

  it('hold when the limit of an agent is lowered below what runs', async () => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user, { maxRunning: 4 });
    await queue.addTasks(user, [agent], 10);
    const claims = await queue.claimAll(worker, 10);
    await queue.database.owner('UPDATE lanes SET max_running = 2 WHERE id = $1', [agent]);
    for (const claim of claims.slice(0, 2)) {
      await complete(queue.resources.database, claim);
    }
    expect(await queue.claim(worker, 10)).toEqual([]);
    await complete(queue.resources.database, claims[2] as Claim);
    expect(await queue.claim(worker, 10)).toHaveLength(1);
  });

  it('are exact under eight processes that claim and complete 2,000 tasks at once, each task once', async () => {
    // The counts are the truth (audited all the while), and from here on the database refuses any that passes a limit.
    await queue.database.owner('ALTER TABLE lanes ADD CONSTRAINT limited CHECK (running <= max_running)');
    await queue.database.owner('ALTER TABLE tenants ADD CONSTRAINT limited CHECK (running <= max_running)');
    for (let place = 0; place < 10; place += 1) {
      const user = await queue.addUser({ maxRunning: 7 });
      const agents = await Promise.all(
        Array.from({ length: 4 }, () => queue.addAgent(user, { maxRunning: 2 + (place % 2) })),
      );
      await queue.addTasks(user, agents, 200);
    }
    const stopAudit = auditContinuously(queue.database);
    const claimed: string[] = [];
    let left = 2_000;
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        const pool = queue.openPool(4);
        const id = uuidv7();
        while (left > 0) {
          const claims = await claimTasks(pool, id, 12, ['AGENT_RUN']);
          claimed.push(...tasksOf(claims));
          await Promise.all(claims.map((claim) => complete(pool, claim)));
          left -= claims.length;
        }
      }),
    );
    const audit = await stopAudit();
    expect(audit.wrong).toEqual([]);
    expect(audit.looks).toBeGreaterThan(3);
    expect(claimed).toHaveLength(2_000);
    expect(new Set(claimed).size).toBe(2_000);
    await queue.database.owner('ALTER TABLE lanes DROP CONSTRAINT limited');
    await queue.database.owner('ALTER TABLE tenants DROP CONSTRAINT limited');
  });
});

describe('tasks with a turn in their session', () => {
  it('run one after the other, also over two agents', async () => {
    const user = await queue.addUser();
    const agents = [await queue.addAgent(user), await queue.addAgent(user)];
    const sessionId = await queue.addSession(user);
    const tasks = [];
    for (let sessionOrder = 1; sessionOrder <= 4; sessionOrder += 1) {
      tasks.push(await queue.enqueue(user, agents[sessionOrder % 2] as string, { sessionId, sessionOrder }));
    }
    for (const task of tasks) {
      const claims = await queue.claimAll(worker, 10);
      expect(tasksOf(claims)).toEqual([task]);
      await complete(queue.resources.database, claims[0] as Claim);
    }
  });

  it.each(['WAITING', 'RETRYING'] as const)('wait for an earlier one that is %s', async (state) => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user);
    const sessionId = await queue.addSession(user);
    await queue.enqueue(user, agent, { sessionId, sessionOrder: 1 });
    await queue.enqueue(user, agent, { sessionId, sessionOrder: 2 });
    const [first] = await queue.claim(worker, 10);
    await queue
      .operation(user)
      .write((write) =>
        endAttempt(
          write,
          first as Claim,
          state === 'WAITING'
            ? { state }
            : { state, code: 'SERVICE_BUSY', message: '', dueAt: new Date(Date.now() + 60_000) },
        ),
      );
    expect(await queue.claim(worker, 10)).toEqual([]);
  });

  it('go on after an earlier one that failed or was cancelled', async () => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user);
    const sessionId = await queue.addSession(user);
    const tasks = [];
    for (let sessionOrder = 1; sessionOrder <= 3; sessionOrder += 1) {
      tasks.push(await queue.enqueue(user, agent, { sessionId, sessionOrder }));
    }
    const [first] = await queue.claim(worker, 10);
    await queue
      .operation(user)
      .write((write) => endAttempt(write, first as Claim, { state: 'FAILED', code: 'MODEL_REFUSED', message: '' }));
    await queue.database.owner(`UPDATE tasks SET state = 'CANCELLED' WHERE id = $1`, [tasks[1]]);
    expect(tasksOf(await queue.claim(worker, 10))).toEqual([tasks[2]]);
  });

  it('let tasks without a turn, and those of other sessions, run beside them', async () => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user, { maxRunning: 10 });
    const [session, other] = [await queue.addSession(user), await queue.addSession(user)];
    await queue.enqueue(user, agent, { sessionId: session, sessionOrder: 1 });
    const second = await queue.enqueue(user, agent, { sessionId: session, sessionOrder: 2 });
    await queue.enqueue(user, agent, { sessionId: session });
    await queue.enqueue(user, agent, { sessionId: other, sessionOrder: 2 });
    await queue.enqueue(user, agent);
    const claimed = tasksOf(await queue.claimAll(worker, 10));
    expect(claimed).toHaveLength(4);
    expect(claimed).not.toContain(second);
  });

  it('keep no slot from other tasks, however many lanes hold nothing but tasks that wait for their turn', async () => {
    const waiting = 400;
    const users = await queue.database.owner(
      `INSERT INTO users (issuer, subject) SELECT 'test', 'waiting ' || number FROM generate_series(1, $1::int) AS number RETURNING id`,
      [waiting],
    );
    await queue.database.owner(
      `WITH made AS (
        INSERT INTO agents (user_id, name, instructions) SELECT unnest($1::uuid[]), 'agent', 'none' RETURNING user_id, id
      ), laned AS (
        INSERT INTO lanes (user_id, id, kind, agent_id) SELECT user_id, id, 'AGENT', id FROM made
      )
      INSERT INTO sessions (user_id, id, title, expires_at) SELECT user_id, id, 'test', now() + interval '1 day' FROM made`,
      [users.map((row) => row['id'])],
    );
    await queue.database.owner(`
      INSERT INTO tasks (user_id, kind, lane_id, agent_id, session_id, session_order, state)
      SELECT user_id, 'AGENT_RUN', id, id, id, place, CASE place WHEN 1 THEN 'WAITING' ELSE 'QUEUED' END::task_state
      FROM lanes, generate_series(1, 2) AS place`);
    const late = await queue.addUser();
    const [task] = await queue.addTasks(late, [await queue.addAgent(late)], 1);
    await served('tenants', late, -60);
    expect(tasksOf(await queue.claim(worker, 5))).toEqual([task]);
    expect(await auditCounts(queue.database)).toEqual([]);
  });
});

describe('a claim', () => {
  it('takes tasks of the kinds that it was asked for, and lets no others stand in their way', async () => {
    const user = await queue.addUser();
    const [busy, other] = [await queue.addAgent(user), await queue.addAgent(user)];
    await queue.enqueue(user, busy, { kind: 'INGEST' });
    const behind = await queue.enqueue(user, busy);
    const beside = await queue.enqueue(user, other);
    expect(new Set(tasksOf(await queue.claimAll(worker, 1)))).toEqual(new Set([behind, beside]));
    expect(await queue.claim(worker, 1, ['INGEST'])).toMatchObject([{ kind: 'INGEST', attempt: 1 }]);
  });

  it('finds its kind behind any number of lanes that hold only others', async () => {
    const user = await queue.addUser();
    for (let place = 0; place < 300; place += 1) {
      const agent = await queue.addAgent(user);
      await queue.addTasks(user, [agent], 1);
    }
    const agent = await queue.addAgent(user);
    const task = await queue.enqueue(user, agent, { kind: 'INGEST' });
    expect(tasksOf(await queue.claim(worker, 5, ['INGEST']))).toEqual([task]);
  });

  it.each([
    ['a lane', 'SELECT FROM lanes WHERE id = $1 FOR UPDATE'],
    ['a user', 'SELECT FROM tenants JOIN lanes USING (user_id) WHERE lanes.id = $1 FOR UPDATE OF tenants'],
    ['a task', 'SELECT FROM tasks WHERE lane_id = $1 FOR UPDATE'],
  ])('passes over %s that someone holds, and waits for nobody', async (_what, lock) => {
    const [heldUser, freeUser] = [await queue.addUser(), await queue.addUser()];
    const [held, free] = [await queue.addAgent(heldUser), await queue.addAgent(freeUser)];
    const [heldTask] = await queue.addTasks(heldUser, [held], 1);
    const [freeTask] = await queue.addTasks(freeUser, [free], 1);
    const holder = new pg.Client({ connectionString: queue.database.ownerUrl });
    await holder.connect();
    await holder.query('BEGIN');
    await holder.query(lock, [held]);
    // A claim that waited for the holder would fail on this.
    const impatient = queue.openPool(1, 1_000);
    expect(tasksOf(await claimTasks(impatient, worker, 5, ['AGENT_RUN']))).toEqual([freeTask]);
    await holder.end();
    expect(tasksOf(await queue.claim(worker, 5))).toEqual([heldTask]);
  });

  it('counts each attempt, and tells when the first began', async () => {
    const user = await queue.addUser();
    const task = await queue.enqueue(user, await queue.addAgent(user));
    const [first] = await queue.claim(worker, 1);
    const { started_at: began } = await queue.task(task);
    await queue
      .operation(user)
      .write((write) =>
        endAttempt(write, first as Claim, { state: 'RETRYING', code: 'SERVICE_BUSY', message: '', dueAt: new Date() }),
      );
    await queue.database.owner(`UPDATE tasks SET state = 'QUEUED' WHERE id = $1`, [task]);
    expect(await queue.claim(worker, 1)).toMatchObject([{ taskId: task, attempt: 2 }]);
    expect((await queue.task(task)).started_at).toEqual(began);
  });
});
