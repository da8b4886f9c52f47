import fc from 'fast-check';
import { parse } from 'graphql';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { measureDocument } from '../../src/document-limits.ts';
import { createSchema } from '../../src/resolvers/schema.ts';
import { post, type Refusal } from '../http/refusal.ts';
import { startTestService, type TestService, type TestUser } from '../service.ts';

const schema = createSchema();
const measure = (query: string, variables: Record<string, unknown> = {}) =>
  measureDocument(schema, parse(query), null, variables);

describe('the measure of a document', () => {
  it.each([
    ['{ viewer { id } }', { depth: 2, aliases: 0, cost: 2 }],
    ['{ a: viewer { b: id c: id } }', { depth: 2, aliases: 3, cost: 3 }],
    ['{ sessions { edges { node { id } } } }', { depth: 4, aliases: 0, cost: 1 + 1 + 20 * 2 }],
    ['{ sessions(first: 3) { edges { node { id title } } } }', { depth: 4, aliases: 0, cost: 1 + 1 + 3 * 3 }],
    [
      '{ sessions(first: 3) { edges { node { messages(last: 5) { edges { node { id } } } } } } }',
      { depth: 7, aliases: 0, cost: 1 + 1 + 3 * (1 + (1 + 1 + 5 * 2)) },
    ],
    ['{ sessions(first: 1000000) { edges { node { id } } } }', { depth: 4, aliases: 0, cost: 1 + 1 + 100 * 2 }],
    ['{ ...on Query { viewer { ...U } } } fragment U on User { id }', { depth: 2, aliases: 0, cost: 2 }],
    ['{ __schema { types { name } } }', { depth: 0, aliases: 0, cost: 0 }],
    ['mutation { createSession { session { id } } }', { depth: 3, aliases: 0, cost: 13 }],
  ])('of %s', (query, expected) => {
    expect(measure(query)).toEqual(expected);
  });

  it.each([
    [{ size: 2 }, 2],
    [{}, 7],
    [{ size: null }, 20],
  ])('counts pages by variables %j', (variables, items) => {
    const query = 'query ($size: Int = 7) { sessions(first: $size) { edges { node { id } } } }';
    expect(measure(query, variables).cost).toBe(2 + items * 2);
  });

  it('takes no longer for fragments that spread each other twice, again and again', () => {
    const levels = 60;
    const fragments = Array.from(
      { length: levels },
      (_, level) =>
        `fragment F${level} on User { ${level === levels - 1 ? 'id' : `...F${level + 1} ...F${level + 1}`} }`,
    );
    const begun = performance.now();
    expect(measure(`{ viewer { ...F0 } } ${fragments.join(' ')}`).cost).toBeGreaterThan(2 ** 58);
    expect(performance.now() - begun).toBeLessThan(1_000);
  });

  it('never gets smaller when something is added', () => {
    const field = fc.constantFrom(
      'id',
      'title',
      'a: title',
      'messages { edges { cursor } }',
      'tasks(first: 9) { edges { node { id } } }',
    );
    fc.assert(
      fc.property(fc.array(field, { minLength: 1, maxLength: 6 }), field, (fields, more) => {
        const query = (selection: string[]) => `{ session(id: "x") { ${selection.join(' ')} } }`;
        const [less, all] = [measure(query(fields)), measure(query([...fields, more]))];
        expect(all.cost).toBeGreaterThan(less.cost);
        expect(all.depth).toBeGreaterThanOrEqual(less.depth);
        expect(all.aliases).toBeGreaterThanOrEqual(less.aliases);
      }),
    );
  });
});

it.each([
  { settings: { INTROSPECTION: 'true', FIELD_SUGGESTIONS: 'true' }, told: true },
  { settings: { INTROSPECTION: 'false', FIELD_SUGGESTIONS: 'false' }, told: false },
])('tells the schema and guesses names by policy only: $settings', async ({ settings, told }) => {
  const service = await startTestService({ worker: false, environment: settings });
  try {
    const alice = await service.user('alice');
    const schema = await alice.ask('{ __schema { queryType { name } } }');
    expect(schema.data?.__schema.queryType.name === 'Query').toBe(told);
    const { errors } = await alice.ask('{ viewer { ids } }');
    expect(errors[0]?.message.includes('Did you mean "id"')).toBe(told);
  } finally {
    await service.stop();
  }
});

