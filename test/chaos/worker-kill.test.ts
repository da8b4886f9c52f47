import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestService, type TestService, waitFor } from '../service.ts';

const users = 20;
const tasksPerUser = 25;
const workers = 3;

let service: TestService;
const children = new Set<ChildProcess>();
/** Those of them that have begun to claim, oldest first. */
const started = new Set<ChildProcess>();

beforeAll(async () => {
  service = await startTestService({ worker: false, redis: true, environment: { POOL_SIZE: '20' } });
  // Slow enough that all tasks take some seconds however quick the machine is.
  service.model.setBehaviour({ delayMs: 500, tokenDelayMs: 10 });
});
afterAll(async () => {
  for (const child of children) {
    child.kill('SIGKILL');
  }
  await service.stop();
});

/** A worker in a process of its own, as in production, with a short lease so that the test need not wait long. */
async function startWorkerProcess(): Promise<void> {
  const child = spawn(process.execPath, ['src/worker.ts'], {
    env: {
      PATH: process.env['PATH'] ?? '',
      ...service.environment,
      POOL_SIZE: '10',
      WORKER_SLOTS: '20',
      TASK_LEASE: '2000',
      LOG_LEVEL: 'info',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.add(child);
  const { promise: claiming, resolve, reject } = Promise.withResolvers<void>();
  child.once('exit', () => {
    children.delete(child);
    started.delete(child);
    reject(new Error('the worker ended before it started'));
  });
  child.stdout?.on('data', (chunk: Buffer) => {
    if (chunk.toString().includes('worker started')) {
      started.add(child);
      resolve();
    }
  });
  await claiming;
}

async function sendAll(): Promise<void> {
  await Promise.all(
    Array.from({ length: users }, async (_, place) => {
      const user = await service.user(`user ${place}`);
      const team = await user.ask('{ agents(first: 2) { edges { node { id } } } }');
      const agents: string[] = team.data.agents.edges.map((edge: { node: { id: string } }) => edge.node.id);
      for (let sent = 0; sent < tasksPerUser; sent += 1) {
        // Five messages to a session, so that some tasks wait for their turn and others do not.
        const session =
          sent % 5 === 0
            ? (await user.ask('mutation { createSession { session { id } } }')).data.createSession.session.id
            : sessionOf.get(place);
        sessionOf.set(place, session);
        const answer = await user.ask(
          'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }',
          { input: { sessionId: session, targetAgentId: agents[sent % agents.length], content: `note ${sent}` } },
        );
        expect(answer.errors).toEqual([]);
      }
    }),
  );
}
const sessionOf = new Map<number, string>();

/**
 * Kills a worker every second until told to stop, and starts another in its place; the last one that is up is spared, or
 * a slow machine would only ever see workers start. @returns how many died.
 */
function killEverySecond(): () => Promise<number> {
  let killed = 0;
  const replacements: Promise<unknown>[] = [];
  const timer = setInterval(() => {
    const [oldest, next] = started;
    if (oldest !== undefined && next !== undefined) {
      killed += 1;
      oldest.kill('SIGKILL');
      replacements.push(once(oldest, 'exit').then(startWorkerProcess));
    }
  }, 1_000);
  return async () => {
    clearInterval(timer);
    await Promise.all(replacements);
    return killed;
  };
}

describe('workers that are killed every second', () => {
  it('finish every task exactly once, within every limit, with a sequence of events without gaps', async () => {
    await sendAll();
    await Promise.all(Array.from({ length: workers }, startWorkerProcess));
    const stopKilling = killEverySecond();
    const total = users * tasksPerUser;
    await waitFor(
      'all tasks to end',
      async () => {
        const [row] = await service.database.owner(
          `SELECT count(*)::int AS ended FROM tasks WHERE state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')`,
        );
        return row?.['ended'] === total;
      },
      120_000,
    );
    const killed = await stopKilling();
    // How many depends on how quickly others start in their place.
    expect(killed).toBeGreaterThanOrEqual(3);

    const look = service.database.owner;
    expect(await look('SELECT state, count(*)::int AS tasks FROM tasks GROUP BY state')).toEqual([
      { state: 'COMPLETED', tasks: total },
    ]);
    // One answer and one final event for each task, whatever died in between.
    expect(
      await look(`
        SELECT tasks.id FROM tasks
        WHERE (SELECT count(*) FROM messages WHERE messages.task_id = tasks.id) <> 1
          OR (SELECT count(*) FROM events WHERE type = 'task_completed' AND data ->> 'taskId' = tasks.id::text) <> 1
          OR (SELECT count(*) FROM task_steps WHERE task_steps.task_id = tasks.id) <> 1`),
    ).toEqual([]);
    // At no time did more than three steps of one agent run: counted at each step's start.
    const [most] = await look(`
      WITH runs AS (
        SELECT tasks.id, tasks.agent_id, task_steps.started_at, task_steps.finished_at
        FROM task_steps JOIN tasks ON tasks.user_id = task_steps.user_id AND tasks.id = task_steps.task_id
      )
      SELECT max(overlap)::int AS most FROM (
        SELECT count(*) AS overlap FROM runs AS one
        JOIN runs AS other ON other.agent_id = one.agent_id
          AND other.started_at <= one.started_at AND other.finished_at > one.started_at
        GROUP BY one.id
      ) AS counted`);
    expect(most?.['most']).toBeLessThanOrEqual(3);
    expect(
      await look(`
        SELECT user_id FROM events GROUP BY user_id
        HAVING count(*) <> max(sequence) OR min(sequence) <> 1
          OR max(sequence) <> (SELECT event_sequence FROM users WHERE users.id = user_id)`),
    ).toEqual([]);
    // Answers of one session follow their questions in order.
    expect(
      await look(`
        SELECT answer.session_id FROM messages AS answer
        JOIN tasks ON tasks.user_id = answer.user_id AND tasks.id = answer.task_id
        JOIN messages AS later ON later.session_id = answer.session_id AND later.position > answer.position
        JOIN tasks AS later_task ON later_task.id = later.task_id AND later_task.session_order < tasks.session_order`),
    ).toEqual([]);
    expect(
      await look('SELECT id FROM lanes WHERE blocked <> 0 OR queued <> 0 OR retrying <> 0 OR running <> 0'),
    ).toEqual([]);
  }, 180_000);
});
