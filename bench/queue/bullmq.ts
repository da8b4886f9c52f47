import { setTimeout as sleep } from 'node:timers/promises';
import { DelayedError, Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { type Engine, type Job, lease } from './engine.ts';

interface Data {
  readonly key: string;
  readonly agent: number;
}

const name = 'bench';
/** How long a task whose agent has no free slot is set aside, in milliseconds. */
const gateDelay = 20;
/** A slot that a dead process holds comes free after this, in milliseconds. */
const gateExpiry = 60_000;

/** Takes a slot of an agent, or refuses. */
const enterGate = `
  if redis.call('INCR', KEYS[1]) > tonumber(ARGV[1]) then
    redis.call('DECR', KEYS[1])
    return 0
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1`;
const gateKey = (agent: number): string => `gate:${agent}`;
const toBulk = (job: Job) => ({
  name: 'noop',
  data: { key: String(job.number), agent: job.agent } satisfies Data,
  opts: { removeOnComplete: true, attempts: 3 },
});

/**
 * BullMQ as its guide says, with the gate that it lacks: a task that finds no free slot of its agent is set aside for a
 * moment, which is the pattern of its guide for a task that can't run yet.
 */
export const engine: Engine = {
  prepare: async () => undefined,
  openProducer: async ({ redisUrl }) => {
    const connection = new Redis(redisUrl, { maxRetriesPerRequest: null });
    const queue = new Queue<Data>(name, { connection });
    return {
      enqueue: async (job) => {
        const { name: task, data, opts } = toBulk(job);
        await queue.add(task, data, opts);
        return data.key;
      },
      enqueueAll: async (jobs) => {
        await queue.addBulk(jobs.map(toBulk));
        return jobs.map((job) => String(job.number));
      },
      unfinished: async () => {
        const counts = await queue.getJobCounts('waiting', 'active', 'delayed', 'prioritized');
        return Object.values(counts).reduce((sum, count) => sum + count, 0);
      },
      clear: async () => {
        await queue.obliterate({ force: true });
        const gates = await connection.keys(gateKey(0).replace('0', '*'));
        if (gates.length > 0) {
          await connection.del(gates);
        }
      },
      close: async () => {
        await queue.close();
        connection.disconnect();
      },
    };
  },
  startWorker: async ({ store, slots, agentLimit }, handle) => {
    const connection = new Redis(store.redisUrl, { maxRetriesPerRequest: null });
    const gate = new Redis(store.redisUrl, { maxRetriesPerRequest: null });
    const worker = new Worker<Data>(
      name,
      async (job, token) => {
        if (agentLimit === null) {
          return handle(job.data.key);
        }
        const key = gateKey(job.data.agent);
        if ((await gate.eval(enterGate, 1, key, agentLimit, gateExpiry)) !== 1) {
          await job.moveToDelayed(Date.now() + gateDelay, token);
          throw new DelayedError();
        }
        try {
          return await handle(job.data.key);
        } finally {
          await gate.decr(key);
        }
      },
      { connection, concurrency: slots, lockDuration: lease, stalledInterval: 1_000, maxStalledCount: 10 },
    );
    worker.on('error', (error) => console.error(`BullMQ: ${error.message}`));
    await worker.waitUntilReady();
    return async () => {
      await Promise.race([worker.close(), sleep(5_000)]);
      connection.disconnect();
      gate.disconnect();
    };
  },
};
