import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { rowId } from '../isolation/world.ts';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';

let service: TestService;
let alice: TestUser;
let agentId: string;

/** Statements that travelled together in one transaction of the worker: each trip is one wait of the run. */
type Trips = string[][];

/** Transactions of the worker for the user, in the order of their beginnings. */
let transactions: { kind: 'read' | 'write'; trips: Trips }[] = [];

beforeAll(async () => {
  service = await startTestService();
  alice = await service.user('alice');
  const viewer = await alice.ask('{ viewer { id } agents(first: 1) { edges { node { id } } } }');
  agentId = viewer.data.agents.edges[0].node.id;
  watch(rowId(viewer.data.viewer.id));
  // Connections are made and statements prepared.
  await answer(agentId);
}, 60_000);
afterAll(async () => {
  vi.restoreAllMocks();
  await service.stop();
});
beforeEach(() => {
  transactions = [];
});

/** The driver still does its work; what it is given is only written down. */
function watch(userId: string): void {
  const original = pg.Client.prototype.query;
  const open = new WeakMap<pg.Client, { trips: Trips; isAnswered: boolean }>();
  vi.spyOn(pg.Client.prototype, 'query').mockImplementation(function (this: pg.Client, ...given: unknown[]) {
    const result: unknown = Reflect.apply(original, this, given);
    if (this.user !== 'app_worker') {
      return result;
    }
    const [first] = given;
    const text = typeof first === 'string' ? first : (first as { text: string }).text;
    if (text.startsWith('BEGIN') && text.includes(userId)) {
      const transaction = { kind: text.includes('READ ONLY') ? ('read' as const) : ('write' as const), trips: [] };
      transactions.push(transaction);
      open.set(this, { trips: transaction.trips, isAnswered: true });
    }
    const known = open.get(this);
    if (known !== undefined) {
      if (known.isAnswered) {
        known.trips.push([]);
        known.isAnswered = false;
      }
      known.trips.at(-1)?.push(summary(text));
      const end = () => {
        known.isAnswered = true;
      };
      Promise.resolve(result).then(end, end);
      if (text === 'COMMIT' || text === 'ROLLBACK') {
        open.delete(this);
      }
    }
    return result;
  });
}

/** What a statement works on: its first verb with a table. */
function summary(text: string): string {
  return text.startsWith('BEGIN') ? 'BEGIN' : (/\b(?:FROM|UPDATE|INTO) [\w.]+/.exec(text)?.[0] ?? text);
}

/** Sends a message and waits for its answer, and for the end of all that the worker did for it. */
async function answer(targetAgentId: string | null, content = 'Hello'): Promise<typeof transactions> {
  const session = await alice.ask('mutation { createSession { session { id } } }');
  const sent = await alice.ask(
    'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } session { id } } }',
    { input: { sessionId: session.data.createSession.session.id, targetAgentId, content } },
  );
  expect(sent.errors).toEqual([]);
  await waitFor('the answer', async () => {
    const [row] = await service.database.owner(
      `SELECT count(*) FILTER (WHERE role <> 'USER') AS answers FROM messages WHERE session_id = $1`,
      [rowId(sent.data.sendMessage.session.id)],
    );
    return Number(row?.['answers']) > 0;
  });
  await waitFor('the last commit', () =>
    transactions.every(({ trips }) => /COMMIT|ROLLBACK/.test(String(trips.at(-1)))),
  );
  return transactions;
}

/** Trips of the transactions of a kind, in the order of their beginnings. */
const written = () => transactions.filter(({ kind }) => kind === 'write').map(({ trips }) => trips);
const read = () => transactions.filter(({ kind }) => kind === 'read').map(({ trips }) => trips);
/** The events of a transaction and its commit travel together. */
const end = [expect.stringMatching(/^/), 'COMMIT'];

describe('what the worker asks of Postgres for a message to an agent', () => {
  it('is three trips: one for all that is read, with the end of the reads, and two to end the task', async () => {
    await answer(agentId);
    expect(written()).toEqual([
      [['BEGIN', 'FROM queue.end_attempt', 'UPDATE agents', 'INTO task_steps', 'UPDATE sessions'], end],
    ]);
    const [reads] = read();
    expect(read()).toHaveLength(1);
    expect(reads).toHaveLength(1);
    expect(reads?.[0]).toEqual([
      'BEGIN',
      // Whether the task still stands as its worker was told, and until when it may run.
      'FROM deadline_at',
      'FROM quotas',
      // The agent, with what was granted to it and whether it has a memory.
      'FROM approval_grants',
      'FROM messages',
      // Its tools, with the servers that they come from.
      'FROM mcp_servers',
      'COMMIT',
    ]);
  });

  it('is five writing trips more for a call of a tool: two for what the model wants, two for the mark, one for the result', async () => {
    service.model.setScript([
      { match: 'the time', reply: [{ name: 'current_time', arguments: {} }] },
      { match: 'the time', reply: 'It is late.' },
    ]);
    await answer(agentId, 'Tell me the time.');
    service.model.reset();
    expect(written().slice(0, -1)).toEqual([
      [['BEGIN', 'FROM tasks', 'INTO model_usage'], ['COMMIT']],
      [['BEGIN', 'FROM tasks', 'UPDATE tasks'], end],
      [['BEGIN', 'FROM tasks', 'COMMIT']],
    ]);
  });
});

describe('what the worker asks of Postgres for a message to the team', () => {
  it('is as little for each task of the plan, and two trips to store the plan', async () => {
    await answer(null, 'Compare three ways to learn Spanish and write a short summary.');
    const isPlanned = ([first]: string[][]) => first?.includes('FROM queue.lock_for_end') === true;
    const ends = written().filter(
      (trips) => trips[0]?.includes('FROM queue.end_attempt') === true && !isPlanned(trips),
    );
    // The last of them composes the answer.
    expect(ends.length).toBeGreaterThan(1);
    expect(ends.map((trips) => trips.length)).toEqual(ends.map(() => 2));
    expect(ends.at(-1)?.[0]?.slice(2)).toEqual(['INTO task_steps', 'UPDATE sessions', 'UPDATE plans']);
    const [planned] = written().filter(isPlanned);
    expect(planned).toEqual([
      expect.arrayContaining([
        'FROM queue.lock_for_end',
        'FROM lanes',
        'FROM queue.end_attempt',
        // The tasks come as one list.
        'FROM jsonb_to_recordset',
        'INTO task_dependencies',
        'UPDATE plans',
        'INTO model_usage',
        'FROM quotas',
      ]),
      end,
    ]);
    // Each knows its task, which began with the message or with the end of another; the planner comes back for a plan that it made
    // before.
    expect(read().map((trips) => trips.length)).toEqual([3, ...ends.slice(1).map(() => 1), 2]);
    // Nothing else is written: no task is claimed or begun in a commit of its own, and the message told that it is planned.
    expect(written()).toHaveLength(ends.length + 1);
  });
});
