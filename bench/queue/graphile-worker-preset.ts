import { Logger, makeWorkerUtils, run, type WorkerUtils } from 'graphile-worker';
import pg from 'pg';
import type { Engine, Job } from './engine.ts';

const task = 'noop';
const logger = new Logger(() => (level, message) => {
  if (level === 'error') {
    console.error(`graphile-worker: ${message}`);
  }
});

/** Named queues are serial, so that an agent with a limit of three has three, and its tasks take them in turn. */
const queuesPerAgent = 3;
function toSpec(job: Job, isLimited: boolean) {
  return {
    identifier: task,
    payload: { key: String(job.number) },
    maxAttempts: 10,
    ...(isLimited ? { queueName: `agent ${job.agent} ${job.number % queuesPerAgent}` } : {}),
  };
}

/** graphile-worker with the given options of its preset. */
export function createGraphileWorker(options: GraphileConfig.WorkerOptions): Engine {
  const open = async (url: string, size: number): Promise<{ pool: pg.Pool; utils: WorkerUtils }> => {
    const pool = new pg.Pool({ connectionString: url, max: size });
    pool.on('error', () => undefined);
    return { pool, utils: await makeWorkerUtils({ pgPool: pool, logger }) };
  };
  return {
    prepare: async ({ ownerUrl }) => {
      const { pool, utils } = await open(ownerUrl, 1);
      await utils.migrate();
      await utils.release();
      await pool.end();
    },
    openProducer: async ({ ownerUrl }) => {
      const { pool, utils } = await open(ownerUrl, 2);
      return {
        enqueue: async (job, isLimited) => {
          const { identifier, payload, ...spec } = toSpec(job, isLimited);
          await utils.addJob(identifier, payload, spec);
          return payload.key;
        },
        enqueueAll: async (jobs, isLimited) => {
          await utils.addJobs(jobs.map((job) => toSpec(job, isLimited)));
          return jobs.map((job) => String(job.number));
        },
        unfinished: async () => {
          const { rows } = await pool.query('SELECT count(*)::int AS count FROM graphile_worker._private_jobs');
          return Number(rows[0]?.count);
        },
        clear: async () => {
          await pool.query('DELETE FROM graphile_worker._private_jobs');
          await pool.query('DELETE FROM graphile_worker._private_job_queues');
        },
        close: async () => {
          await utils.release();
          await pool.end();
        },
      };
    },
    startWorker: async ({ store, slots }, handle) => {
      const runner = await run({
        connectionString: store.ownerUrl,
        concurrency: slots,
        maxPoolSize: slots + 2,
        pollInterval: 1_000,
        noHandleSignals: true,
        logger,
        preset: { worker: options },
        taskList: { [task]: (payload) => handle((payload as { key: string }).key) },
      });
      return () => runner.stop();
    },
  };
}
