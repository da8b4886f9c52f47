import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestService, type TestService, type TestUser } from '../service.ts';

let service: TestService;
let alice: TestUser;

beforeAll(async () => {
  service = await startTestService({ worker: false });
  alice = await service.user('alice');
});
afterAll(() => service?.stop());

const fields = `id name description kind arguments dangerous approvalPolicy approvalTimeoutSeconds timeoutSeconds builtIn
  http { method url headers { name value } body resultPointer idempotencyHeader } available secretNames`;
const create = `mutation ($input: CreateToolInput!) { createTool(input: $input) { tool { ${fields} } } }`;
const update = `mutation ($id: ID!, $input: UpdateToolInput!) { updateTool(id: $id, input: $input) { tool { ${fields} } } }`;
const read = `query ($id: ID!) { tool(id: $id) { ${fields} } }`;

let made = 0;
const http = (rest: object = {}) => {
  made += 1;
  return { name: `tool_${made}`, description: 'A tool.', http: { url: 'https://api.example.com/a' }, ...rest };
};
const add = async (input: object) => (await alice.ask(create, { input })).data.createTool.tool;
const refusal = (code: string, field: string) =>
  expect.objectContaining({ extensions: expect.objectContaining({ code, field }) });

describe('a new tool', () => {
  it('of HTTP has safe defaults', async () => {
    const input = http();
    expect(await add(input)).toMatchObject({
      name: input.name,
      kind: 'HTTP',
      arguments: { type: 'object', properties: {}, additionalProperties: false },
      dangerous: true,
      approvalPolicy: null,
      timeoutSeconds: 30,
      builtIn: null,
      http: {
        method: 'GET',
        url: 'https://api.example.com/a',
        headers: [],
        body: null,
        resultPointer: '',
        idempotencyHeader: 'Idempotency-Key',
      },
      available: true,
      secretNames: [],
    });
  });

  it('keeps all that it is given, and of its secrets tells the names', async () => {
    const input = http({
      arguments: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
      dangerous: false,
      approvalPolicy: 'ALWAYS',
      approvalTimeoutSeconds: 60,
      timeoutSeconds: 7,
      http: {
        method: 'POST',
        url: 'https://api.example.com/{{city}}',
        headers: [{ name: 'Authorization', value: 'Bearer {{secrets.TOKEN}}' }],
        body: { q: '{{city}}' },
        resultPointer: '/a',
        idempotencyHeader: null,
      },
    });
    const tool = await add({ ...input, secrets: [{ name: 'TOKEN', value: 'hush hush' }] });
    expect(tool).toMatchObject({ ...input, secretNames: ['TOKEN'] });
    expect((await alice.ask(read, { id: tool.id })).data.tool).toEqual(tool);
  });

  it('that is built in brings its own words and arguments', async () => {
    const { data } = await alice.ask('{ builtInTools { name description arguments dangerous } }');
    expect(data.builtInTools.map((tool: { name: string }) => tool.name)).toEqual(
      expect.arrayContaining(['current_time', 'calculate', 'fetch_page', 'ask_agent']),
    );
    const [first] = data.builtInTools;
    expect(await add({ builtIn: first.name, name: 'mine' })).toMatchObject({
      ...first,
      name: 'mine',
      kind: 'BUILT_IN',
      builtIn: first.name,
      http: null,
    });
  });

  it.each<[string, object, string]>([
    ['nothing to do', { http: undefined }, 'input.http'],
    ['an unknown built-in tool', { http: undefined, builtIn: 'shell' }, 'input.builtIn'],
    ['two kinds', { builtIn: 'calculate' }, 'input.http'],
    ['no name', { name: undefined }, 'input.name'],
    ['a name that models do not take', { name: 'my tool' }, 'input.name'],
    ['a name that begins with a digit', { name: '1tool' }, 'input.name'],
    ['a name like that of an MCP server', { name: 'server__tool' }, 'input.name'],
    ['a long name', { name: 'a'.repeat(65) }, 'input.name'],
    ['no description', { description: ' ' }, 'input.description'],
    ['U+0000 in its description', { description: 'a\u0000' }, 'input.description'],
    ['a schema that is none', { arguments: { type: 'text' } }, 'input.arguments'],
    [
      'a schema that leads out',
      { arguments: { type: 'object', properties: { a: { $ref: 'https://x.example/' } } } },
      'input.arguments',
    ],
    [
      'a schema with a hostile pattern',
      { arguments: { type: 'object', properties: { a: { pattern: '(a+)+$' } } } },
      'input.arguments',
    ],
    ['no time', { timeoutSeconds: 0 }, 'input.timeoutSeconds'],
    ['more time than the guard gives', { timeoutSeconds: 31 }, 'input.timeoutSeconds'],
    ['an address inside', { http: { url: 'https://127.0.0.1/' } }, 'input.http.url'],
    ['an address inside in disguise', { http: { url: 'https://0x7f.1/{{a}}' } }, 'input.http.url'],
    ['no https', { http: { url: 'http://example.com/' } }, 'input.http.url'],
    ['a host by argument', { http: { url: 'https://{{host}}/' } }, 'input.http.url'],
    ['an argument that its schema does not have', { http: { url: 'https://example.com/{{a}}' } }, 'input.http.url'],
    [
      'a password in the open',
      { http: { url: 'https://example.com/', headers: [{ name: 'X-API-Key', value: 'abc' }] } },
      'input.http.headers.0.value',
    ],
    ['a text as content', { http: { url: 'https://example.com/', body: 'text' } }, 'input.http.body'],
    ['a secret without a good name', { secrets: [{ name: 'a-b', value: 'hush hush' }] }, 'input.secrets.0.name'],
    ['a secret that breaks lines', { secrets: [{ name: 'A', value: 'hush\r\nhush' }] }, 'input.secrets.0.value'],
    ['a secret that is hardly one', { secrets: [{ name: 'A', value: 'abc' }] }, 'input.secrets.0.value'],
    [
      'one secret twice',
      {
        secrets: [
          { name: 'A', value: 'hush hush' },
          { name: 'A', value: 'hush hush' },
        ],
      },
      'input.secrets',
    ],
  ])('is refused with %s, and nothing is stored', async (_what, change, field) => {
    const count = async () => (await service.database.owner('SELECT count(*)::int AS count FROM tools'))[0];
    const before = await count();
    const { errors } = await alice.ask(create, { input: http(change) });
    expect(errors).toEqual([refusal('BAD_USER_INPUT', field)]);
    expect(await count()).toEqual(before);
  });

  it('tells where its schema is at fault', async () => {
    const schema = { type: 'object', properties: { a: { type: 'string', pattern: '^(x*)*$' } } };
    const { errors } = await alice.ask(create, { input: http({ arguments: schema }) });
    expect(errors[0]?.message).toMatch(/^`arguments` at \/properties\/a\/pattern: could take endless time/);
  });

  it('has a name of its own, whatever its case', async () => {
    const tool = await add(http());
    const { errors } = await alice.ask(create, { input: http({ name: tool.name.toUpperCase() }) });
    expect(errors).toEqual([refusal('NAME_TAKEN', 'input.name')]);
  });
});

