import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestService, type TestService, type TestUser } from '../service.ts';
import { countAllRows, post, type Refusal } from './refusal.ts';

let service: TestService;
let alice: TestUser;
/** Ids that cases may name, by the names that they use. */
const ids: Record<string, string> = {};

beforeAll(async () => {
  service = await startTestService({ worker: false });
  alice = await service.user('alice');
  const team = await alice.ask(`{ agents(first: 2) { edges { cursor node { id name } } } }`);
  ids['agent'] = team.data.agents.edges[0].node.id;
  ids['otherAgent'] = team.data.agents.edges[1].node.id;
  ids['agentCursor'] = team.data.agents.edges[0].cursor;
  for (const name of ['session', 'expired']) {
    const { data } = await alice.ask(`mutation { createSession { session { id } } }`);
    ids[name] = data.createSession.session.id;
  }
  await service.database.owner(`UPDATE sessions SET expires_at = now() - interval '1 minute' WHERE id = $1`, [
    rowId(ids['expired'] ?? ''),
  ]);
  const sessions = await alice.ask(`{ sessions(first: 1) { edges { cursor } } }`);
  ids['sessionCursor'] = sessions.data.sessions.edges[0].cursor;
});
afterAll(() => service.stop());

const rowId = (globalId: string): string => Buffer.from(globalId, 'base64url').toString().split(':')[1] ?? '';
const encode = (text: string): string => Buffer.from(text).toString('base64url');
const someRow = '01900000-0000-7000-8000-000000000000';

/** Makes the request and asserts that it stored nothing. */
async function refuse(work: () => Promise<Refusal>): Promise<Refusal> {
  const before = await countAllRows(service.database);
  const refusal = await work();
  expect(await countAllRows(service.database)).toEqual(before);
  return refusal;
}

const createAgent = `mutation ($input: CreateAgentInput!) { createAgent(input: $input) { agent { id } } }`;
const updateAgent = `mutation ($id: ID!, $input: UpdateAgentInput!) { updateAgent(id: $id, input: $input) { agent { id } } }`;
const sendMessage = `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }`;
const listAgents = `query ($first: Int, $last: Int, $after: String, $before: String) { agents(first: $first, last: $last, after: $after, before: $before) { edges { cursor } } }`;
const listTasks = `query ($filter: TaskFilter) { tasks(filter: $filter) { edges { cursor } } }`;

describe('a variable that does not fit its type names the place at fault', () => {
  const agent = { name: 'N', instructions: 'N' };
  const cases: [string, string, Record<string, unknown>][] = [
    ['first', listAgents, { first: 'three' }],
    ['first', listAgents, { first: 1.5 }],
    ['first', listAgents, { first: 3_000_000_000 }],
    ['after', listAgents, { after: 7 }],
    ['input', createAgent, {}],
    ['input', createAgent, { input: null }],
    ['input', createAgent, { input: 'text' }],
    ['input.name', createAgent, { input: { ...agent, name: 7 } }],
    ['input.name', createAgent, { input: { ...agent, name: null } }],
    ['input.instructions', createAgent, { input: { name: 'N' } }],
    ['input.nothing', createAgent, { input: { ...agent, nothing: 1 } }],
    ['input.temperature', createAgent, { input: { ...agent, temperature: 'NaN' } }],
    ['input.temperature', createAgent, { input: { ...agent, temperature: 'at "input.name"; ' } }],
    ['input.memory.maxAgeDays', createAgent, { input: { ...agent, memory: { maxAgeDays: '1' } } }],
    ['input.memory.nothing', createAgent, { input: { ...agent, memory: { nothing: 1 } } }],
    ['input.approvalPolicy', createAgent, { input: { ...agent, approvalPolicy: 'SOMETIMES' } }],
    ['filter.states[1]', listTasks, { filter: { states: ['FAILED', 'DONE'] } }],
    ['id', updateAgent, { input: {} }],
  ];

  it.each(cases)('%s', async (field, query, variables) => {
    const { status, errors } = await refuse(() => post(service, alice.token, JSON.stringify({ query, variables })));
    expect({ status, errors: errors.map((error) => error.extensions) }).toEqual({
      status: 400,
      errors: [{ code: 'BAD_USER_INPUT', field }],
    });
  });

  it('even where JSON holds a number that is too large to be one', async () => {
    const body = JSON.stringify({ query: createAgent, variables: { input: { ...agent, temperature: 0.5 } } });
    const { errors } = await refuse(() => post(service, alice.token, body.replace('0.5', '1e999')));
    expect(errors[0]?.extensions).toEqual({ code: 'BAD_USER_INPUT', field: 'input.temperature' });
  });

  it('without repeating a large value for every fault', async () => {
    const unknown = Object.fromEntries(Array.from({ length: 60 }, (_, place) => [`unknown${place}`, 1]));
    const input = { ...unknown, name: 'n'.repeat(900_000), instructions: 7 };
    const { text, errors } = await refuse(() =>
      post(service, alice.token, JSON.stringify({ query: createAgent, variables: { input } })),
    );
    expect(errors.length).toBeGreaterThan(10);
    expect(text.length).toBeLessThan(100_000);
  });
});

