import type { GraphQLSchema } from 'graphql';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Database, statement, type Transaction } from '../../src/adapters/postgres.ts';
import { DomainError, notFound } from '../../src/errors.ts';
import { createSchema } from '../../src/resolvers/schema.ts';
import { compareAnswers, type Trial, tryForeignValue, tryOwnValue } from './foreign-value.ts';
import { type IdCase, idCases } from './id-cases.ts';
import { createLocalAsk, openDatabase, withoutUserFilter } from './local-ask.ts';
import { type Neighbour, type Neighbourhood, openNeighbourhood } from './neighbourhood.ts';
import { rowId } from './world.ts';

/** As it should be, and one whose policies let everything through, as if someone had forgotten them. */
let guarded: Neighbourhood;
let open: Neighbourhood;
let guardedDatabase: Database;
let openedDatabase: Database;
let schema: GraphQLSchema;
let alice: Neighbour;

beforeAll(async () => {
  schema = createSchema();
  guarded = await openNeighbourhood();
  guardedDatabase = openDatabase(guarded.service.database.appUrl);
  alice = await guarded.newcomer('alice');
  open = await openNeighbourhood();
  openedDatabase = openDatabase(open.service.database.appUrl);
  for (const { name } of open.tables.filter((table) => table.userColumn !== null)) {
    await open.owner.query(`ALTER POLICY own_rows ON ${name} USING (true) WITH CHECK (true)`);
  }
});
afterAll(async () => {
  await guardedDatabase?.close();
  await guarded?.stop();
  await openedDatabase?.close();
  await open?.stop();
});

async function walk(trial: Trial): Promise<string[]> {
  const findings: string[] = [];
  for (const [place, idCase] of Object.entries(idCases)) {
    findings.push(...(await tryForeignValue(place, idCase, trial)));
  }
  return findings;
}

function caseOf(place: string): IdCase {
  const idCase = idCases[place];
  if (idCase === undefined) {
    throw new Error(`no case for ${place}`);
  }
  return idCase;
}

const leak = /the answer holds |this row is /;

describe('the two lines of defence', () => {
  it('the services ask for their own user, also when every policy lets everything through', async () => {
    const [anna, bob] = [await open.newcomer('anna'), await open.newcomer('bob')];
    expect(await walk(open.trial(bob, anna))).toEqual([]);
  });

  it('the policies hold, also when every service forgets to ask for its user', async () => {
    const bob = await guarded.newcomer('bob');
    const ask = createLocalAsk(schema, withoutUserFilter(guardedDatabase), bob.world.userId);
    expect(await walk(guarded.trial(bob, alice, ask))).toEqual([]);
  });

  it('raw SQL without any condition gets the rows of one user only', async () => {
    const bob = await guarded.newcomer('bob');
    const transaction = await guardedDatabase.begin('read', bob.world.userId);
    try {
      for (const { name, userColumn } of guarded.tables.filter((table) => table.userColumn !== null)) {
        const text = `SELECT DISTINCT ${userColumn} AS id FROM ${name}`;
        const rows = await transaction.query({ name: `all ${name}`, text });
        expect(
          rows.filter((row) => row['id'] !== bob.world.userId),
          name,
        ).toEqual([]);
      }
    } finally {
      await transaction.commit();
    }
  });

  it.each<[how: string, end: (transaction: Transaction) => Promise<unknown>]>([
    ['committed', (transaction) => transaction.commit()],
    ['rolled back', (transaction) => transaction.rollback()],
    [
      'failed',
      async (transaction) => {
        await transaction.query(statement('SELECT 1 / 0')).catch(() => undefined);
        await expect(transaction.commit()).rejects.toThrow(/rolled back/);
      },
    ],
  ])('a connection forgets its user when a transaction has %s', async (_how, end) => {
    await using pool = new AsyncDisposableStack();
    const database = openDatabase(guarded.service.database.appUrl, 1);
    pool.defer(() => database.close());
    const seen = statement<{ user: string | null; agents: number; backend: number }>(
      'SELECT app.user_id() AS user, (SELECT count(*)::int FROM agents) AS agents, pg_backend_pid() AS backend',
    );
    const transaction = await database.begin('write', alice.world.userId);
    const [during] = await transaction.query(seen);
    expect(during).toMatchObject({ user: alice.world.userId, agents: 4 });
    await end(transaction);
    expect(await database.query(seen)).toEqual([{ user: null, agents: 0, backend: during?.backend }]);
  });

  it.each([
    'Query.node(id)',
    'Query.agent(id)',
    'Query.session(id)',
    'Query.task(id)',
    'Query.tasks(filter.sessionId)',
    'Query.tasks(filter.agentId)',
    'Query.sessions(search)',
    'Query.sessions(after)',
    'Mutation.updateSession(id)',
    'Mutation.deleteSession(id)',
  ])('without both, the walk finds the leak: %s', async (place) => {
    const [anna, bob] = [await open.newcomer('anna'), await open.newcomer('bob')];
    const ask = createLocalAsk(schema, withoutUserFilter(openedDatabase), bob.world.userId);
    const findings = await tryForeignValue(place, caseOf(place), open.trial(bob, anna, ask));
    expect(findings).toContainEqual(expect.stringMatching(leak));
    expect(findings).not.toContainEqual(expect.stringContaining('the case itself is at fault'));
  });

  it.each(['Mutation.sendMessage(input.sessionId)', 'Mutation.sendMessage(input.targetAgentId)'])(
    'without both, foreign keys still let nobody write to another user: %s',
    async (place) => {
      const [anna, bob] = [await open.newcomer('anna'), await open.newcomer('bob')];
      const ask = createLocalAsk(schema, withoutUserFilter(openedDatabase), bob.world.userId);
      const findings = await tryForeignValue(place, caseOf(place), open.trial(bob, anna, ask));
      // The walk sees that the fault tells a real id from a made-up one, and that nothing else went through.
      expect(findings).toContainEqual(expect.stringContaining('for a made-up value'));
      expect(findings).not.toContainEqual(expect.stringMatching(leak));
    },
  );
});

