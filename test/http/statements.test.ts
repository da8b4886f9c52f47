import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';

let service: TestService;
let alice: TestUser;
let agentId: string;
const sessionIds: string[] = [];

const sessions = 20;
const messagesEach = 5;

/** Statements that the API sent since it was last emptied: one entry per call of the driver. */
let sent: string[] = [];

beforeAll(async () => {
  service = await startTestService({ environment: { STATEMENT_TIMEOUT: '1500' } });
  alice = await service.user('alice');
  agentId = (await alice.ask(`{ agents(first: 1) { edges { node { id } } } }`)).data.agents.edges[0].node.id;
  for (let place = 0; place < sessions; place += 1) {
    const { data } = await alice.ask(`mutation { createSession { session { id } } }`);
    sessionIds.push(data.createSession.session.id);
  }
  await Promise.all(
    sessionIds.map(async (sessionId) => {
      for (let place = 0; place < messagesEach; place += 1) {
        await send(sessionId);
      }
    }),
  );
  await waitFor('all answers', async () => {
    const [row] = await service.database.owner(`SELECT count(*)::int AS left FROM tasks WHERE state <> 'COMPLETED'`);
    return row?.['left'] === 0;
  });

  // The driver still does its work; what it is given is only written down.
  const original = pg.Client.prototype.query;
  vi.spyOn(pg.Client.prototype, 'query').mockImplementation(function (this: pg.Client, ...given: unknown[]) {
    if (this.user === 'app_user') {
      const [first] = given;
      sent.push(typeof first === 'string' ? first : (first as { text: string }).text);
    }
    return Reflect.apply(original, this, given);
  });
}, 60_000);
afterAll(async () => {
  vi.restoreAllMocks();
  await service.stop();
});
afterEach(() => {
  sent = [];
});

const sendMessage = `mutation ($sessionId: ID!, $agentId: ID!) {
  sendMessage(input: { sessionId: $sessionId, targetAgentId: $agentId, content: "Hello" }) {
    message { id position } session { messageCount } task { state agent { name } }
  }
}`;

const send = (sessionId: string, headers = {}) => alice.ask(sendMessage, { sessionId, agentId }, headers);

interface Count {
  /** Transactions begun, and those ended. */
  begins: number;
  commits: number;
  /** Everything else. */
  statements: number;
}

/** Runs a request and counts what it sent to Postgres, up to the end of its last transaction. */
async function count(query: string, variables: Record<string, unknown> = {}): Promise<Count> {
  sent = [];
  const { errors } = await alice.ask(query, variables);
  expect(errors).toEqual([]);
  return waitFor('the last commit', () => {
    const begins = sent.filter((text) => text.startsWith('BEGIN')).length;
    const commits = sent.filter((text) => text === 'COMMIT').length;
    return begins === commits && { begins, commits, statements: sent.length - begins - commits };
  });
}

describe('statements of a query', () => {
  const person = `id name status model instructions`;
  const cases: [string, number, (size: number) => string][] = [
    [
      'the viewer and the team',
      2,
      (size) => `{ viewer { id createdAt } agents(first: ${size}) { edges { node { ${person} } } } }`,
    ],
    [
      'sessions with their last messages, and the agent and task of each',
      4,
      (size) => `{ sessions(first: ${size}) { edges { node { id title
        messages(last: ${size === 1 ? 1 : 10}) { edges { node { content agent { ${person} } task { id state } } } } } } } }`,
    ],
    [
      'tasks with agent, session, message and answer',
      4,
      (size) => `{ tasks(first: ${size}) { edges { node { state
        agent { ${person} } session { title } message { content } answer { content agent { name } } } } } }`,
    ],
    [
      'sessions with their tasks, and the answers of those',
      3,
      (size) =>
        `{ sessions(first: ${size}) { edges { node { tasks(first: 5) { edges { node { answer { content } } } } } } } }`,
    ],
    [
      'three lists side by side',
      3,
      (size) => `{ agents(first: ${size}) { edges { node { id } } } tasks(first: ${size}) { edges { node { id } } }
        sessions(first: ${size}) { edges { node { id } } } }`,
    ],
  ];

  it.each(cases)('%s: %i, however long the lists', async (_name, statements, query) => {
    for (const size of [1, 5, 20]) {
      expect({ size, ...(await count(query(size))) }).toEqual({ size, begins: 1, commits: 1, statements });
    }
  });

  it.each(['Agent', 'Session', 'Task', 'Message', 'User'])('node of a %s: 1', async (noun) => {
    const { data } = await alice.ask(`{
      viewer { id } agents(first: 1) { edges { node { id } } }
      sessions(first: 1) { edges { node { id messages(first: 1) { edges { node { id } } } tasks(first: 1) { edges { node { id } } } } } }
    }`);
    const session = data.sessions.edges[0].node;
    const id = {
      User: data.viewer.id,
      Agent: data.agents.edges[0].node.id,
      Session: session.id,
      Message: session.messages.edges[0].node.id,
      Task: session.tasks.edges[0].node.id,
    }[noun];
    await waitFor('the last commit', () => sent.at(-1) === 'COMMIT');
    expect(await count(`query ($id: ID!) { node(id: $id) { __typename id } }`, { id })).toEqual({
      begins: 1,
      commits: 1,
      statements: 1,
    });
  });

  it('that needs no row: none at all', async () => {
    expect(await count('{ __typename }')).toEqual({ begins: 0, commits: 0, statements: 0 });
  });
});

