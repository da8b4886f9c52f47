import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startTestService, type TestService, type TestUser } from '../service.ts';
import { countAllRows, post } from './refusal.ts';

let service: TestService;
let alice: TestUser;
let sessionId: string;
let agentId: string;

beforeAll(async () => {
  service = await startTestService({ worker: false });
  alice = await service.user('alice');
  const { data } = await alice.ask(`{ agents(first: 1) { edges { node { id } } } }`);
  agentId = data.agents.edges[0].node.id;
});
afterAll(() => service.stop());
beforeEach(async () => {
  sessionId = (await alice.ask(`mutation { createSession { session { id } } }`)).data.createSession.session.id;
});

const send = `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { message { id } task { id } } }`;
const createSession = `mutation ($title: String!) { createSession(input: { title: $title }) { session { id title } } }`;
const createAgent = `mutation ($name: String!) { createAgent(input: { name: $name, instructions: "Be." }) { agent { id name } } }`;

const message = (content: string) => ({ input: { sessionId, targetAgentId: agentId, content } });
const keyed = (key: string) => ({ 'idempotency-key': key });

async function count(table: string, where: string, value: unknown): Promise<number> {
  const [row] = await service.database.owner(`SELECT count(*)::int AS rows FROM ${table} WHERE ${where} = $1`, [value]);
  return Number(row?.['rows']);
}

describe('each field of a mutation is a transaction of its own', () => {
  it('so that the others stay, with their answers, when the second fails and leaves nothing', async () => {
    const before = await countAllRows(service.database);
    const { data, errors } = await alice.ask(`mutation {
      first: createSession(input: { title: "kept" }) { session { title } }
      second: createAgent(input: { name: "Writer", instructions: "Again." }) { agent { id } }
      third: createSession(input: { title: "kept too" }) { session { title } }
    }`);
    expect(data).toEqual({
      first: { session: { title: 'kept' } },
      second: null,
      third: { session: { title: 'kept too' } },
    });
    expect(errors).toEqual([
      expect.objectContaining({ path: ['second'], extensions: { code: 'NAME_TAKEN', field: 'input.name' } }),
    ]);
    expect(await countAllRows(service.database)).toEqual({ ...before, sessions: Number(before['sessions']) + 2 });
  });

  it('whose payload reads what was committed, field by field', async () => {
    const { data, errors } = await alice.ask(
      `mutation ($id: ID!, $agentId: ID!) {
        one: updateSession(id: $id, input: { title: "One" }) { session { title messageCount } }
        sent: sendMessage(input: { sessionId: $id, targetAgentId: $agentId, content: "Hi" }) {
          session { title messageCount } message { content position } task { state agent { name } }
        }
        two: updateSession(id: $id, input: { title: "Two" }) { session { title messageCount } }
      }`,
      { id: sessionId, agentId },
    );
    expect(errors).toEqual([]);
    expect(data).toEqual({
      one: { session: { title: 'One', messageCount: 0 } },
      sent: {
        session: { title: 'One', messageCount: 1 },
        message: { content: 'Hi', position: 1 },
        task: { state: 'QUEUED', agent: { name: 'Researcher' } },
      },
      two: { session: { title: 'Two', messageCount: 1 } },
    });
  });
});