describe('a change of a tool', () => {
  it('changes what it names and leaves the rest', async () => {
    const tool = await add(
      http({
        secrets: [
          { name: 'A', value: 'hush hush' },
          { name: 'B', value: 'hush hush' },
        ],
      }),
    );
    const input = {
      description: 'Better.',
      dangerous: false,
      secrets: [
        { name: 'B', value: null },
        { name: 'C', value: 'hush hush' },
      ],
    };
    const { data } = await alice.ask(update, { id: tool.id, input });
    expect(data.updateTool.tool).toEqual({
      ...tool,
      description: 'Better.',
      dangerous: false,
      secretNames: ['A', 'C'],
    });
  });

  it.each<[string, object]>([
    ['another host', { http: { url: 'https://evil.example/' } }],
    ['another port', { http: { url: 'https://api.example.com:8443/' } }],
    [
      'another host with some of its secrets',
      { http: { url: 'https://evil.example/' }, secrets: [{ name: 'A', value: 'hush hush' }] },
    ],
  ])('does not take secrets to %s', async (_what, input) => {
    const tool = await add(http({ secrets: ['A', 'B'].map((name) => ({ name, value: 'hush hush' })) }));
    expect((await alice.ask(update, { id: tool.id, input })).errors).toEqual([
      refusal('BAD_USER_INPUT', 'input.http.url'),
    ]);
    expect((await alice.ask(read, { id: tool.id })).data.tool).toEqual(tool);
  });

  it('may go to another host when its secrets are given anew or taken away', async () => {
    const tool = await add(http({ secrets: ['A', 'B'].map((name) => ({ name, value: 'hush hush' })) }));
    const secrets = [
      { name: 'A', value: 'other hush' },
      { name: 'B', value: null },
    ];
    const { errors, data } = await alice.ask(update, {
      id: tool.id,
      input: { http: { url: 'https://other.example/' }, secrets },
    });
    expect(errors).toEqual([]);
    expect(data.updateTool.tool.secretNames).toEqual(['A']);
  });

  it.each<[string, object, object, string]>([
    ['kind', {}, { http: { url: 'https://example.com/' } }, 'input.http'],
    ['arguments', {}, { arguments: { type: 'object' } }, 'input.arguments'],
    ['secrets', {}, { secrets: [] }, 'input.secrets'],
  ])('leaves a built-in tool its %s', async (_what, _before, input, field) => {
    const { data } = await alice.ask('{ tools(first: 100) { edges { node { id builtIn } } } }');
    const builtIn = data.tools.edges.find(({ node }: { node: { builtIn: string | null } }) => node.builtIn !== null);
    expect((await alice.ask(update, { id: builtIn.node.id, input })).errors).toEqual([
      refusal('BAD_USER_INPUT', field),
    ]);
  });

  it('keeps places and schema together', async () => {
    const tool = await add(
      http({
        arguments: { type: 'object', properties: { city: {} } },
        http: { url: 'https://api.example.com/{{city}}' },
      }),
    );
    const { errors } = await alice.ask(update, { id: tool.id, input: { arguments: { type: 'object' } } });
    expect(errors).toEqual([refusal('BAD_USER_INPUT', 'input.http.url')]);
  });

  it('deletes it, also from its agents', async () => {
    const tool = await add(http());
    const agent = await alice.ask(
      'mutation ($ids: [ID!]) { createAgent(input: { name: "Short", instructions: "x", toolIds: $ids }) { agent { id tools { edges { node { id } } } } } }',
      { ids: [tool.id] },
    );
    expect(agent.data.createAgent.agent.tools.edges).toEqual([{ node: { id: tool.id } }]);
    const deleted = await alice.ask('mutation ($id: ID!) { deleteTool(id: $id) { deletedToolId } }', { id: tool.id });
    expect(deleted.data.deleteTool).toEqual({ deletedToolId: tool.id });
    const { data } = await alice.ask('query ($id: ID!) { agent(id: $id) { tools { edges { node { id } } } } }', {
      id: agent.data.createAgent.agent.id,
    });
    expect(data.agent.tools.edges).toEqual([]);
    expect((await alice.ask(read, { id: tool.id })).data.tool).toBeNull();
  });
});

