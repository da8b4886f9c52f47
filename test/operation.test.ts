import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { statement } from '../src/adapters/postgres.ts';
import { type BatchLoad, type Operation, type WriteOperation, writeTogether } from '../src/operation.ts';
import { startTestQueue, type TestQueue } from './queue/arrange.ts';

let queue: TestQueue;
let userId: string;
let operation: Operation;

beforeAll(async () => {
  queue = await startTestQueue();
  userId = await queue.addUser();
  operation = queue.operation(userId);
});
// The transaction of the test before may still be about to end.
beforeEach(() => operation.refresh());
afterAll(async () => {
  await operation.close();
  await queue.stop();
});

const countAgents = statement<{ agents: number }>(`SELECT count(*)::int AS agents FROM agents WHERE user_id = $1`);
const countSlowly = statement<{ agents: number }>(`
  SELECT count(*)::int AS agents FROM agents, (SELECT pg_sleep(0.3)) AS pause WHERE user_id = $1`);
const count = async () => (await operation.read.query(countAgents, [userId]))[0]?.agents;

/** Keeps the shared read transaction open until told otherwise. */
async function holdRead(): Promise<() => Promise<void>> {
  const { promise: held, resolve: release } = Promise.withResolvers<void>();
  const { promise: open, resolve: opened } = Promise.withResolvers<void>();
  const reading = operation.read.prisma(async (client) => {
    await client.agent.count();
    opened();
    await held;
  });
  await open;
  return async () => {
    release();
    await reading;
  };
}

describe('reads of one operation', () => {
  it('see one state of the data as long as their transaction is open', async () => {
    const release = await holdRead();
    const before = await count();
    await queue.addAgent(userId);
    expect(await count()).toBe(before);
    await release();
  });

  it('see everything committed so far once the operation is refreshed', async () => {
    const release = await holdRead();
    const before = Number(await count());
    await queue.addAgent(userId);
    operation.refresh();
    expect(await count()).toBe(before + 1);
    await release();
  });

  it('are answered though they are told to be the last, and later ones see what was committed since', async () => {
    const before = Number(await count());
    const counting = [operation.read.query(countSlowly, [userId]), operation.read.query(countAgents, [userId])];
    operation.endReads();
    await queue.addAgent(userId);
    expect(await count()).toBe(before + 1);
    expect((await Promise.all(counting)).flat()).toEqual([{ agents: before }, { agents: before }]);
  });

  it('are not ended while Prisma reads, which sends one statement after the other', async () => {
    const release = await holdRead();
    const before = await count();
    operation.endReads();
    await queue.addAgent(userId);
    expect(await count()).toBe(before);
    await release();
  });

  it('see what the operation itself has just written', async () => {
    const release = await holdRead();
    const before = Number(await count());
    await operation.write((write) =>
      write.prisma((client) => client.agent.create({ data: { userId, name: 'Fresh', instructions: 'Be new.' } })),
    );
    expect(await count()).toBe(before + 1);
    await release();
  });
});

describe('a row that a write hands to the reads behind it', () => {
  let asked: string[] = [];
  beforeEach(() => {
    asked = [];
  });
  const load: BatchLoad<string, { id: string; from: string } | null> = async (_operation, ids) => {
    asked.push(...ids);
    return ids.map((id) => ({ id, from: 'the database' }));
  };

  it('is not asked for again', async () => {
    await operation.write(async (write) => write.keep(load, { id: 'one', from: 'the write' }));
    const read = await Promise.all(['one', 'two'].map((id) => operation.read.load(load, id)));
    expect(read.map((row) => row?.from)).toEqual(['the write', 'the database']);
    expect(asked).toEqual(['two']);
  });

  it('is asked for anew behind the next write', async () => {
    await operation.write(async (write) => write.keep(load, { id: 'one', from: 'the write' }));
    await operation.write(async () => undefined);
    expect((await operation.read.load(load, 'one'))?.from).toBe('the database');
  });

  it('is forgotten with a write that failed', async () => {
    const failing = operation.write(async (write) => {
      write.keep(load, { id: 'one', from: 'the write' });
      throw new Error('it failed');
    });
    await expect(failing).rejects.toThrow('it failed');
    expect((await operation.read.load(load, 'one'))?.from).toBe('the database');
  });
});

