import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { statement } from '../src/adapters/postgres.ts';
import type { Operation } from '../src/operation.ts';
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