describe('a mutation with an Idempotency-Key', () => {
  it('answers a repetition with the outcome of the first and does nothing', async () => {
    const first = await alice.ask(send, message('once'), keyed('repeat'));
    const before = await countAllRows(service.database);
    const second = await alice.ask(send, message('once'), keyed('repeat'));
    expect(second.errors).toEqual([]);
    expect(second.data).toEqual(first.data);
    expect(await countAllRows(service.database)).toEqual(before);
  });

  it('reads the payload anew when it is repeated', async () => {
    const first = await alice.ask(createSession, { title: 'before' }, keyed('anew'));
    const { id } = first.data.createSession.session;
    await alice.ask(`mutation ($id: ID!) { updateSession(id: $id, input: { title: "after" }) { session { id } } }`, {
      id,
    });
    const second = await alice.ask(createSession, { title: 'before' }, keyed('anew'));
    expect(second.data.createSession.session).toEqual({ id, title: 'after' });
  });

  it('repeats a deletion, although the thing is gone', async () => {
    const remove = `mutation ($id: ID!) { deleteSession(id: $id) { deletedSessionId } }`;
    const first = await alice.ask(remove, { id: sessionId }, keyed('removal'));
    const second = await alice.ask(remove, { id: sessionId }, keyed('removal'));
    expect([first.errors, second.errors]).toEqual([[], []]);
    expect(second.data).toEqual(first.data);
  });

  it('keeps the fields of one request apart', async () => {
    const two = `mutation { a: createSession { session { id } } b: createSession { session { id } } }`;
    const first = await alice.ask(two, {}, keyed('two'));
    expect(first.data.a.session.id).not.toBe(first.data.b.session.id);
    expect((await alice.ask(two, {}, keyed('two'))).data).toEqual(first.data);
  });

  it('refuses the key for another request, and stores nothing of that', async () => {
    await alice.ask(send, message('mine'), keyed('taken'));
    const before = await countAllRows(service.database);
    for (const body of [
      { query: send, variables: message('other') },
      { query: createSession, variables: { title: 'other' } },
    ]) {
      const query = body.query.replace('createSession(', 'sendMessage: createSession(');
      const { errors } = await post(service, alice.token, JSON.stringify({ ...body, query }), keyed('taken'));
      expect(errors.map((error) => error.extensions)).toEqual([
        { code: 'IDEMPOTENCY_KEY_REUSED', field: 'Idempotency-Key' },
      ]);
    }
    expect(await countAllRows(service.database)).toEqual(before);
  });

  it('leaves the key free when it fails', async () => {
    const taken = await alice.ask(createAgent, { name: 'Temporary' });
    const failed = await alice.ask(createAgent, { name: 'Temporary' }, keyed('failing'));
    expect(failed.errors[0]?.extensions['code']).toBe('NAME_TAKEN');
    await alice.ask(`mutation ($id: ID!) { deleteAgent(id: $id) { deletedAgentId } }`, {
      id: taken.data.createAgent.agent.id,
    });
    const again = await alice.ask(createAgent, { name: 'Temporary' }, keyed('failing'));
    expect(again.data.createAgent.agent.name).toBe('Temporary');
  });

  it('takes effect once when it is sent twenty times at once', async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => alice.ask(send, message('at once'), keyed('storm'))),
    );
    expect(answers.flatMap((answer) => answer.errors)).toEqual([]);
    expect(new Set(answers.map((answer) => JSON.stringify(answer.data))).size).toBe(1);
    expect(await count('messages', 'content', 'at once')).toBe(1);
  });

  it('takes effect for one of twenty different requests at once', async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, place) => alice.ask(createSession, { title: `race ${place}` }, keyed('race'))),
    );
    const codes = answers.flatMap((answer) => answer.errors.map((error) => error.extensions['code']));
    expect(codes).toEqual(Array.from({ length: 19 }, () => 'IDEMPOTENCY_KEY_REUSED'));
    expect(await count('sessions', `split_part(title, ' ', 1)`, 'race')).toBe(1);
  });

  it('does not meet the same key of another user', async () => {
    const bob = await service.user('bob');
    const mine = await alice.ask(createSession, { title: 'shared' }, keyed('shared'));
    const theirs = await bob.ask(createSession, { title: 'shared' }, keyed('shared'));
    expect(theirs.errors).toEqual([]);
    expect(theirs.data.createSession.session.id).not.toBe(mine.data.createSession.session.id);
  });

  it.each([
    ['empty', ''],
    ['of two words', 'two words'],
    ['beyond ASCII', 'schlüssel'],
    ['of 256 characters', 'k'.repeat(256)],
  ])('refuses a key %s', async (_case, key) => {
    const before = await countAllRows(service.database);
    const { errors } = await post(
      service,
      alice.token,
      JSON.stringify({ query: send, variables: message('bad key') }),
      keyed(key),
    );
    expect(errors.map((error) => error.extensions)).toEqual([{ code: 'BAD_USER_INPUT', field: 'Idempotency-Key' }]);
    expect(await countAllRows(service.database)).toEqual(before);
  });
});

describe('a fault of ours', () => {
  const withTrace = { 'x-request-id': 'trace-1' };

  it('in the database is told as INTERNAL with the trace id, and leaves nothing', async () => {
    await service.database.owner('ALTER TABLE sessions RENAME COLUMN title TO heading');
    try {
      const before = await countAllRows(service.database);
      const body = JSON.stringify({ query: createSession, variables: { title: 'lost' } });
      const { status, headers, errors } = await post(service, alice.token, body, withTrace);
      expect({ status, errors }).toMatchObject({
        status: 200,
        errors: [{ path: ['createSession'], extensions: { code: 'INTERNAL', traceId: 'trace-1' } }],
      });
      expect(errors[0]?.message).not.toMatch(/title|heading|column/);
      expect(headers.get('x-request-id')).toBe('trace-1');
      expect(await countAllRows(service.database)).toEqual(before);
    } finally {
      await service.database.owner('ALTER TABLE sessions RENAME COLUMN heading TO title');
    }
    expect((await alice.ask(createSession, { title: 'found' })).errors).toEqual([]);
  });

  it('in a stored value is no fault of the request either', async () => {
    const { data } = await alice.ask(createAgent, { name: 'Broken' });
    await service.database.owner(`UPDATE agents SET temperature = 'NaN' WHERE name = 'Broken'`);
    const body = JSON.stringify({ query: `{ agent(id: "${data.createAgent.agent.id}") { temperature } }` });
    const { errors } = await post(service, alice.token, body, withTrace);
    expect(errors.map((error) => error.extensions)).toEqual([{ code: 'INTERNAL', traceId: 'trace-1' }]);
  });
});
