import pg from 'pg';
import { systemClock } from '../../src/adapters/clock.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createMetrics } from '../../src/adapters/metrics.ts';
import { createDatabase, type Database } from '../../src/adapters/postgres.ts';
import { createChannel } from '../../src/adapters/redis.ts';
import { createTracing } from '../../src/adapters/trace.ts';
import { createOperation } from '../../src/operation.ts';
import { wakeWorkers } from '../../src/queue/signal.ts';
import { enqueueJob } from '../../src/queue/task.ts';
import { startUpkeep } from '../../src/runner/upkeep.ts';
import { startWorker } from '../../src/runner/worker.ts';
import { createSecretBox } from '../../src/services/secret-box.ts';
import { type Engine, type Job, lease } from './engine.ts';
import { agents } from './population.ts';

const noModel = () => Promise.reject(new Error('what is measured here calls no model'));

const kind = 'NOOP';
const log = createLog({ level: 'error' });

const uuid = (group: string, number: number): string =>
  `00000000-0000-7000-${group}-${number.toString(16).padStart(12, '0')}`;
const userId = (user: number): string => uuid('8000', user);
const agentId = (agent: number): string => uuid('9000', agent);

function openDatabase(url: string, poolSize: number): Database {
  return createDatabase({
    url,
    poolSize,
    connectionTimeout: 30_000,
    statementTimeout: 30_000,
    applicationName: 'bench',
    onError: () => undefined,
  });
}

/** The service's own queue and worker, with a kind of task that does nothing. */
export const engine: Engine = {
  prepare: async ({ ownerUrl }) => {
    const pool = new pg.Pool({ connectionString: ownerUrl, max: 1 });
    const users = [...new Set(agents.map(({ user }) => user))];
    await pool.query(
      `INSERT INTO users (id, issuer, subject) SELECT id, 'bench', id::text FROM unnest($1::uuid[]) AS id`,
      [users.map(userId)],
    );
    const ids = [agents.map(({ user }) => userId(user)), agents.map(({ agent }) => agentId(agent))];
    await pool.query(
      `INSERT INTO agents (user_id, id, name, instructions)
       SELECT user_id, id, id::text, 'none' FROM unnest($1::uuid[], $2::uuid[]) AS agent (user_id, id)`,
      ids,
    );
    await pool.query(
      `INSERT INTO lanes (user_id, id, kind, agent_id)
       SELECT user_id, id, 'AGENT', id FROM unnest($1::uuid[], $2::uuid[]) AS agent (user_id, id)`,
      ids,
    );
    await pool.end();
  },
  openProducer: async ({ workerUrl, ownerUrl, redisUrl }) => {
    const database = openDatabase(workerUrl, 4);
    const channel = createChannel({ url: redisUrl, log });
    const owner = new pg.Pool({ connectionString: ownerUrl, max: 1 });
    owner.on('error', () => undefined);
    const resources = { database, channel, clock: systemClock() };
    return {
      enqueue: async ({ user, agent }) => {
        const operation = createOperation(resources, userId(user));
        const id = await enqueueJob(operation, { kind, laneId: agentId(agent) }, 'agentId');
        return id ?? Promise.reject(new Error('the lane is missing'));
      },
      enqueueAll: async (jobs) => {
        const { rows } = await owner.query<{ id: string }>(
          `WITH job AS (
             SELECT uuidv7() AS id, user_id, agent_id, place
             FROM unnest($2::uuid[], $3::uuid[]) WITH ORDINALITY AS job (user_id, agent_id, place)
           ), added AS (
             INSERT INTO tasks (user_id, id, kind, lane_id, agent_id)
             SELECT user_id, id, $1, agent_id, agent_id FROM job ORDER BY place
           )
           SELECT id FROM job ORDER BY place`,
          [kind, jobs.map((job: Job) => userId(job.user)), jobs.map((job: Job) => agentId(job.agent))],
        );
        wakeWorkers(channel);
        return rows.map((row) => row.id);
      },
      unfinished: async () => {
        const { rows } = await owner.query<{ count: number }>(
          `SELECT coalesce(sum(blocked + queued + retrying + running), 0)::int AS count FROM lanes`,
        );
        return rows[0]?.count ?? Number.NaN;
      },
      clear: async () => {
        await owner.query('TRUNCATE tasks CASCADE');
        await owner.query('UPDATE lanes SET queued = 0, running = 0, waits_for_turn = false');
      },
      setUserLimit: async (isLifted) => {
        await owner.query(`UPDATE tenants SET max_running = ${isLifted ? '10000' : 'DEFAULT'}`);
      },
      close: async () => {
        await channel.close();
        await database.close();
        await owner.end();
      },
    };
  },
  startWorker: async ({ store, slots }, handle) => {
    const database = openDatabase(store.workerUrl, slots);
    const channel = createChannel({ url: store.redisUrl, log });
    const resources = {
      database,
      channel,
      clock: systemClock(),
      log,
      metrics: createMetrics(),
      tracing: createTracing(null),
    };
    const worker = await startWorker(
      {
        ...resources,
        modelFor: () => ({ chat: noModel, embed: noModel }),
        approvalTimeout: 300_000,
      },
      {
        handlers: {},
        jobs: { [kind]: ({ claim }) => handle(claim.taskId) },
        slots,
        pollInterval: 1_000,
        lease,
        stopTimeout: 5_000,
      },
    );
    const stopUpkeep = startUpkeep(resources, worker.id, {
      lease,
      taskTimeout: 600_000,
      retention: { expiredSessionDays: 7, eventDays: 30, eventsPerSession: 1_000 },
      secrets: createSecretBox([]),
    });
    return async () => {
      await stopUpkeep();
      await worker.stop();
      await channel.close();
      await database.close();
    };
  },
};