describe('a resolver that leaks on purpose', () => {
  const look = async (table: string, id: string): Promise<Record<string, unknown> | undefined> =>
    (await guarded.owner.query(`SELECT * FROM ${table} WHERE id = $1`, [id])).rows[0];

  it.each<[what: string, place: string, leaks: (id: string) => Promise<unknown>, finding: RegExp]>([
    [
      'a row',
      'Query.agent(id)',
      async (id) => {
        const row = await look('agents', id);
        return row && { ...row, createdAt: row['created_at'], lastError: row['last_error'] };
      },
      /answer\.data\.agent is .* but null for a made-up value/,
    ],
    [
      'that something exists, by an error',
      'Query.session(id)',
      async (id) => {
        if ((await look('sessions', id)) !== undefined) {
          throw new DomainError('BAD_USER_INPUT', 'This session is not yours.');
        }
        return null;
      },
      /answer\.errors\.0 is .*not yours/,
    ],
    [
      'that something exists, by the field of an error',
      'Mutation.updateSession(id)',
      async (id) => {
        throw (await look('sessions', id)) === undefined ? notFound('session', 'id') : notFound('session');
      },
      /answer\.errors\.0\.extensions\.field is undefined, but "id" for a made-up value/,
    ],
    [
      'an id, in an error that comes for a made-up id too',
      'Query.task(id)',
      async (id) => {
        throw new DomainError('NOT_FOUND', `No such task. ${(await look('tasks', id))?.['agent_id'] ?? ''}`);
      },
      /the answer holds [0-9a-f-]{36}/,
    ],
    [
      'nothing, but changes a row of another user',
      'Mutation.deleteAgent(id)',
      async (id) => {
        await guarded.owner.query(`UPDATE agents SET description = 'taken over' WHERE id = $1`, [id]);
        throw notFound('agent', 'id');
      },
      /this row is new or changed: agents .*taken over/,
    ],
    [
      'nothing, but leaves a row behind',
      'Mutation.cancelTask(id)',
      async (id) => {
        await guarded.owner.query(
          `INSERT INTO sessions (user_id, title, expires_at) SELECT user_id, 'left', now() FROM tasks WHERE id = $1`,
          [id],
        );
        throw notFound('task', 'id');
      },
      /this row is new or changed: sessions .*left/,
    ],
  ])('is found when it gives away %s', async (_what, place, leaks, finding) => {
    const [anna, bob] = [await guarded.newcomer('anna'), await guarded.newcomer('bob')];
    const leaky = createSchema();
    const [type = '', name = ''] = place.split(/[.(]/);
    const field = (type === 'Query' ? leaky.getQueryType() : leaky.getMutationType())?.getFields()[name];
    if (field === undefined) {
      throw new Error(`no field ${place}`);
    }
    field.resolve = (_root, { id }: { id: string }) => leaks(rowId(id));
    const ask = createLocalAsk(leaky, guardedDatabase, bob.world.userId);
    const findings = await tryForeignValue(place, caseOf(place), guarded.trial(bob, anna, ask));
    expect(findings).toContainEqual(expect.stringMatching(finding));
  });

  it('is the only one that is found: within this process too the real schema gives nothing away', async () => {
    const bob = await guarded.newcomer('bob');
    const ask = createLocalAsk(schema, guardedDatabase, bob.world.userId);
    expect(await walk(guarded.trial(bob, alice, ask))).toEqual([]);
  });
});

describe('a case that proves nothing', () => {
  it('is found when it never reaches its field', async () => {
    const bob = await guarded.newcomer('bob');
    const broken: IdCase = { takes: 'Agent', document: 'query ($value: ID!) { agent(id: $value) { secret } }' };
    expect(await tryForeignValue('Query.agent(id)', broken, guarded.trial(bob, alice))).toContainEqual(
      expect.stringContaining('the case itself is at fault: GRAPHQL_VALIDATION_FAILED'),
    );
  });

  it('is found when it says the same to the owner', async () => {
    const bob = await guarded.newcomer('bob');
    const document = 'query ($value: ID!) { viewer { id } agent(id: $value) @skip(if: true) { id } }';
    expect(await tryOwnValue('Query.agent(id)', { takes: 'Agent', document }, guarded.trial(bob, alice))).toEqual([
      'Query.agent(id) with the id of a Agent: the owner gets what a made-up id gets',
    ]);
  });

  it('hides no difference in the status of an answer', () => {
    expect(compareAnswers({ status: 403 }, { status: 200 })).toEqual([
      'answer.status is 403, but 200 for a made-up value',
    ]);
  });
});