/** What a statement works on: what it adds to, else its first verb with a table. */
function summary(text: string): string {
  return (/\bINTO \w+/.exec(text) ?? /\b(?:FROM|UPDATE) \w+/.exec(text))?.[0] ?? text;
}

describe('statements of a mutation', () => {
  it('sendMessage: five in a write transaction, then reads of what it did not write', async () => {
    const counted = await count(sendMessage, { sessionId: sessionIds[0], agentId });
    expect(counted).toEqual({ begins: 2, commits: 2, statements: 7 });
    expect(sent.slice(1, sent.indexOf('COMMIT')).map(summary)).toEqual([
      'FROM lanes',
      'INTO messages',
      'INTO tasks',
      'FROM quotas',
      'INTO events',
    ]);
    expect(sent.slice(sent.indexOf('COMMIT') + 2, -1).map(summary)).toEqual(['FROM sessions', 'FROM agents']);
  });

  it('sendMessage whose payload holds only what it wrote: no read at all', async () => {
    const onlyWritten = `mutation ($sessionId: ID!, $agentId: ID!) {
      sendMessage(input: { sessionId: $sessionId, targetAgentId: $agentId, content: "Hello" }) {
        message { id content createdAt plan { id } } task { id state createdAt }
      }
    }`;
    const counted = await count(onlyWritten, { sessionId: sessionIds[0], agentId });
    expect(counted).toEqual({ begins: 1, commits: 1, statements: 5 });
  });

  it('sendMessage to the team: two more, for the orchestrator and the plan, and no read of them', async () => {
    const toTeam = `mutation ($sessionId: ID!) {
      sendMessage(input: { sessionId: $sessionId, content: "Hello" }) { task { id } message { plan { id state } } }
    }`;
    expect(await count(toTeam, { sessionId: sessionIds[0] })).toEqual({ begins: 1, commits: 1, statements: 7 });
  });
});

describe('a client that leaves in the middle of a slow query', () => {
  const slow = `{ sessions(first: 20) { edges { node { title messages(last: 1) { edges { node { content } } } } } } }`;

  async function connections(): Promise<{ active: number; inTransaction: number }> {
    const [row] = await service.database.owner(
      `SELECT count(*) FILTER (WHERE state = 'active')::int AS active,
         count(*) FILTER (WHERE state LIKE 'idle in transaction%')::int AS "inTransaction"
       FROM pg_stat_activity WHERE datname = current_database() AND usename = 'app_user'`,
    );
    return row as { active: number; inTransaction: number };
  }

  /** Locks the table, lets clients ask for it and leave, and hands over while the lock is still held. */
  async function whileLocked(clients: number, work: () => Promise<void>): Promise<void> {
    const owner = new pg.Client({ connectionString: service.database.ownerUrl });
    await owner.connect();
    try {
      await owner.query('BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE');
      const abort = new AbortController();
      const asked = Array.from({ length: clients }, () =>
        fetch(service.api.url, {
          method: 'POST',
          headers: { 'content-type': 'application/json', authorization: `Bearer ${alice.token}` },
          body: JSON.stringify({ query: slow }),
          signal: abort.signal,
        }).then(
          () => 'answered',
          () => 'left',
        ),
      );
      await waitFor('all to wait for the lock', async () => (await connections()).active === clients);
      abort.abort();
      expect(new Set(await Promise.all(asked))).toEqual(new Set(['left']));
      // An answer to a later request tells that the server has come by the closed connections.
      await fetch(new URL('/health/live', service.api.url));
      await work();
    } finally {
      await owner.end();
    }
  }

  const free = async (): Promise<boolean> => {
    const { active, inTransaction } = await connections();
    return active === 0 && inTransaction === 0;
  };

  it('gives its connection back when the query ends, and nothing more is asked for it', async () => {
    await whileLocked(3, async () => undefined);
    await waitFor('all connections to be free', free);
    expect(sent.filter((text) => text.includes('FROM sessions'))).toHaveLength(3);
    expect(sent.filter((text) => text.includes('FROM messages'))).toEqual([]);
  });

  it('gives it back at the latest when a statement may run no longer, although the lock is still held', async () => {
    await whileLocked(10, async () => {
      await waitFor('all connections to be free', free, 5_000);
      // The whole pool was taken; it serves again.
      expect((await alice.ask('{ viewer { id } }')).errors).toEqual([]);
    });
  });
});