describe('a value that breaks a rule names the argument', () => {
  const agent = { name: 'Fresh', instructions: 'Be fresh.' };
  const message = (input: object) => () => ({
    query: sendMessage,
    variables: { input: { sessionId: ids['session'], targetAgentId: ids['agent'], content: 'Hello', ...input } },
  });
  const created = (input: object) => () => ({ query: createAgent, variables: { input: { ...agent, ...input } } });
  const updated = (input: object) => () => ({ query: updateAgent, variables: { id: ids['otherAgent'], input } });
  const titled = (title: unknown) => () => ({
    query: `mutation ($input: CreateSessionInput) { createSession(input: $input) { session { id } } }`,
    variables: { input: { title } },
  });
  const list = (variables: object) => () => ({ query: listAgents, variables });
  const one = (field: string, id: string) => () => ({
    query: `query ($id: ID!) { ${field}(id: $id) { id } }`,
    variables: { id },
  });
  const named = (name: string) => ids[name] ?? '';

  const cases: [string, string, string, () => { query: string; variables: object }][] = [
    ['an empty message', 'BAD_USER_INPUT', 'input.content', message({ content: '' })],
    ['a message of white space', 'BAD_USER_INPUT', 'input.content', message({ content: ' \n\t\u00a0' })],
    ['a message with U+0000', 'BAD_USER_INPUT', 'input.content', message({ content: 'a\u0000b' })],
    ['a message of 100,001 bytes', 'MESSAGE_TOO_LARGE', 'input.content', message({ content: 'a'.repeat(100_001) })],
    [
      'a message of 33,334 characters of three bytes',
      'MESSAGE_TOO_LARGE',
      'input.content',
      message({ content: '€'.repeat(33_334) }),
    ],
    [
      'a message to an agent that does not exist',
      'NOT_FOUND',
      'input.targetAgentId',
      message({ targetAgentId: encode(`Agent:${someRow}`) }),
    ],
    [
      'a message to a session',
      'BAD_USER_INPUT',
      'input.targetAgentId',
      () => message({ targetAgentId: named('session') })(),
    ],
    [
      'a message in a session that does not exist',
      'NOT_FOUND',
      'input.sessionId',
      message({ sessionId: encode(`Session:${someRow}`) }),
    ],
    [
      'a message in an expired session',
      'SESSION_EXPIRED',
      'input.sessionId',
      () => message({ sessionId: named('expired') })(),
    ],
    ['a name that is too long', 'BAD_USER_INPUT', 'input.name', created({ name: 'n'.repeat(81) })],
    ['an empty name', 'BAD_USER_INPUT', 'input.name', created({ name: '  ' })],
    ['a name with a tag', 'BAD_USER_INPUT', 'input.name', created({ name: 'A <b>' })],
    ['a name of two lines', 'BAD_USER_INPUT', 'input.name', created({ name: 'A\nB' })],
    ['a name with U+0000', 'BAD_USER_INPUT', 'input.name', created({ name: 'A\u0000B' })],
    ['a name that is taken', 'NAME_TAKEN', 'input.name', created({ name: 'Researcher' })],
    ['a name that is taken in another case', 'NAME_TAKEN', 'input.name', created({ name: 'rESEARCHER' })],
    ['a name that is taken, for an agent that exists', 'NAME_TAKEN', 'input.name', updated({ name: 'researcher' })],
    ['null for the name of an agent that exists', 'BAD_USER_INPUT', 'input.name', updated({ name: null })],
    ['empty instructions', 'BAD_USER_INPUT', 'input.instructions', created({ instructions: '' })],
    [
      'instructions that are too long',
      'BAD_USER_INPUT',
      'input.instructions',
      created({ instructions: 'i'.repeat(20_001) }),
    ],
    ['instructions with U+0000', 'BAD_USER_INPUT', 'input.instructions', created({ instructions: 'a\u0000' })],
    [
      'a description that is too long',
      'BAD_USER_INPUT',
      'input.description',
      created({ description: 'd'.repeat(1_001) }),
    ],
    ['an empty model', 'BAD_USER_INPUT', 'input.model', created({ model: '' })],
    ['a temperature below 0', 'BAD_USER_INPUT', 'input.temperature', created({ temperature: -0.1 })],
    ['a temperature above 2', 'BAD_USER_INPUT', 'input.temperature', created({ temperature: 2.1 })],
    ['no task at once', 'BAD_USER_INPUT', 'input.maxConcurrentTasks', created({ maxConcurrentTasks: 0 })],
    ['eleven tasks at once', 'BAD_USER_INPUT', 'input.maxConcurrentTasks', updated({ maxConcurrentTasks: 11 })],
    ['a memory of no days', 'BAD_USER_INPUT', 'input.memory.maxAgeDays', created({ memory: { maxAgeDays: 0 } })],
    ['half a byte of memory', 'BAD_USER_INPUT', 'input.memory.maxBytes', created({ memory: { maxBytes: 0.5 } })],
    [
      'more memory than can be counted',
      'BAD_USER_INPUT',
      'input.memory.maxBytes',
      created({ memory: { maxBytes: 1e300 } }),
    ],
    ['an empty title', 'BAD_USER_INPUT', 'input.title', titled(' ')],
    ['a title that is too long', 'BAD_USER_INPUT', 'input.title', titled('t'.repeat(201))],
    ['a title with U+0000', 'BAD_USER_INPUT', 'input.title', titled('a\u0000')],
    ['null for a title', 'BAD_USER_INPUT', 'input.title', titled(null)],
    ['first: -1', 'BAD_USER_INPUT', 'first', list({ first: -1 })],
    ['first: 101', 'BAD_USER_INPUT', 'first', list({ first: 101 })],
    ['last: -1', 'BAD_USER_INPUT', 'last', list({ last: -1 })],
    ['last: 101', 'BAD_USER_INPUT', 'last', list({ last: 101 })],
    ['first and last', 'BAD_USER_INPUT', 'last', list({ first: 1, last: 1 })],
    [
      'a search that is too long',
      'BAD_USER_INPUT',
      'search',
      () => ({
        query: `query ($search: String) { sessions(search: $search) { edges { cursor } } }`,
        variables: { search: 's'.repeat(201) },
      }),
    ],
    [
      'a search with U+0000',
      'BAD_USER_INPUT',
      'search',
      () => ({
        query: `query ($search: String) { sessions(search: $search) { edges { cursor } } }`,
        variables: { search: '\u0000' },
      }),
    ],
    [
      'a filter by something else than a session',
      'BAD_USER_INPUT',
      'filter.sessionId',
      () => ({ query: listTasks, variables: { filter: { sessionId: named('agent') } } }),
    ],
    ['an id that is none', 'BAD_USER_INPUT', 'id', one('agent', 'agent-1')],
    ['an empty id', 'BAD_USER_INPUT', 'id', one('agent', '')],
    ['an id of another noun', 'BAD_USER_INPUT', 'id', () => one('agent', named('session'))()],
    ['an id with a row that is no UUID', 'BAD_USER_INPUT', 'id', one('task', encode('Task:7'))],
    ['a node of an id that is none', 'BAD_USER_INPUT', 'id', one('node', '%%%')],
    ['a node of a noun that does not exist', 'BAD_USER_INPUT', 'id', one('node', encode(`Widget:${someRow}`))],
    ['a node of a type that is no noun', 'BAD_USER_INPUT', 'id', one('node', encode(`Query:${someRow}`))],
    [
      'the deletion of an agent that does not exist',
      'NOT_FOUND',
      'id',
      () => ({
        query: `mutation ($id: ID!) { deleteAgent(id: $id) { deletedAgentId } }`,
        variables: { id: encode(`Agent:${someRow}`) },
      }),
    ],
    [
      'a change of a session that does not exist',
      'NOT_FOUND',
      'id',
      () => ({
        query: `mutation ($id: ID!) { updateSession(id: $id, input: { title: "T" }) { session { id } } }`,
        variables: { id: encode(`Session:${someRow}`) },
      }),
    ],
  ];

  it.each(cases)('%s: %s', async (_case, code, field, request) => {
    const { status, errors } = await refuse(() => post(service, alice.token, JSON.stringify(request())));
    expect({ status, errors: errors.map((error) => error.extensions) }).toEqual({
      status: 200,
      errors: [{ code, field }],
    });
  });

  it.each([
    ['of 100,000 bytes', 'a'.repeat(100_000)],
    ['of 33,333 characters of three bytes', '€'.repeat(33_333)],
    ['of one character', '.'],
  ])('but a message %s is taken whole', async (_case, content) => {
    const { data, errors } = await alice.ask(
      `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { message { content } } }`,
      message({ content })().variables as Record<string, unknown>,
    );
    expect(errors).toEqual([]);
    expect(data.sendMessage.message.content === content).toBe(true);
  });
});

