import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Database, sqlState } from '../../src/adapters/postgres.ts';
import { DomainError } from '../../src/errors.ts';
import { createOperation, type Operation } from '../../src/operation.ts';
import { beat, claimTasks, rescueTasks, retireWorker } from '../../src/queue/claim.ts';
import { reserveLane } from '../../src/queue/lane.ts';
import { type Claim, endAttempt, enqueueTask, resumeTask, StaleAttemptError } from '../../src/queue/task.ts';
import { updateAgent } from '../../src/services/agent.ts';
import { completeAgentRun, saveModelStep } from '../../src/services/agent-run.ts';
import { failAttempt, saveProgress, startAttempt } from '../../src/services/attempt.ts';
import { sendMessage } from '../../src/services/message.ts';
import { createSession, deleteSession } from '../../src/services/session.ts';
import { cancelTask, cancelTasksOfAgent, cancelTasksOfSession } from '../../src/services/task.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditContinuously } from './audit.ts';

const duration = 5_000;

interface Tenant {
  userId: string;
  operation: Operation;
  agents: string[];
  sessions: string[];
}

let queue: TestQueue;
let deadlocks = 0;

beforeAll(async () => {
  queue = await startTestQueue();
});
afterAll(() => queue?.stop());

const pick = <Item>(items: readonly Item[]): Item => {
  const item = items[Math.floor(Math.random() * items.length)];
  if (item === undefined) {
    throw new Error('nothing to pick from');
  }
  return item;
};

/** Passes everything on and counts the deadlocks that Postgres broke, which the operation makes good by a retry. */
function countDeadlocks(database: Database): Database {
  const watch = <Result>(work: Promise<Result>): Promise<Result> =>
    work.catch((error: unknown) => {
      deadlocks += sqlState(error) === '40P01' ? 1 : 0;
      throw error;
    });
  return {
    ...database,
    query: (statement, values) => watch(database.query(statement, values)),
    begin: async (mode, userId) => {
      const transaction = await database.begin(mode, userId);
      return { ...transaction, query: (statement, values) => watch(transaction.query(statement, values)) };
    },
  };
}

const operationOver = (database: Database, userId: string): Operation =>
  createOperation({ ...queue.resources, database }, userId);

async function addTenant(): Promise<Tenant> {
  const userId = await queue.addUser({ maxRunning: 6 });
  return {
    userId,
    operation: operationOver(countDeadlocks(queue.resources.database), userId),
    agents: await Promise.all(Array.from({ length: 4 }, () => queue.addAgent(userId, { maxWaiting: 15 }))),
    sessions: await Promise.all(Array.from({ length: 3 }, () => queue.addSession(userId))),
  };
}

/** What may happen to anyone in this crowd: refusals with a reason, and attempts that come late. */
function isExpected(error: unknown): boolean {
  return (
    error instanceof StaleAttemptError ||
    (error instanceof DomainError && ['AGENT_QUEUE_FULL', 'NOT_FOUND', 'TASK_ENDED'].includes(error.code))
  );
}

/** A task that several others must be completed for, some of them of another agent. */
async function addChild({ userId, operation, agents }: Tenant): Promise<void> {
  const open = await queue.database.owner(
    `SELECT id FROM tasks WHERE user_id = $1 AND state IN ('BLOCKED', 'QUEUED', 'RUNNING') ORDER BY random() LIMIT 2`,
    [userId],
  );
  const parentIds = open.map((row) => String(row['id']));
  const agentId = pick(agents);
  await operation.write(async (write) => {
    await reserveLane(write, agentId, 'agentId', parentIds);
    const none = { sessionId: null, messageId: null, sessionOrder: null };
    const needsSuccess = Math.random() < 0.5;
    await enqueueTask(write, { kind: 'AGENT_RUN', laneId: agentId, agentId, parentIds, needsSuccess, ...none });
  });
}

async function cancelSomething({ userId, operation, agents, sessions }: Tenant): Promise<void> {
  const draw = Math.random();
  if (draw < 0.1) {
    await operation.write((write) => cancelTasksOfAgent(write, pick(agents)));
  } else if (draw < 0.2) {
    await operation.write((write) => cancelTasksOfSession(write, pick(sessions)));
  } else {
    const [task] = await queue.database.owner(
      `SELECT id FROM tasks WHERE user_id = $1 AND finished_at IS NULL ORDER BY random() LIMIT 1`,
      [userId],
    );
    await operation.write((write) => cancelTask(write, String(task?.['id'] ?? uuidv7())));
  }
}

async function replaceSession({ operation, sessions }: Tenant): Promise<void> {
  const { sessionId } = await operation.write((write) => createSession(write, {}, null));
  const [old] = sessions.splice(0, 1, sessionId);
  await operation.write((write) => deleteSession(write, old ?? ''));
}

const output = { content: 'so', model: 'test', promptTokens: 1, completionTokens: 1, durationMilliseconds: 1 };