describe('a write that commits with its last statement', () => {
  const instruct = statement<{ id: string }>(`UPDATE agents SET instructions = $2 WHERE user_id = $1 RETURNING id`);
  const instructions = async () => {
    const rows = await queue.database.owner('SELECT DISTINCT instructions FROM agents WHERE user_id = $1', [userId]);
    return rows.map((row) => row['instructions']);
  };
  beforeAll(() => queue.addAgent(userId));

  it('stores its events in the same commit, and runs its hooks after it', async () => {
    let seen: unknown;
    await operation.write(async (write) => {
      write.emit({ type: 'task_skipped', sessionId: null, taskId: userId });
      const [row] = await write.queryAndCommit(instruct, [userId, 'at once']);
      expect([row === undefined, await instructions()]).toEqual([false, ['at once']]);
      write.afterCommit(() => {
        seen = 'hook';
      });
    });
    expect(seen).toBe('hook');
    expect((await queue.events(userId)).map(({ type }) => type)).toEqual(['task_skipped']);
  });

  it('goes on when what its hooks send at the end of their turn has left', async () => {
    const order: string[] = [];
    await operation.write(async (write) => {
      await write.query(instruct, [userId, 'once more']);
      write.afterCommit(() => void setImmediate(() => order.push('sent')));
    });
    order.push('went on');
    expect(order).toEqual(['sent', 'went on']);
  });

  it('stores nothing when the statement fails, and reports its fault', async () => {
    const failing = statement(`UPDATE agents SET instructions = (1 / $2::int)::text WHERE user_id = $1`);
    const before = await instructions();
    const events = await queue.events(userId);
    const writing = operation.write(async (write) => {
      await write.query(instruct, [userId, 'never']);
      write.emit({ type: 'task_skipped', sessionId: null, taskId: userId });
      await write.queryAndCommit(failing, [userId, 0]);
    });
    await expect(writing).rejects.toMatchObject({ code: '22012' });
    expect([await instructions(), await queue.events(userId)]).toEqual([before, events]);
  });

  it.each([
    ['a statement', (write: WriteOperation) => write.query(instruct, [userId, 'late']).then(() => undefined)],
    [
      'an event',
      async (write: WriteOperation) => write.emit({ type: 'task_skipped', sessionId: null, taskId: userId }),
    ],
  ])('refuses %s behind it', async (_what, late) => {
    const writing = operation.write(async (write) => {
      await write.queryAndCommit(instruct, [userId, 'in time']);
      await late(write);
    });
    await expect(writing).rejects.toThrow(/the transaction (has ended|is committed)/);
    expect(await instructions()).toEqual(['in time']);
  });
});

describe('writes that go out together', () => {
  const name = statement<{ name: string }>(`UPDATE agents SET name = name || $2 WHERE user_id = $1 RETURNING name`);
  const divide = statement(`SELECT 1 / $1::int`);
  const skipped = (taskId: string) => ({ type: 'task_skipped', sessionId: null, taskId }) as const;
  let agentId: string;
  let person: string;
  beforeEach(async () => {
    person = await queue.addUser();
    agentId = await queue.addAgent(person);
  });
  const names = async () => {
    const rows = await queue.database.owner('SELECT name FROM agents WHERE user_id = $1', [person]);
    return rows.map((row) => row['name']);
  };

  it('are done in their order, and so are their events told, whichever is done first', async () => {
    const [first, second] = ['019f0000-0000-7000-8000-000000000001', '019f0000-0000-7000-8000-000000000002'];
    await queue.operation(person).write(async (write) => {
      await writeTogether(
        write,
        async (each) => {
          await each.query(name, [person, ' one']);
          await each.query(name, [person, ' three']);
          each.emit(skipped(first));
        },
        async (each) => {
          each.emit(skipped(second));
          await each.query(name, [person, ' two']);
        },
      );
      write.emit(skipped(agentId));
    });
    expect(await names()).toEqual([expect.stringMatching(/ one two three$/)]);
    expect((await queue.events(person)).map(({ taskId }) => taskId)).toEqual([first, second, agentId]);
  });

  it('fail with the fault of the first that failed, and leave nothing', async () => {
    const before = await names();
    const deep = async (write: WriteOperation) => {
      await (async () => await (async () => write.query(divide, [0]))())();
    };
    const writing = queue.operation(person).write((write) =>
      writeTogether(
        write,
        (each) => each.query(name, [person, ' lost']),
        deep,
        (each) => each.query(name, [person, ' late']),
      ),
    );
    await expect(writing).rejects.toMatchObject({ code: '22012' });
    expect([await names(), await queue.events(person)]).toEqual([before, []]);
  });

  it('are refused by the first that finds itself too late, although the others went through', async () => {
    const before = await names();
    const writing = queue.operation(person).write((write) =>
      writeTogether(
        write,
        async (each) => {
          await each.query(name, [agentId, ' nobody']);
          await each.query(name, [agentId, ' nobody']);
          throw new Error('too late');
        },
        async (each) => {
          await each.query(name, [person, ' written']);
          throw new Error('a consequence');
        },
      ),
    );
    await expect(writing).rejects.toThrow('too late');
    expect(await names()).toEqual(before);
  });
});
