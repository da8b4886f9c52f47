import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { reserveLane } from '../../src/queue/lane.ts';
import { type Claim, endAttempt, enqueueTask } from '../../src/queue/task.ts';
import { completeAttempt, failAttempt } from '../../src/services/attempt.ts';
import { cancelTask } from '../../src/services/task.ts';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { auditCounts } from './audit.ts';

let queue: TestQueue;

beforeAll(async () => {
  queue = await startTestQueue();
});
afterAll(() => queue?.stop());

/** A graph of tasks by name, each with the names of its parents, over two agents of one user. */
async function enqueueGraph<const Graph extends Record<string, readonly string[]>>(graph: Graph) {
  type Name = keyof Graph & string;
  const user = await queue.addUser();
  const agents = [await queue.addAgent(user), await queue.addAgent(user)] as const;
  const ids = {} as Record<Name, string>;
  for (const [place, name] of (Object.keys(graph) as Name[]).entries()) {
    const parentIds = graph[name]?.map((parent) => ids[parent as Name]) ?? [];
    ids[name] = await queue.enqueue(user, agents[place % 2 === 0 ? 0 : 1], { parentIds });
  }
  const claims = new Map<string, Claim>();
  const claimOf = async (name: Name): Promise<Claim> => {
    for (const claim of await queue.claimAll(uuidv7(), 10)) {
      claims.set(claim.taskId, claim);
    }
    const claim = claims.get(ids[name]);
    if (claim === undefined) {
      throw new Error(`${name} could not be claimed`);
    }
    return claim;
  };
  const operation = queue.operation(user);
  return {
    user,
    agents,
    ids,
    claimOf,
    complete: async (name: Name) => {
      const claim = await claimOf(name);
      await operation.write((write) => completeAttempt(write, claim));
    },
    fail: async (name: Name) => {
      const claim = await claimOf(name);
      await operation.write((write) => failAttempt(write, claim, { code: 'MODEL_REFUSED', message: 'no' }));
    },
    cancel: (name: Name) => operation.write((write) => cancelTask(write, ids[name])),
    states: async () => {
      const states = await queue.states(Object.values(ids));
      return Object.fromEntries(Object.keys(graph).map((name, place) => [name, states[place]]));
    },
    finalEvents: async () => {
      const names = Object.fromEntries(Object.entries(ids).map(([name, id]) => [id, name]));
      return (await queue.events(user)).flatMap(({ type, taskId }) =>
        /completed|failed|cancelled|skipped/.test(type) ? [`${names[taskId ?? '']} ${type}`] : [],
      );
    },
  };
}

