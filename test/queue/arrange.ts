import { v7 as uuidv7 } from 'uuid';
import { systemClock } from '../../src/adapters/clock.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createDatabase, type Database } from '../../src/adapters/postgres.ts';
import { createChannel } from '../../src/adapters/redis.ts';
import { createOperation, type Operation, type OperationResources } from '../../src/operation.ts';
import { beat, claimTasks } from '../../src/queue/claim.ts';
import { reserveLane } from '../../src/queue/lane.ts';
import { type Claim, enqueueTask, type NewTask } from '../../src/queue/task.ts';
import { lockOpenSession } from '../../src/services/session.ts';
import { createTestDatabase, type TestDatabase, waitFor } from '../service.ts';

/** The queue over a database of its own, with nobody at work but the test. */
export interface TestQueue {
  database: TestDatabase;
  /** What API and workers share: a pool as `app_worker`, and a channel within this process. */
  resources: OperationResources;
  /** Another process's pool. It is closed with the rest. */
  openPool(poolSize: number, statementTimeout?: number): Database;
  addUser(limit?: { maxRunning?: number }): Promise<string>;
  /** Adds an agent with its lane. @returns the id of both */
  addAgent(userId: string, limits?: { maxRunning?: number; maxWaiting?: number }): Promise<string>;
  addSession(userId: string): Promise<string>;
  /** Adds many tasks at once, past the service: each in turn for the next agent. @returns their ids, oldest first */
  addTasks(userId: string, agentIds: string[], count: number): Promise<string[]>;
  operation(userId: string): Operation;
  /** Adds one task as the service does. */
  enqueue(userId: string, agentId: string, task?: Partial<NewTask>): Promise<string>;
  /** Claims as a worker that showed that it is alive. */
  claim(workerId: string, slots: number, kinds?: string[]): Promise<Claim[]>;
  /** Claims until nothing is left to claim, as a worker with that many slots each time. */
  claimAll(workerId: string, slots: number): Promise<Claim[]>;
  task(id: string): Promise<TaskRow>;
  states(ids: string[]): Promise<string[]>;
  /** Types of the user's events in their order, each with its task. */
  events(userId: string): Promise<{ type: string; taskId: string | null }[]>;
  /** Waits until that many transactions wait for a lock. */
  untilBlocked(transactions?: number): Promise<void>;
  /** Makes a worker look as if it had been silent for that long, in seconds. */
  silence(workerId: string, seconds: number): Promise<void>;
  stop(): Promise<void>;
}

export interface TaskRow extends Record<string, unknown> {
  state: string;
  attempt: number;
  crashes: number;
  failures: number;
  progress: number;
  worker_id: string | null;
  error_code: string | null;
  started_at: Date | null;
  deadline_at: Date | null;
  waiting_since: Date | null;
  finished_at: Date | null;
}