describe('a cursor that is none of this list', () => {
  const time = '2026-11-21T09:30:00.000Z';
  const cursor = (...values: unknown[]): string => encode(JSON.stringify(values));
  const cases: [string, string, () => string][] = [
    ['empty', 'agents', () => ''],
    ['no base64', 'agents', () => '%%%'],
    ['no JSON', 'agents', () => encode('agents')],
    ['no list', 'agents', () => encode('{"0":"agents"}')],
    ['of another list', 'agents', () => ids['sessionCursor'] ?? ''],
    ['of the events', 'agents', () => encode('event:1')],
    ['without a place', 'agents', () => cursor('agents')],
    ['with too many places', 'agents', () => cursor('agents', someRow, someRow)],
    ['with a row that is no UUID', 'agents', () => cursor('agents', 'x')],
    ['with a number for a row', 'agents', () => cursor('agents', 7)],
    ['with SQL for a row', 'agents', () => cursor('agents', `${someRow}'; --`)],
    ['with a day that does not exist', 'sessions', () => cursor('sessions', '2026-02-31T00:00:00.000Z', someRow)],
    ['with a time in other words', 'sessions', () => cursor('sessions', 'now', someRow)],
    ['with a time beyond any calendar', 'sessions', () => cursor('sessions', '+275760-09-13T00:00:00.000Z', someRow)],
    ['with a time before any calendar', 'sessions', () => cursor('sessions', '-000001-01-01T00:00:00.000Z', someRow)],
    ['with a year that does not exist', 'sessions', () => cursor('sessions', '0000-01-01T00:00:00.000Z', someRow)],
    ['with null for a time', 'sessions', () => cursor('sessions', null, someRow)],
    ['with a time and no row', 'sessions', () => cursor('sessions', time)],
  ];

  it.each(
    cases.flatMap(([name, list, value]) => [
      [name, 'after', list, value] as const,
      [name, 'before', list, value] as const,
    ]),
  )('%s, as %s of %s', async (_name, field, list, value) => {
    const query = `query ($cursor: String) { ${list}(${field}: $cursor) { edges { cursor } } }`;
    const { errors } = await refuse(() =>
      post(service, alice.token, JSON.stringify({ query, variables: { cursor: value() } })),
    );
    expect(errors.map((error) => error.extensions)).toEqual([{ code: 'BAD_CURSOR', field }]);
  });

  it.each([1.5, -3_000_000_000, '1', null, 1e308])('with the place %s of a message', async (place) => {
    const query = `query ($id: ID!, $cursor: String) { session(id: $id) { messages(after: $cursor) { edges { cursor } } } }`;
    const variables = { id: ids['session'], cursor: cursor('messages', place) };
    const { errors } = await refuse(() => post(service, alice.token, JSON.stringify({ query, variables })));
    expect(errors.map((error) => error.extensions)).toEqual([{ code: 'BAD_CURSOR', field: 'after' }]);
  });
});