describe('a task with parents', () => {
  it('is blocked until all of them are completed', async () => {
    const graph = await enqueueGraph({ one: [], two: [], child: ['one', 'two'] });
    expect(await graph.states()).toEqual({ one: 'QUEUED', two: 'QUEUED', child: 'BLOCKED' });
    await graph.complete('one');
    expect(await graph.states()).toMatchObject({ two: 'RUNNING', child: 'BLOCKED' });
    await graph.complete('two');
    expect(await graph.states()).toMatchObject({ child: 'QUEUED' });
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('is due from the moment it is released', async () => {
    const graph = await enqueueGraph({ parent: [], child: ['parent'] });
    await queue.database.owner(`UPDATE tasks SET due_at = now() - interval '1 hour' WHERE id = $1`, [graph.ids.child]);
    await graph.complete('parent');
    const [row] = await queue.database.owner(
      'SELECT child.due_at >= parent.finished_at AS released FROM tasks AS child, tasks AS parent WHERE child.id = $1 AND parent.id = $2',
      [graph.ids.child, graph.ids.parent],
    );
    expect(row).toEqual({ released: true });
  });

  it('runs once at the bottom of a diamond', async () => {
    const graph = await enqueueGraph({ top: [], left: ['top'], right: ['top'], bottom: ['left', 'right'] });
    await graph.complete('top');
    await graph.complete('right');
    expect(await graph.states()).toMatchObject({ left: 'RUNNING', bottom: 'BLOCKED' });
    await graph.complete('left');
    await graph.complete('bottom');
    expect(await graph.finalEvents()).toEqual(
      ['top', 'right', 'left', 'bottom'].map((name) => `${name} task_completed`),
    );
  });

  it('is queued at once when they are completed already', async () => {
    const graph = await enqueueGraph({ parent: [] });
    await graph.complete('parent');
    const child = await queue.enqueue(graph.user, graph.agents[1], { parentIds: [graph.ids.parent, graph.ids.parent] });
    expect((await queue.task(child)).state).toBe('QUEUED');
  });

  it.each(['fail', 'cancel'] as const)('is skipped at once when one had ended otherwise: %s', async (way) => {
    const graph = await enqueueGraph({ parent: [], other: [] });
    await graph[way]('parent');
    const parentIds = [graph.ids.other, graph.ids.parent];
    const child = await queue.enqueue(graph.user, graph.agents[1], { parentIds });
    expect(await queue.task(child)).toMatchObject({ state: 'SKIPPED', finished_at: expect.any(Date) });
    expect((await queue.events(graph.user)).at(-1)).toEqual({ type: 'task_skipped', taskId: child });
    const grandchild = await queue.enqueue(graph.user, graph.agents[0], { parentIds: [child] });
    expect((await queue.task(grandchild)).state).toBe('SKIPPED');
  });

  it('tells of its skipping in its own session, whichever its parent stood in', async () => {
    const user = await queue.addUser();
    const agent = await queue.addAgent(user);
    const [sessionId, other] = [await queue.addSession(user), await queue.addSession(user)];
    const parent = await queue.enqueue(user, agent, { sessionId });
    const child = await queue.enqueue(user, agent, { sessionId: other, parentIds: [parent] });
    const claim = (await queue.claimAll(uuidv7(), 10)).find(({ taskId }) => taskId === parent);
    await queue
      .operation(user)
      .write((write) => failAttempt(write, claim as Claim, { code: 'MODEL_REFUSED', message: 'no' }));
    const events = await queue.database.owner(
      `SELECT session_id FROM events WHERE user_id = $1 AND type = 'task_skipped' AND data ->> 'taskId' = $2`,
      [user, child],
    );
    expect(events).toEqual([{ session_id: other }]);
  });

  it('is skipped at once when one is gone', async () => {
    const graph = await enqueueGraph({ other: [] });
    const child = await queue.enqueue(graph.user, graph.agents[1], { parentIds: [uuidv7(), graph.ids.other] });
    expect((await queue.task(child)).state).toBe('SKIPPED');
  });

  it('is not released by a parent that will be tried again', async () => {
    const graph = await enqueueGraph({ parent: [], child: ['parent'] });
    const claim = await graph.claimOf('parent');
    await queue
      .operation(graph.user)
      .write((write) => failAttempt(write, claim, { code: 'MODEL_UNAVAILABLE', message: 'away' }));
    expect(await graph.states()).toEqual({ parent: 'RETRYING', child: 'BLOCKED' });
  });
});

describe('a parent that ends without a result', () => {
  const graph = {
    top: [],
    other: [],
    child: ['top'],
    grandchild: ['child'],
    mixed: ['grandchild', 'other'],
    apart: ['other'],
  } as const;

  it.each([
    ['fails', 'fail', 'FAILED', 'task_failed'],
    ['is cancelled', 'cancel', 'CANCELLED', 'task_cancelled'],
  ] as const)('skips all below it when it %s, and nothing beside it', async (_how, way, state, event) => {
    const tasks = await enqueueGraph(graph);
    await tasks[way]('top');
    expect(await tasks.states()).toMatchObject({
      top: state,
      child: 'SKIPPED',
      grandchild: 'SKIPPED',
      mixed: 'SKIPPED',
      apart: 'BLOCKED',
    });
    await tasks.complete('other');
    await tasks.complete('apart');
    const events = await tasks.finalEvents();
    expect(events[0]).toBe(`top ${event}`);
    expect(events.slice(1, 4).toSorted()).toEqual([
      'child task_skipped',
      'grandchild task_skipped',
      'mixed task_skipped',
    ]);
    expect(events.slice(4)).toEqual(['other task_completed', 'apart task_completed']);
    expect(await auditCounts(queue.database)).toEqual([]);
  });
});

describe('parents that end at the same moment', () => {
  it('release their child exactly once, and never lose it', async () => {
    for (let round = 0; round < 20; round += 1) {
      const graph = await enqueueGraph({ one: [], two: [], three: [], child: ['one', 'two', 'three'] });
      const claims = [await graph.claimOf('one'), await graph.claimOf('two'), await graph.claimOf('three')];
      const released: string[] = [];
      await Promise.all(
        claims.map((claim) =>
          queue
            .operation(graph.user)
            .write((write) =>
              endAttempt(write, claim, { state: 'COMPLETED' }).then((ended) => void released.push(...ended.released)),
            ),
        ),
      );
      expect(released).toEqual([graph.ids.child]);
      expect(await graph.states()).toMatchObject({ child: 'QUEUED' });
    }
    expect(await auditCounts(queue.database)).toEqual([]);
  });

  it('wait for each other: the second sees what the first has done, not what it was about to do', async () => {
    const graph = await enqueueGraph({ one: [], two: [], child: ['one', 'two'] });
    const [one, two] = [await graph.claimOf('one'), await graph.claimOf('two')];
    const { promise: gate, resolve: open } = Promise.withResolvers<void>();
    const { promise: ended, resolve: tellEnded } = Promise.withResolvers<void>();
    const first = queue.operation(graph.user).write((write) =>
      completeAttempt(write, one, () => {
        tellEnded();
        return gate;
      }),
    );
    await ended;
    const second = queue.operation(graph.user).write((write) => completeAttempt(write, two));
    await queue.untilBlocked();
    open();
    await Promise.all([first, second]);
    expect(await graph.states()).toEqual({ one: 'COMPLETED', two: 'COMPLETED', child: 'QUEUED' });
  });
});

describe('a child that is added at the moment when its parent ends', () => {
  it.each([
    ['completed', 'QUEUED'],
    ['failed', 'SKIPPED'],
    ['cancelled', 'SKIPPED'],
  ] as const)('is not left behind when the parent is %s', async (way, state) => {
    const graph = await enqueueGraph({ parent: [] });
    const claim = await graph.claimOf('parent');
    const operation = queue.operation(graph.user);
    const { promise: gate, resolve: open } = Promise.withResolvers<void>();
    const { promise: added, resolve: tellAdded } = Promise.withResolvers<void>();
    const parentIds = [claim.taskId];
    const adding = operation.write(async (write) => {
      await reserveLane(write, graph.agents[1], 'agentId', parentIds);
      const { id } = await enqueueTask(write, {
        kind: 'AGENT_RUN',
        laneId: graph.agents[1],
        agentId: graph.agents[1],
        sessionId: null,
        messageId: null,
        sessionOrder: null,
        parentIds,
      });
      tellAdded();
      await gate;
      return id;
    });
    await added;
    const ending = {
      completed: () => operation.write((write) => completeAttempt(write, claim)),
      failed: () => operation.write((write) => failAttempt(write, claim, { code: 'INTERNAL', message: 'no' })),
      cancelled: () => operation.write((write) => cancelTask(write, claim.taskId)),
    }[way]();
    await queue.untilBlocked();
    open();
    const child = await adding;
    await ending;
    expect((await queue.task(child)).state).toBe(state);
    expect(await auditCounts(queue.database)).toEqual([]);
  });
});
