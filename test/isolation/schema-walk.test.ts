import { buildSchema, extendSchema, parse } from 'graphql';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createSchema } from '../../src/resolvers/schema.ts';
import { encodeId } from '../../src/schema/builder.ts';
import { inventCursor, tryForeignValue, tryOwnValue } from './foreign-value.ts';
import { idCases, streamPlaces } from './id-cases.ts';
import { findIdPlaces, findNouns } from './id-places.ts';
import { type Neighbour, type Neighbourhood, openNeighbourhood } from './neighbourhood.ts';

let neighbourhood: Neighbourhood;
let alice: Neighbour;

beforeAll(async () => {
  neighbourhood = await openNeighbourhood();
  alice = await neighbourhood.newcomer('alice');
});
afterAll(() => neighbourhood?.stop());

describe('the table of cases', () => {
  const covered = [...Object.keys(idCases), ...streamPlaces].sort();

  it('covers every place of the schema where a caller may name a thing', () => {
    expect(findIdPlaces(createSchema())).toEqual(covered);
  });

  it('has a thing of every noun to try', () => {
    expect(Object.keys(alice.world.ids).sort()).toEqual(findNouns(createSchema()));
  });

  it.each([
    ['an argument of a query', 'extend type Query { sketch(planId: ID!): Agent }', 'Query.sketch(planId)'],
    ['an argument of a mutation', 'extend type Mutation { shareAgent(id: ID): Agent }', 'Mutation.shareAgent(id)'],
    [
      'an argument of a subscription',
      'extend type Subscription { sketch(id: ID!): Agent! }',
      'Subscription.sketch(id)',
    ],
    ['an argument of a field below', 'extend type Agent { tasks(sessionId: ID): Int }', 'Agent.tasks(sessionId)'],
    ['a list', 'extend type Query { many(ids: [ID!]!): Int }', 'Query.many(ids)'],
    [
      'a member of an input',
      'extend input CreateAgentInput { friendIds: [ID!] }',
      'Mutation.createAgent(input.friendIds)',
    ],
    [
      'a member of an input in an input that holds itself',
      'input Deep { deeper: [Deep!] toolId: ID } extend input AgentMemorySettingsInput { deep: Deep }',
      'Mutation.updateAgent(input.memory.deep.toolId)',
    ],
    ['a cursor', 'extend type Agent { notes(first: Int, after: String): Int }', 'Agent.notes(after)'],
    ['a search', 'extend type Query { memory(search: String!): Int }', 'Query.memory(search)'],
  ])('is found to miss %s that is new', (_what, extension, place) => {
    const places = findIdPlaces(extendSchema(createSchema(), parse(extension)));
    expect(places.filter((found) => !covered.includes(found))).toContain(place);
  });

  it('needs nothing for a schema in which nothing can be named', () => {
    expect(findIdPlaces(buildSchema('type Query { hello(name: String): String }'))).toEqual([]);
  });
});

describe("another user's value", () => {
  it.each(Object.entries(idCases))('is answered as a made-up one, and changes nothing: %s', async (place, idCase) => {
    const bob = await neighbourhood.newcomer('bob');
    const trial = neighbourhood.trial(bob, alice);
    expect(await tryForeignValue(place, idCase, trial)).toEqual([]);
    // The case is a fair one: to an owner it gives something.
    expect(await tryOwnValue(place, idCase, trial)).toEqual([]);
  });

  it('is made up in the shape of a real one where it is a cursor', () => {
    const cursor = Buffer.from('["agents","01a1fc36-7ce8-70c6-b409-82eac1b10aa5"]').toString('base64url');
    const invented = Buffer.from(inventCursor(cursor), 'base64url').toString();
    expect(invented).toMatch(/^\["agents","01a1fc36-7ce8-70c6-b409-[0-9a-f]{12}"\]$/);
    expect(invented).not.toContain('82eac1b10aa5');
  });
});

describe('the id of another noun', () => {
  const ofOneNoun = Object.entries(idCases).filter(([, { takes }]) => typeof takes === 'string' && takes !== 'Node');

  it.each(ofOneNoun)('is refused as input, and the field is named: %s', async (place, { takes, document, own }) => {
    const bob = await neighbourhood.newcomer('bob');
    const field = /\((.+)\)/.exec(place)?.[1];
    // Each field that takes the value refuses it; the first place is where the document declares it.
    const uses = document.split('$value').length - 2;
    for (const { world } of [alice, bob]) {
      for (const [noun, value] of Object.entries(world.ids).filter(([name]) => name !== takes)) {
        const { errors } = await bob.ask(document, { ...own?.(bob.world), value });
        expect(
          errors.map(({ extensions }) => extensions),
          noun,
        ).toEqual(Array.from({ length: uses }, () => ({ code: 'BAD_USER_INPUT', field })));
      }
    }
  });

  it('is refused where any noun may stand but there is no such noun', async () => {
    const value = encodeId('Worker', '01a1fc36-7ce8-70c6-b409-82eac1b10aa5');
    const { errors } = await alice.ask('query ($value: ID!) { node(id: $value) { id } }', { value });
    expect(errors.map(({ extensions }) => extensions)).toEqual([{ code: 'BAD_USER_INPUT', field: 'id' }]);
  });
});

describe("another user's Idempotency-Key", () => {
  const create = `mutation ($name: String!) {
    createAgent(input: { name: $name, instructions: "x" }) { agent { id name } } }`;

  it.each([
    ['for the same request', 'Ada', 'Ada'],
    ['for another request', 'Eve', 'Grace'],
  ])('is a fresh one %s', async (_what, theirs, own) => {
    const bob = await neighbourhood.newcomer('bob');
    const carol = await neighbourhood.newcomer('carol');
    const key = { 'idempotency-key': `key-for-${own}` };
    const first = await carol.ask(create, { name: theirs }, key);
    const second = await bob.ask(create, { name: own }, key);
    expect(second.errors).toEqual([]);
    expect(second.data.createAgent.agent.name).toBe(own);
    expect(second.data.createAgent.agent.id).not.toBe(first.data.createAgent.agent.id);
    // Both go on to mean what they meant to their own user.
    expect((await carol.ask(create, { name: theirs }, key)).data).toEqual(first.data);
    expect((await bob.ask(create, { name: own }, key)).data).toEqual(second.data);
  });
});