describe("an agent's tools", () => {
  const names = 'tools(first: 100) { edges { node { name } } }';
  const move = (mutation: string) =>
    `mutation ($agentId: ID!, $toolId: ID!) { ${mutation}(agentId: $agentId, toolId: $toolId) { agent { ${names} } tool { id } } }`;
  const namesOf = (agent: { tools: { edges: { node: { name: string } }[] } }) =>
    agent.tools.edges.map(({ node }) => node.name);

  it('are given and taken one by one, each once, or set all at once', async () => {
    const [one, two] = [await add(http()), await add(http())];
    const created = await alice.ask(
      'mutation { createAgent(input: { name: "Handy", instructions: "x" }) { agent { id } } }',
    );
    const agentId = created.data.createAgent.agent.id;
    for (const tool of [one, one, two]) {
      expect((await alice.ask(move('attachTool'), { agentId, toolId: tool.id })).errors).toEqual([]);
    }
    const taken = await alice.ask(move('detachTool'), { agentId, toolId: one.id });
    expect(namesOf(taken.data.detachTool.agent)).toEqual([two.name]);
    const set = `mutation ($id: ID!, $ids: [ID!]) { updateAgent(id: $id, input: { toolIds: $ids }) { agent { ${names} } } }`;
    const both = await alice.ask(set, { id: agentId, ids: [two.id, one.id, one.id] });
    expect(namesOf(both.data.updateAgent.agent)).toEqual([one.name, two.name]);
    const none = await alice.ask(set, { id: agentId, ids: [] });
    expect(namesOf(none.data.updateAgent.agent)).toEqual([]);
  });

  it('are at most 64', async () => {
    const created = await alice.ask(
      'mutation { createAgent(input: { name: "Laden", instructions: "x" }) { agent { id } } }',
    );
    const agentId = created.data.createAgent.agent.id;
    const ids: string[] = [];
    for (let number = 0; number < 65; number += 1) {
      ids.push((await add(http())).id);
    }
    const set = 'mutation ($id: ID!, $ids: [ID!]) { updateAgent(id: $id, input: { toolIds: $ids }) { agent { id } } }';
    expect((await alice.ask(set, { id: agentId, ids })).errors).toEqual([refusal('BAD_USER_INPUT', 'input.toolIds')]);
    expect((await alice.ask(set, { id: agentId, ids: ids.slice(1) })).errors).toEqual([]);
    const { errors } = await alice.ask(move('attachTool'), { agentId, toolId: ids[0] });
    expect(errors[0]?.extensions).toMatchObject({ code: 'QUOTA_EXCEEDED' });
    expect(JSON.stringify(errors[0]?.extensions)).toContain('agentTools');
  });

  it('answer each list in one statement, whatever the number of agents', async () => {
    const { errors, data } = await alice.ask(`{ agents(first: 20) { edges { node { ${names} } } } }`);
    expect(errors).toEqual([]);
    expect(data.agents.edges.length).toBeGreaterThan(2);
  });
});