/** Makes the arrangement. Users, agents and sessions are stored past the service, to be quick. */
export async function startTestQueue(): Promise<TestQueue> {
  await using started = new AsyncDisposableStack();
  const database = await createTestDatabase();
  started.defer(() => database.drop());
  const pools: Database[] = [];
  started.defer(async () => void (await Promise.all(pools.map((pool) => pool.close()))));
  const log = createLog({ level: 'silent' });
  const channel = createChannel({ url: null, log });
  started.defer(() => channel.close());

  const openPool = (poolSize: number, statementTimeout = 20_000): Database => {
    const pool = createDatabase({
      url: database.workerUrl,
      poolSize,
      connectionTimeout: 30_000,
      statementTimeout,
      applicationName: 'test queue',
      onError: () => undefined,
    });
    pools.push(pool);
    return pool;
  };
  const resources: OperationResources = { database: openPool(20), channel, clock: systemClock() };
  const operation = (userId: string): Operation => createOperation(resources, userId);
  const one = async (sql: string, values: unknown[]): Promise<string> => {
    const [row] = await database.owner(sql, values);
    return String(row?.['id']);
  };
  const task = async (id: string): Promise<TaskRow> => {
    const [row] = await database.owner('SELECT * FROM tasks WHERE id = $1', [id]);
    if (row === undefined) {
      throw new Error(`there is no task ${id}`);
    }
    return row as TaskRow;
  };
  const claim = async (workerId: string, slots: number, kinds = ['AGENT_RUN']): Promise<Claim[]> => {
    await beat(resources.database, workerId, []);
    return claimTasks(resources.database, workerId, slots, kinds);
  };
  const all = started.move();
  return {
    database,
    resources,
    openPool,
    operation,
    addUser: async ({ maxRunning = 20 } = {}) => {
      const id = await one(`INSERT INTO users (issuer, subject) VALUES ('test', $1) RETURNING id`, [uuidv7()]);
      await database.owner('UPDATE tenants SET max_running = $2 WHERE user_id = $1', [id, maxRunning]);
      return id;
    },
    addAgent: async (userId, { maxRunning = 3, maxWaiting = 100 } = {}) => {
      const id = await one(`INSERT INTO agents (user_id, name, instructions) VALUES ($1, $2, 'none') RETURNING id`, [
        userId,
        uuidv7(),
      ]);
      await database.owner(
        `INSERT INTO lanes (user_id, id, kind, agent_id, max_running, max_waiting) VALUES ($1, $2, 'AGENT', $2, $3, $4)`,
        [userId, id, maxRunning, maxWaiting],
      );
      return id;
    },
    addSession: (userId) =>
      one(
        `INSERT INTO sessions (user_id, title, expires_at) VALUES ($1, 'test', now() + interval '1 day') RETURNING id`,
        [userId],
      ),
    addTasks: async (userId, agentIds, count) => {
      const rows = await database.owner(
        `INSERT INTO tasks (user_id, kind, lane_id, agent_id)
        SELECT $1, 'AGENT_RUN', agent, agent
        FROM generate_series(0, $3::int - 1) AS number, LATERAL (SELECT ($2::uuid[])[1 + number % cardinality($2::uuid[])]) AS lane (agent)
        RETURNING id`,
        [userId, agentIds, count],
      );
      return rows.map((row) => String(row['id']));
    },
    enqueue: (userId, agentId, given = {}) =>
      operation(userId).write(async (write) => {
        const { sessionId = null, sessionOrder = null, parentIds = [] } = given;
        await reserveLane(write, agentId, 'agentId', parentIds);
        if (sessionId !== null && sessionOrder !== null) {
          await lockOpenSession(write, sessionId, 'sessionId');
        }
        const { id } = await enqueueTask(write, {
          kind: 'AGENT_RUN',
          laneId: agentId,
          agentId,
          sessionId,
          messageId: null,
          sessionOrder,
          ...given,
        });
        return id;
      }),
    claim,
    claimAll: async (workerId, slots) => {
      const claims: Claim[] = [];
      for (;;) {
        const more = await claim(workerId, slots);
        if (more.length === 0) {
          return claims;
        }
        claims.push(...more);
      }
    },
    task,
    states: async (ids) => (await Promise.all(ids.map(task))).map((row) => row.state),
    events: async (userId) => {
      const rows = await database.owner(
        `SELECT type, data ->> 'taskId' AS "taskId" FROM events WHERE user_id = $1 ORDER BY sequence`,
        [userId],
      );
      return rows as { type: string; taskId: string | null }[];
    },
    untilBlocked: async (transactions = 1) => {
      await waitFor('a transaction to be blocked', async () => {
        const [row] = await database.owner(
          `SELECT count(*) AS blocked FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
        );
        return Number(row?.['blocked']) >= transactions;
      });
    },
    silence: async (workerId, seconds) => {
      await database.owner(`UPDATE workers SET heartbeat_at = now() - make_interval(secs => $2) WHERE id = $1`, [
        workerId,
        seconds,
      ]);
    },
    stop: () => all.disposeAsync(),
  };
}