describe('a hostile document', () => {
  let service: TestService;
  let alice: TestUser;
  beforeAll(async () => {
    service = await startTestService({
      worker: false,
      environment: {
        DOCUMENT_MAX_TOKENS: '500',
        DOCUMENT_MAX_DEPTH: '9',
        DOCUMENT_MAX_ALIASES: '10',
        DOCUMENT_MAX_COST: '3000',
        INTROSPECTION: 'false',
      },
    });
    alice = await service.user('alice');
  });
  afterAll(() => service.stop());
  const send = (query: string, variables: Record<string, unknown> = {}): Promise<Refusal> =>
    post(service, alice.token, JSON.stringify({ query, variables }));

  const nested = (levels: number): string =>
    levels === 0 ? '{ id }' : `{ messages(first: 1) { edges { node { session ${nested(levels - 1)} } } } }`;

  it.each<[what: string, query: string, limit: string]>([
    ['asks for fields within fields without end', `{ session(id: "x") ${nested(4)} }`, 'depth'],
    [
      'asks for the same field under many names',
      `{ ${Array.from({ length: 11 }, (_, n) => `a${n}: viewer { id }`).join(' ')} }`,
      'aliases',
    ],
    [
      'hides aliases in a fragment',
      `{ ...Q ...Q } fragment Q on Query { ${Array.from({ length: 6 }, (_, n) => `a${n}: viewer { id }`).join(' ')} }`,
      'aliases',
    ],
    [
      'asks for pages within pages',
      '{ sessions(first: 100) { edges { node { messages(first: 100) { edges { node { id } } } } } } }',
      'cost',
    ],
    ['is longer than anybody writes', `{ ${'viewer { id } '.repeat(200)} }`, 'tokens'],
    ['repeats a directive', `{ viewer { id ${'@include(if: true) '.repeat(100)} } }`, 'tokens'],
  ])('that %s is refused before anything runs', async (_what, query, limit) => {
    const refusal = await send(query);
    expect(refusal.status).toBe(400);
    expect(refusal.errors).toHaveLength(1);
    expect(refusal.errors[0]?.extensions).toMatchObject({ code: 'OPERATION_TOO_COMPLEX', limit: { name: limit } });
    expect(refusal.text).not.toContain('"data"');
  });

  it('is refused again from the cache, and so is one whose variables ask too much', async () => {
    const query =
      'query ($a: Int, $b: Int) { sessions(first: $a) { edges { node { messages(first: $b) { edges { cursor } } } } } }';
    expect((await send(query, { a: 2, b: 2 })).status).toBe(200);
    expect((await send(query, { a: 100, b: 100 })).errors[0]?.extensions).toMatchObject({
      code: 'OPERATION_TOO_COMPLEX',
    });
    expect((await send(query, { a: 2, b: 2 })).status).toBe(200);
  });

  it('is refused as a subscription too', async () => {
    const aliases = Array.from({ length: 11 }, (_, n) => `a${n}: __typename`).join(' ');
    const refusal = await post(
      service,
      alice.token,
      JSON.stringify({ query: `subscription { events { ${aliases} } }` }),
    );
    expect(refusal.errors[0]?.extensions).toMatchObject({ code: 'OPERATION_TOO_COMPLEX', limit: { name: 'aliases' } });
  });

  it('learns nothing of the schema: no introspection, and no guesses of names', async () => {
    const introspection = await send('{ __schema { types { name } } }');
    expect(introspection.errors[0]?.extensions).toEqual({ code: 'GRAPHQL_VALIDATION_FAILED' });
    const guess = await send('{ viewer { ids } }');
    expect(guess.errors[0]?.message).toBe('Cannot query field "ids" on type "User".');
    const value = await send(
      'query ($states: [TaskState!]) { tasks(filter: { states: $states }) { edges { cursor } } }',
      { states: ['QUEUE'] },
    );
    expect(value.text).not.toContain('Did you mean');
  });

  it('may not come in a batch', async () => {
    const refusal = await post(
      service,
      alice.token,
      JSON.stringify([{ query: '{ viewer { id } }' }, { query: '{ viewer { id } }' }]),
    );
    expect(refusal.status).toBe(400);
    expect(refusal.errors[0]?.extensions['code']).toBe('BAD_REQUEST');
  });
});