describe('a secret', () => {
  it('is stored encrypted, and no answer, row or repetition of the request shows it', async () => {
    const value = 'a-very-telling-value';
    const key = { 'idempotency-key': 'with-a-secret' };
    const input = http({ secrets: [{ name: 'TOKEN', value }] });
    const answer = await alice.ask(create, { input }, key);
    const again = await alice.ask(create, { input }, key);
    expect(again.data).toEqual(answer.data);
    const failed = await alice.ask(create, { input: { ...input, secrets: [{ name: 'TOKEN', value: `${value}\n` }] } });
    expect(failed.errors).toHaveLength(1);
    const rows = await service.database.owner(`
      SELECT to_jsonb(tools)::text || encode(secrets, 'escape') || encode(secrets, 'base64') AS row FROM tools WHERE secrets IS NOT NULL
      UNION ALL SELECT to_jsonb(idempotency_keys)::text FROM idempotency_keys
      UNION ALL SELECT to_jsonb(events)::text FROM events`);
    const told = JSON.stringify([answer, again, failed, rows]);
    expect(told).not.toContain(value);
    expect(told).not.toContain(Buffer.from(value).toString('base64').slice(0, 20));
  });
});

describe('without a key for secrets', () => {
  it('tools are made, but none with secrets', async () => {
    const bare = await startTestService({ worker: false, environment: { SECRET_KEYS: '' } });
    try {
      const user = await bare.user('bob');
      expect((await user.ask(create, { input: http() })).errors).toEqual([]);
      const { errors } = await user.ask(create, { input: http({ secrets: [{ name: 'A', value: 'hush hush' }] }) });
      expect(errors[0]?.extensions).toEqual({ code: 'SECRETS_UNAVAILABLE' });
    } finally {
      await bare.stop();
    }
  });
});
