import fc from 'fast-check';
import { v7 as uuidv7 } from 'uuid';
import { DomainError } from '../../src/errors.ts';
import { beat, offerSlots, putBackTasks, rescueTasks, retireWorker } from '../../src/queue/claim.ts';
import { givenTopic } from '../../src/queue/signal.ts';
import { type Claim, endAttempt, resumeTask, StaleAttemptError } from '../../src/queue/task.ts';
import { completeAgentRun, saveModelStep } from '../../src/services/agent-run.ts';
import { decideApproval, expireApproval, type NewApproval } from '../../src/services/approval.ts';
import { requestAgain } from '../../src/services/approval-again.ts';
import { failAttempt, saveProgress, startAttempt, suspendAttempt } from '../../src/services/attempt.ts';
import { cancelTask, cancelTasksOfAgent, cancelTasksOfSession } from '../../src/services/task.ts';
import type { TestQueue } from './arrange.ts';
import { createWatch, type Watch, waitingRule } from './invariants.ts';

/** What can happen. Numbers count back from the newest of what there is, so that any list of actions makes sense. */
export type Action =
  | { do: 'enqueue'; agent: number; session: number | null; parents: number[]; needsSuccess: boolean }
  | { do: 'claim' | 'offer'; worker: number; slots: number }
  | { do: 'write'; run: number; what: 'start' | 'progress' | 'step' }
  /** With slots, a worker goes on with what the end frees. */
  | { do: 'end'; run: number; how: 'complete' | 'fail' | 'retry' | 'ask'; slots?: number }
  | { do: 'decide'; approval: number; how: 'APPROVED' | 'REJECTED' | 'expire' | 'ask again' }
  | { do: 'crash' | 'retire' | 'beat'; worker: number }
  | { do: 'cancel'; what: 'task' | 'session' | 'agent'; which: number }
  | { do: 'resume'; task: number }
  | { do: 'rescue' };

/** Mostly one of the newest: what happened long ago has ended. */
const some = fc.oneof({ weight: 3, arbitrary: fc.nat(4) }, { weight: 1, arbitrary: fc.nat(99) });
const worker = fc.nat(2);
const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('enqueue'),
      agent: fc.nat(2),
      session: fc.option(fc.nat(1), { freq: 3 }),
      parents: fc.oneof(
        { weight: 1, arbitrary: fc.constant([]) },
        { weight: 1, arbitrary: fc.array(fc.nat(4), { minLength: 1, maxLength: 3 }) },
      ),
      needsSuccess: fc.boolean(),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom('claim', 'claim', 'claim', 'offer'),
      worker,
      slots: fc.integer({ min: 1, max: 8 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('write'), run: some, what: fc.constantFrom('start', 'progress', 'step') }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('end'),
      run: some,
      how: fc.constantFrom('complete', 'complete', 'fail', 'retry', 'ask', 'ask'),
      slots: fc.nat(3),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('crash', 'retire', 'beat'), worker }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('cancel'),
      what: fc.constantFrom('task', 'task', 'session', 'agent'),
      which: some,
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('decide'),
      approval: some,
      how: fc.constantFrom('APPROVED', 'APPROVED', 'REJECTED', 'expire', 'ask again'),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('resume'), task: some }) },
  { weight: 3, arbitrary: fc.constant({ do: 'rescue' }) },
) as fc.Arbitrary<Action>;

/** Steps one after the other, each with up to three actions that happen at once. */
const interleaving = fc.array(fc.array(action, { minLength: 1, maxLength: 3 }), { minLength: 5, maxLength: 30 });

/** Any interleaving keeps every invariant after each step, and ends with nothing left behind. */
export function keepsInvariants(queue: TestQueue): fc.IAsyncProperty<[Action[][]]> {
  return fc.asyncProperty(interleaving, async (steps) => {
    const watch = createWatch(queue.database);
    const world = await createWorld(queue, watch);
    try {
      for (const step of steps) {
        const faults = await Promise.all(step.map((each) => world.perform(each).catch(reportUnexpected)));
        report('impossible events', faults.flat());
        await check(watch, world);
      }
      await world.finishAll(() => check(watch, world));
    } finally {
      world.close();
    }
  });
}

