import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestService, type TestService, type TestUser } from '../service.ts';
import { countAllRows, post, type Refusal, readRefusal } from './refusal.ts';

let service: TestService;
let alice: TestUser;

beforeAll(async () => {
  service = await startTestService({ worker: false });
  alice = await service.user('alice');
  await alice.ask('{ viewer { id } }');
});
afterAll(() => service.stop());

/** Makes the request and asserts that it stored nothing. */
async function refuse(work: () => Promise<Refusal>): Promise<Refusal> {
  const before = await countAllRows(service.database);
  const refusal = await work();
  expect(await countAllRows(service.database)).toEqual(before);
  return refusal;
}

describe('a request that is no GraphQL request', () => {
  const query = '{ viewer { id } }';
  const json = { 'content-type': 'application/json' };
  const cases: [string, { status: number; body?: string; method?: string; headers?: object; path?: string }][] = [
    ['with a body that is no JSON', { status: 400, body: '{"query": "{ secret' }],
    ['with an empty body', { status: 400, body: '' }],
    ['with a number', { status: 400, body: '4' }],
    ['with a text', { status: 400, body: '"{ viewer { id } }"' }],
    ['with null', { status: 400, body: 'null' }],
    ['with a list of requests', { status: 400, body: JSON.stringify([{ query }, { query }]) }],
    ['without a query', { status: 400, body: '{}' }],
    ['with a query that is no text', { status: 400, body: '{"query": {}}' }],
    ['with variables that are no object', { status: 400, body: JSON.stringify({ query, variables: [1] }) }],
    ['with a member that GraphQL does not know', { status: 400, body: JSON.stringify({ query, id: 1 }) }],
    ['naming an operation that it lacks', { status: 400, body: JSON.stringify({ query, operationName: 'Other' }) }],
    [
      'with two operations and no choice',
      { status: 400, body: JSON.stringify({ query: 'query A { viewer { id } } query B { viewer { id } }' }) },
    ],
    ['as plain text', { status: 415, body: JSON.stringify({ query }), headers: { 'content-type': 'text/plain' } }],
    [
      'as a form with files',
      { status: 415, body: 'x', headers: { 'content-type': 'multipart/form-data; boundary=x' } },
    ],
    ['for an image', { status: 406, body: JSON.stringify({ query }), headers: { ...json, accept: 'image/png' } }],
    [
      'for a subscription as plain JSON',
      {
        status: 406,
        body: JSON.stringify({ query: 'subscription { events { cursor } }' }),
        headers: { ...json, accept: 'application/json' },
      },
    ],
    ['by PUT', { status: 405, method: 'PUT', body: JSON.stringify({ query }) }],
    [
      'by GET with a mutation',
      {
        status: 405,
        method: 'GET',
        path: `?query=${encodeURIComponent('mutation { createSession { session { id } } }')}`,
      },
    ],
  ];

  it.each(cases)('%s', async (_case, { status, body, method = 'POST', headers = json, path = '' }) => {
    const { status: actual, errors } = await refuse(async () =>
      readRefusal(
        await fetch(service.api.url + path, {
          method,
          headers: { accept: 'application/graphql-response+json', authorization: `Bearer ${alice.token}`, ...headers },
          ...(body === undefined ? {} : { body }),
        }),
      ),
    );
    expect({ status: actual, errors }).toEqual({
      status,
      errors: [{ message: expect.any(String), extensions: { code: 'BAD_REQUEST' } }],
    });
    expect(errors[0]?.message).not.toContain('secret');
  });

  it('to another path ends with NOT_FOUND', async () => {
    const { status, errors } = await readRefusal(await fetch(new URL('/graphiql', service.api.url)));
    expect({ status, code: errors[0]?.extensions['code'] }).toEqual({ status: 404, code: 'NOT_FOUND' });
  });

  it.each([1_100_000, 8_000_000])('of %i bytes is refused before it is read', async (size) => {
    const { status, errors } = await refuse(() => post(service, alice.token, 'x'.repeat(size)));
    expect({ status, code: errors[0]?.extensions['code'] }).toEqual({ status: 413, code: 'PAYLOAD_TOO_LARGE' });
  });

  it('of unknown length is refused before it is read', async () => {
    const { statusCode, text } = await sendChunked(service.api.url, alice.token);
    expect(statusCode).toBe(411);
    expect(JSON.parse(text)).toEqual({
      errors: [{ message: expect.any(String), extensions: { code: 'BAD_REQUEST' } }],
    });
  });
});

async function sendChunked(url: string, token: string): Promise<{ statusCode: number | undefined; text: string }> {
  const sent = request(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${token}`, 'transfer-encoding': 'chunked' },
  });
  sent.write('{"query":"{ viewer { id } }"}');
  sent.end();
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  let text = '';
  for await (const part of response) {
    text += String(part);
  }
  return { statusCode: response.statusCode, text };
}

describe('a document that does not fit the schema', () => {
  const cases: [string, string, string][] = [
    ['a syntax error', '{ viewer { id }', 'GRAPHQL_PARSE_FAILED'],
    ['no operation', '# nothing', 'GRAPHQL_PARSE_FAILED'],
    ['an unknown field', '{ viewer { password } }', 'GRAPHQL_VALIDATION_FAILED'],
    ['an unknown argument', '{ agents(limit: 3) { edges { cursor } } }', 'GRAPHQL_VALIDATION_FAILED'],
    [
      'an unknown member of an input',
      'mutation { createSession(input: { name: "x" }) { session { id } } }',
      'GRAPHQL_VALIDATION_FAILED',
    ],
    ['a missing argument', '{ agent { id } }', 'GRAPHQL_VALIDATION_FAILED'],
    ['null for a required argument', '{ agent(id: null) { id } }', 'GRAPHQL_VALIDATION_FAILED'],
    ['a literal of another type', '{ agents(first: "three") { edges { cursor } } }', 'GRAPHQL_VALIDATION_FAILED'],
    [
      'a number that is none',
      'mutation { createAgent(input: { name: "N", instructions: "N", temperature: NaN }) { agent { id } } }',
      'GRAPHQL_VALIDATION_FAILED',
    ],
    ['a variable that is not declared', '{ agents(first: $first) { edges { cursor } } }', 'GRAPHQL_VALIDATION_FAILED'],
    [
      'an enum value that does not exist',
      '{ tasks(filter: { states: [DONE] }) { edges { cursor } } }',
      'GRAPHQL_VALIDATION_FAILED',
    ],
    ['a leaf with members', '{ viewer { id { x } } }', 'GRAPHQL_VALIDATION_FAILED'],
  ];

  it.each(cases)('with %s', async (_case, query, code) => {
    const { status, errors } = await refuse(() => post(service, alice.token, JSON.stringify({ query })));
    expect({ status, codes: errors.map((error) => error.extensions) }).toEqual({ status: 400, codes: [{ code }] });
  });

  it('is answered with 200 where the client takes application/json only', async () => {
    const { status, errors } = await post(service, alice.token, '{"query":"{ nothing }"}', {
      accept: 'application/json',
    });
    expect({ status, code: errors[0]?.extensions['code'] }).toEqual({ status: 200, code: 'GRAPHQL_VALIDATION_FAILED' });
  });
});
