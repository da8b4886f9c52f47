import pg from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { WriteOperation } from '../../src/operation.ts';
import { rescueTasks } from '../../src/queue/claim.ts';
import { type Claim, endAttempt, StaleAttemptError } from '../../src/queue/task.ts';
import { completeAgentRun, saveModelStep } from '../../src/services/agent-run.ts';
import { failAttempt, saveProgress, startAttempt } from '../../src/services/attempt.ts';
import { storeCitations } from '../../src/services/citation.ts';
import { deleteSession } from '../../src/services/session.ts';
import { cancelTask } from '../../src/services/task.ts';
import { saveCalls } from '../../src/services/tool-call.ts';
import { dumpRows, readTableShapes, type TableShape } from '../database/rows.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditCounts } from './audit.ts';

let queue: TestQueue;
let owner: pg.Client;
let tables: TableShape[];

beforeAll(async () => {
  queue = await startTestQueue();
  owner = new pg.Client({ connectionString: queue.database.ownerUrl });
  await owner.connect();
  tables = await readTableShapes(owner);
});
afterAll(async () => {
  await owner?.end();
  await queue?.stop();
});

interface Held {
  claim: Claim;
  workerId: string;
  sessionId: string;
}

/** An attempt that has begun, of a task that another one waits for. */
async function beginAttempt(): Promise<Held> {
  const userId = await queue.addUser();
  const agentId = await queue.addAgent(userId);
  const sessionId = await queue.addSession(userId);
  const taskId = await queue.enqueue(userId, agentId, { sessionId, sessionOrder: 1 });
  await queue.enqueue(userId, agentId, { parentIds: [taskId] });
  const workerId = uuidv7();
  const claim = await claimOf(userId, workerId);
  await queue.operation(userId).write((write) => startAttempt(write, claim));
  return { claim, workerId, sessionId };
}

async function claimOf(userId: string, workerId: string): Promise<Claim> {
  const claim = (await queue.claimAll(workerId, 10)).find((claimed) => claimed.userId === userId);
  if (claim === undefined) {
    throw new Error('nothing was claimed');
  }
  return claim;
}

async function rescue({ workerId }: Held): Promise<void> {
  await queue.silence(workerId, 60);
  await rescueTasks(queue.resources.database, 10_000);
}

const end = (held: Held, work: (write: WriteOperation) => Promise<unknown>) =>
  queue.operation(held.claim.userId).write(work);

const ways: Record<string, (held: Held) => Promise<unknown>> = {
  'was rescued': rescue,
  'was rescued and claimed by another worker': async (held) => {
    await rescue(held);
    await claimOf(held.claim.userId, uuidv7());
  },
  'was rescued and claimed by the same worker': async (held) => {
    await rescue(held);
    await claimOf(held.claim.userId, held.workerId);
  },
  'was cancelled': (held) => end(held, (write) => cancelTask(write, held.claim.taskId)),
  'was completed': (held) => end(held, (write) => completeAgentRun(write, held.claim, 'the first answer')),
  'has failed': (held) => end(held, (write) => failAttempt(write, held.claim, { code: 'INTERNAL', message: 'no' })),
  'waits for an approval': (held) => end(held, (write) => endAttempt(write, held.claim, { state: 'WAITING' })),
  'was deleted with its session': (held) => end(held, (write) => deleteSession(write, held.sessionId)),
};

const output = { content: 'late', model: 'test', promptTokens: 1, completionTokens: 1, durationMilliseconds: 1 };
const call = {
  position: 2,
  startedAt: new Date(),
  output: { callId: 'call_2', toolName: 'test', arguments: {}, approvalId: null, isAway: false, result: null },
};
const writes: Record<string, (write: WriteOperation, claim: Claim) => Promise<unknown>> = {
  start: (write, claim) => startAttempt(write, claim),
  'save progress': (write, claim) => saveProgress(write, claim, null, 0.5, 'half'),
  'save a step': (write, claim) => saveModelStep(write, claim, { position: 1, output, startedAt: new Date() }),
  'mark a call': (write, claim) => saveCalls(write, claim, [call], { progress: 0.5, note: 'calling' }),
  'save the result of a call': (write, claim) => saveCalls(write, claim, [call]),
  'cite its memory': (write, claim) =>
    storeCitations(write, claim, { sessionId: null, agentId: uuidv7() }, { matches: [], degraded: null }),
  'store an answer': (write, claim) => completeAgentRun(write, claim, 'late'),
  fail: (write, claim) => failAttempt(write, claim, { code: 'MODEL_UNAVAILABLE', message: 'late' }),
  park: (write, claim) => endAttempt(write, claim, { state: 'WAITING' }),
};

describe.each(Object.keys(ways))('an attempt whose task %s meanwhile', (way) => {
  it('can write nothing: no start, progress, step, call, citation, answer, failure or pause, and no event', async () => {
    const held = await beginAttempt();
    await ways[way]?.(held);
    const before = await dumpRows(owner, tables, [held.claim.userId]);
    const operation = queue.operation(held.claim.userId);
    for (const write of Object.values(writes)) {
      await expect(operation.write((transaction) => write(transaction, held.claim))).rejects.toThrow(StaleAttemptError);
    }
    expect(await dumpRows(owner, tables, [held.claim.userId])).toEqual(before);
    expect(await auditCounts(queue.database)).toEqual([]);
  });
});

describe('an attempt that writes at the same moment as its task is cancelled', () => {
  it('either wins whole or leaves nothing', async () => {
    for (let round = 0; round < 10; round += 1) {
      const held = await beginAttempt();
      const { userId, taskId } = held.claim;
      const [completed, cancelled] = await Promise.allSettled([
        queue.operation(userId).write((write) => completeAgentRun(write, held.claim, 'the answer')),
        queue.operation(userId).write((write) => cancelTask(write, taskId)),
      ]);
      const answers = await queue.database.owner('SELECT id FROM messages WHERE task_id = $1', [taskId]);
      const final = (await queue.events(userId)).filter((event) => event.taskId === taskId).map((event) => event.type);
      if (completed.status === 'fulfilled') {
        expect(cancelled).toMatchObject({ status: 'rejected', reason: { code: 'TASK_ENDED' } });
        expect((await queue.task(taskId)).state).toBe('COMPLETED');
        expect(answers).toHaveLength(1);
        expect(final).toEqual(['task_started', 'task_completed']);
      } else {
        expect(completed.reason).toBeInstanceOf(StaleAttemptError);
        expect(cancelled.status).toBe('fulfilled');
        expect((await queue.task(taskId)).state).toBe('CANCELLED');
        expect(answers).toHaveLength(0);
        expect(final).toEqual(['task_started', 'task_cancelled']);
      }
    }
    expect(await auditCounts(queue.database)).toEqual([]);
  });
});