async function check(watch: Watch, world: World): Promise<void> {
  report('broken invariants', [...(await watch.look()), ...(await world.waitingForNothing()), ...world.doubleClaims()]);
}

function report(what: string, lines: string[]): void {
  if (lines.length > 0) {
    throw new Error(`${what}:\n${lines.join('\n')}`);
  }
}

/** Late attempts and refusals are part of the game. */
function reportUnexpected(error: unknown): string[] {
  const isExpected =
    error instanceof StaleAttemptError || (error instanceof DomainError && error.code !== 'SERVICE_BUSY');
  return isExpected ? [] : [String(error)];
}

interface World {
  /** @returns lines about what should not have been possible */
  perform(action: Action): Promise<string[]>;
  /** Tasks that wait although all their questions are settled. */
  waitingForNothing(): Promise<string[]>;
  /** Attempts that were handed out twice, or out of order. */
  doubleClaims(): string[];
  /** Lets a worker in good health do all that is left. @throws Error when something never gets done */
  finishAll(afterEach: () => Promise<void>): Promise<void>;
  close(): void;
}

const output = { content: 'so', model: 'test', promptTokens: 1, completionTokens: 1, durationMilliseconds: 1 };
const lease = 10_000;

/** Two users; one with two agents, small limits, and two sessions each. */
async function createWorld(queue: TestQueue, watch: Watch): Promise<World> {
  await queue.database.owner('DELETE FROM users');
  await queue.database.owner('DELETE FROM workers');
  const [alice, bob] = await Promise.all([queue.addUser({ maxRunning: 2 }), queue.addUser({ maxRunning: 3 })]);
  const [one, two, three, ...rooms] = await Promise.all([
    queue.addAgent(alice, { maxRunning: 3, maxWaiting: 5 }),
    queue.addAgent(alice, { maxRunning: 1 }),
    queue.addAgent(bob, { maxRunning: 2 }),
    ...[alice, alice, bob, bob].map((user) => queue.addSession(user)),
  ]);
  const agents = [
    { userId: alice, id: one },
    { userId: alice, id: two },
    { userId: bob, id: three },
  ];
  const sessions = new Map([
    [alice, rooms.slice(0, 2)],
    [bob, rooms.slice(2)],
  ]);
  const tools = new Map<string, string>();
  for (const userId of [alice, bob]) {
    const [tool] = await queue.database.owner(
      `INSERT INTO tools (user_id, name, description, kind, arguments_schema) VALUES ($1, 'mail', '', 'HTTP', '{}') RETURNING id`,
      [userId],
    );
    tools.set(userId, String(tool?.['id']));
  }
  const tasks: { userId: string; id: string }[] = [];
  const runs: Claim[] = [];
  const workers = Array.from({ length: 3 }, () => uuidv7());
  const { database, channel } = queue.resources;
  // Tasks that a worker is given unasked are runs like those that it claims.
  const stopTaking = await Promise.all(
    workers.map((workerId) => channel.subscribe(givenTopic(workerId), (given) => void runs.push(given as Claim))),
  );
  let sessionOrder = 0;
  let steps = 0;

  const at = <Item>(items: readonly Item[], place: number): Item | undefined => items.at(-1 - (place % items.length));
  const writeAs = <Result>(userId: string, work: Parameters<ReturnType<TestQueue['operation']>['write']>[0]) =>
    queue.operation(userId).write(work) as Promise<Result>;

  const claim = async (workerId: string, slots: number): Promise<Claim[]> => {
    const claims = await queue.claim(workerId, slots);
    runs.push(...claims);
    return claims;
  };
  const end = (run: Claim, how: 'complete' | 'fail' | 'retry' | 'ask') =>
    writeAs(run.userId, async (write) => {
      switch (how) {
        case 'complete':
          return completeAgentRun(write, run, 'done', { hasOpenApprovals: true });
        case 'fail':
          return failAttempt(write, run, { code: 'INTERNAL', message: 'no' });
        case 'retry':
          await endAttempt(write, run, { state: 'RETRYING', code: 'SERVICE_BUSY', message: '', dueAt: new Date(0) });
          return;
        case 'ask':
          return suspendAttempt(write, run, {
            asked: [newApproval(run, 'one'), newApproval(run, 'two')],
            pending: 0,
            isReady: async () => false,
          });
      }
    });
  // Ids of calls are given once in a task; here each attempt asks about its own.
  const newApproval = ({ userId, taskId, attempt }: Claim, call: string): NewApproval => ({
    kind: 'TOOL',
    sessionId: sessions.get(userId)?.[0] ?? '',
    taskId,
    toolId: tools.get(userId) ?? '',
    toolName: 'mail',
    callId: `${call} of ${attempt}`,
    arguments: {},
    argumentsSchema: {},
    dangerous: true,
    interrupted: false,
    expiresIn: 3_600_000,
  });
  const decide = async (approval: { id: string; userId: string }, how: Extract<Action, { do: 'decide' }>['how']) => {
    switch (how) {
      case 'expire':
        await queue.database.owner(
          `UPDATE approvals SET expires_at = now() - interval '1 second' WHERE id = $1 AND state = 'PENDING'`,
          [approval.id],
        );
        return writeAs(approval.userId, (write) => expireApproval(write, approval.id));
      case 'ask again':
        return writeAs(approval.userId, (write) => requestAgain(write, approval.id));
      default:
        return writeAs(approval.userId, (write) =>
          decideApproval(write, { id: approval.id, decision: how }, { findFault: () => null }),
        );
    }
  };

  const perform = async (given: Action): Promise<unknown> => {
    switch (given.do) {
      case 'enqueue': {
        const agent = at(agents, given.agent);
        if (agent === undefined) {
          return;
        }
        const { userId } = agent;
        const own = tasks.filter((task) => task.userId === userId);
        const parentIds = given.parents.flatMap((parent) => at(own, parent)?.id ?? []);
        // Turns are given in the order of the calls; calls for one session wait for each other as senders do.
        const sessionId = given.session === null ? null : (sessions.get(userId)?.[given.session] ?? null);
        const enqueue = async () => {
          sessionOrder += 1;
          const turn = sessionId === null ? {} : { sessionId, sessionOrder };
          tasks.push({
            userId,
            id: await queue.enqueue(userId, agent.id, { ...turn, parentIds, needsSuccess: given.needsSuccess }),
          });
        };
        const previous = sending;
        sending = sessionId === null ? previous : previous.then(enqueue, enqueue);
        return sessionId === null ? enqueue() : sending;
      }
      case 'claim':
        return claim(at(workers, given.worker) ?? '', given.slots);
      case 'offer': {
        const workerId = at(workers, given.worker) ?? '';
        await beat(database, workerId, []);
        return offerSlots(database, workerId, { slots: given.slots, kinds: ['AGENT_RUN'], reach: channel.reach() });
      }
      case 'write': {
        const run = at(runs, given.run);
        steps += 1;
        const position = steps;
        return (
          run &&
          writeAs(run.userId, async (write) => {
            if (given.what === 'start') {
              await startAttempt(write, run);
            } else if (given.what === 'progress') {
              await saveProgress(write, run, null, 0.5, 'half');
            } else {
              await saveModelStep(write, run, { position, output, startedAt: new Date() });
            }
          })
        );
      }
      case 'end': {
        const run = at(runs, given.run);
        const { slots = 0 } = given;
        const workerId = at(workers, given.run) ?? '';
        const take = (attempts: readonly Claim[]) => void runs.push(...attempts);
        return (
          run && end({ ...run, successor: { workerId, kinds: ['AGENT_RUN'], slots: () => slots, take } }, given.how)
        );
      }
      case 'crash':
        return queue.silence(at(workers, given.worker) ?? '', 60);
      case 'retire':
        return retireWorker(database, at(workers, given.worker) ?? '');
      case 'beat': {
        // As by a worker that has lost sight of all its runs.
        const workerId = at(workers, given.worker) ?? '';
        const { forgotten } = await beat(database, workerId, []);
        return putBackTasks(database, workerId, forgotten, true);
      }
      case 'cancel': {
        const task = at(tasks, given.which);
        const agent = at(agents, given.which);
        if (given.what === 'task') {
          return task && writeAs(task.userId, (write) => cancelTask(write, task.id));
        }
        if (agent === undefined) {
          return;
        }
        const session = at(sessions.get(agent.userId) ?? [], given.which) ?? '';
        return writeAs(agent.userId, (write) =>
          given.what === 'agent' ? cancelTasksOfAgent(write, agent.id) : cancelTasksOfSession(write, session),
        );
      }
      case 'decide': {
        const rows = await queue.database.owner('SELECT id, user_id AS "userId" FROM approvals ORDER BY id');
        const approval = at(rows as { id: string; userId: string }[], given.approval);
        return approval && decide(approval, given.how);
      }
      case 'resume': {
        const task = at(tasks, given.task);
        return task && writeAs(task.userId, (write) => resumeTask(write, task.id));
      }
      case 'rescue':
        return rescueTasks(database, lease);
    }
  };
  let sending: Promise<unknown> = Promise.resolve();

  return {
    close: () => {
      for (const stop of stopTaking) {
        stop();
      }
    },
    perform: async (given) => {
      const run = given.do === 'write' || given.do === 'end' ? at(runs, given.run) : undefined;
      const before = run && watch.seen(run.taskId);
      await perform(given);
      // The write went through: so the attempt was the one that ran when everything of this step began.
      return run === undefined || (before?.state === 'RUNNING' && before.attempt === run.attempt)
        ? []
        : [
            `attempt ${run.attempt} of task ${run.taskId} wrote when it was ${before?.state} in attempt ${before?.attempt}`,
          ];
    },
    waitingForNothing: async () => (await queue.database.owner(waitingRule)).map((row) => String(row['line'])),
    doubleClaims: () =>
      Object.entries(Object.groupBy(runs, (run) => run.taskId)).flatMap(([taskId, claims = []]) => {
        const attempts = claims.map((run) => run.attempt).toSorted((one, other) => one - other);
        return attempts.every((attempt, place) => attempt === place + 1)
          ? []
          : [`task ${taskId} was handed out for attempts ${attempts.join(', ')}`];
      }),
    finishAll: async (afterEach) => {
      const healthy = uuidv7();
      for (let round = 0; round <= tasks.length; round += 1) {
        await queue.database.owner(`UPDATE workers SET heartbeat_at = now() - interval '1 minute'`);
        await rescueTasks(database, lease);
        for (const waiting of await queue.database.owner(`SELECT id, user_id FROM tasks WHERE state = 'WAITING'`)) {
          const pending = await queue.database.owner(
            `SELECT id, user_id AS "userId", expires_at <= now() AS "isOver" FROM approvals
            WHERE task_id = $1 AND state = 'PENDING'`,
            [waiting['id']],
          );
          for (const approval of pending as { id: string; userId: string; isOver: boolean }[]) {
            // One that was asked again while it expired may stand with its time over: the upkeep takes it.
            await decide(approval, approval.isOver ? 'expire' : 'APPROVED');
          }
        }
        for (let claims = await claim(healthy, 10); claims.length > 0; claims = await claim(healthy, 10)) {
          for (const run of claims) {
            await end(run, 'complete');
          }
        }
        await afterEach();
        const open = await queue.database.owner('SELECT id, state FROM tasks WHERE finished_at IS NULL');
        if (open.length === 0) {
          return;
        }
        if (round === tasks.length) {
          throw new Error(`never done: ${open.map((task) => `${task['id']} ${task['state']}`).join(', ')}`);
        }
      }
    },
  };
}