async function run(operation: Operation, claim: Claim): Promise<void> {
  const { task } = await operation.write((write) => startAttempt(write, claim));
  await operation.write((write) => saveProgress(write, claim, task.sessionId, 0.5, 'half'));
  const draw = Math.random();
  if (draw < 0.6) {
    const position = 1 + claim.attempt;
    await operation.write((write) => saveModelStep(write, claim, { position, output, startedAt: new Date() }));
    await operation.write((write) => completeAgentRun(write, claim, 'done'));
  } else if (draw < 0.7) {
    await operation.write((write) => failAttempt(write, claim, { code: 'INTERNAL', message: 'no' }));
  } else if (draw < 0.8) {
    const dueAt = new Date(Date.now() + 50);
    const retry = { state: 'RETRYING', code: 'SERVICE_BUSY', message: 'later', dueAt } as const;
    await operation.write((write) => endAttempt(write, claim, retry));
  } else if (draw < 0.9) {
    await operation.write((write) => endAttempt(write, claim, { state: 'WAITING' }));
    await operation.write((write) => resumeTask(write, claim.taskId));
  }
  // Else it is left behind, as by a worker that forgets it.
}

describe('a storm of senders, workers, cancels, deletions, rescues and retirements', () => {
  it('ends with right counts, within all limits, and without a single deadlock', async () => {
    const tenants = await Promise.all(Array.from({ length: 3 }, addTenant));
    const end = performance.now() + duration;
    const counts: Record<string, number> = {};
    const unexpected: unknown[] = [];
    const act = async (name: string, action: () => Promise<unknown>): Promise<void> => {
      while (performance.now() < end) {
        await action().catch((error: unknown) => {
          if (!isExpected(error)) {
            unexpected.push(error);
          }
        });
        counts[name] = (counts[name] ?? 0) + 1;
      }
    };
    const work = async (): Promise<void> => {
      const pool = countDeadlocks(queue.openPool(4));
      let worker = uuidv7();
      await act('claims', async () => {
        await beat(pool, worker, []);
        const claims = await claimTasks(pool, worker, 4, ['AGENT_RUN']);
        const runs = claims.map((claim) => run(operationOver(pool, claim.userId), claim));
        for (const result of await Promise.allSettled(runs)) {
          if (result.status === 'rejected' && !isExpected(result.reason)) {
            unexpected.push(result.reason);
          }
        }
        const fate = Math.random();
        if (fate < 0.05) {
          await retireWorker(pool, worker);
        } else if (fate < 0.1) {
          await queue.silence(worker, 60);
          worker = uuidv7();
        }
      });
    };
    const send = () => {
      const { operation, agents, sessions } = pick(tenants);
      const input = { sessionId: pick(sessions), targetAgentId: pick(agents), content: 'hello' };
      return operation.write((write) => sendMessage(write, input));
    };
    const stopAudit = auditContinuously(queue.database, 100);
    await Promise.all([
      act('sends', send),
      act('sends', send),
      act('sends', send),
      work(),
      work(),
      work(),
      act('children', () => addChild(pick(tenants))),
      act('cancels', () => cancelSomething(pick(tenants))),
      act('cancels', () => cancelSomething(pick(tenants))),
      act('deletions', () => replaceSession(pick(tenants))),
      act('limits', () => {
        const { operation, agents } = pick(tenants);
        return operation.write((write) => updateAgent(write, pick(agents), { maxConcurrentTasks: pick([2, 3]) }));
      }),
      act('rescues', () => rescueTasks(queue.resources.database, 10_000)),
    ]);
    const audit = await stopAudit();
    expect(unexpected).toEqual([]);
    // A limit that is lowered lets what runs already go on.
    expect(audit.wrong.filter((line) => !/runs 3 of at most 2$/.test(line))).toEqual([]);
    for (const name of ['sends', 'claims', 'children', 'cancels', 'deletions', 'limits', 'rescues']) {
      expect(counts[name], name).toBeGreaterThan(5);
    }
    expect(deadlocks).toBe(0);

    // Whatever happened: one final event for a task that ended, none for others, and no gap in the log's numbers.
    const wrong = await queue.database.owner(`
      SELECT tasks.id, tasks.state, array_agg(events.type) AS events FROM tasks
      LEFT JOIN events ON events.user_id = tasks.user_id AND events.data ->> 'taskId' = tasks.id::text
        AND (events.type IN ('task_completed', 'task_cancelled', 'task_skipped')
          OR events.type = 'task_failed' AND NOT (events.data ->> 'willRetry')::boolean)
      GROUP BY tasks.user_id, tasks.id
      HAVING count(events.sequence) <> (tasks.state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED'))::int`);
    expect(wrong).toEqual([]);
    const blocked = await queue.database.owner(`
      SELECT id FROM tasks AS child WHERE state = 'BLOCKED' AND NOT EXISTS (
        SELECT FROM task_dependencies AS link JOIN tasks AS parent ON parent.id = link.parent_id
        WHERE link.task_id = child.id AND parent.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING'))`);
    expect(blocked).toEqual([]);
  });
});
