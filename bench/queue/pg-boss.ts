import pg from 'pg';
import { PgBoss } from 'pg-boss';
import { type Engine, type Job, lease } from './engine.ts';

interface Data {
  readonly key: string;
}

const name = 'bench';

function createBoss(url: string, settings: { max: number; useListenNotify: boolean; supervise: boolean }): PgBoss {
  const boss = new PgBoss({
    connectionString: url,
    schedule: false,
    migrate: false,
    superviseIntervalSeconds: 1,
    monitorIntervalSeconds: 1,
    ...settings,
  });
  boss.on('error', (error) => console.error(`pg-boss: ${error.message}`));
  return boss;
}

const toInsert = (job: Job) => ({
  data: { key: String(job.number) } satisfies Data,
  group: { id: String(job.agent) },
});

/** pg-boss with its own workers, its notifications, and its limit of a group over all processes. */
export const engine: Engine = {
  prepare: async ({ ownerUrl }) => {
    const boss = new PgBoss({ connectionString: ownerUrl, schedule: false, supervise: false });
    await boss.start();
    await boss.createQueue(name, { notify: true, heartbeatSeconds: lease / 1_000, retryLimit: 10 });
    await boss.stop();
  },
  openProducer: async ({ ownerUrl }) => {
    const boss = createBoss(ownerUrl, { max: 2, useListenNotify: false, supervise: false });
    await boss.start();
    const pool = new pg.Pool({ connectionString: ownerUrl, max: 1 });
    pool.on('error', () => undefined);
    return {
      enqueue: async (job) => {
        const { data, group } = toInsert(job);
        await boss.send(name, data, { group });
        return data.key;
      },
      enqueueAll: async (jobs) => {
        await boss.insert(name, jobs.map(toInsert));
        return jobs.map((job) => String(job.number));
      },
      unfinished: async () => {
        const { rows } = await pool.query(`SELECT count(*)::int AS count FROM pgboss.job WHERE state < 'completed'`);
        return Number(rows[0]?.count);
      },
      clear: async () => {
        await boss.deleteAllJobs(name);
      },
      close: async () => {
        await boss.stop();
        await pool.end();
      },
    };
  },
  startWorker: async ({ store, slots, agentLimit }, handle) => {
    const boss = createBoss(store.ownerUrl, { max: slots + 2, useListenNotify: true, supervise: true });
    await boss.start();
    await boss.work<Data>(
      name,
      {
        localConcurrency: slots,
        batchSize: 1,
        burstWhenBatchFull: true,
        pollingIntervalSeconds: 0.5,
        notifyPollingIntervalSeconds: 1,
        ...(agentLimit === null ? {} : { groupConcurrency: agentLimit }),
      },
      async (jobs) => void (await Promise.all(jobs.map((job) => handle(job.data.key)))),
    );
    return () => boss.stop({ graceful: true, timeout: 5_000 });
  },
};
