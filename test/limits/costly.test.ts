import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestService, type TestService } from '../service.ts';

let service: TestService;
beforeAll(async () => {
  service = await startTestService({
    worker: false,
    environment: {
      RATE_LIMIT_REQUESTS: '9',
      RATE_LIMIT_SEND: '1',
      RATE_LIMIT_INGEST: '1',
      RATE_LIMIT_SEARCH: '3',
      RATE_LIMIT_COSTLY: '1',
    },
  });
});
afterAll(() => service.stop());

const id = (type: string) => Buffer.from(`${type}:${randomUUID()}`).toString('base64url');
const agentId = `agentId: "${id('Agent')}"`;
const search = `searchMemory(${agentId}, query: "tea") { degraded }`;

const mutations: { limit: string; field: string; document: string }[] = [
  { limit: 'SEND', field: 'retryPlan', document: `(id: "${id('Plan')}") { plan { id } }` },
  { limit: 'SEND', field: 'requestAgain', document: `(id: "${id('Approval')}") { approval { id } }` },
  {
    limit: 'INGEST',
    field: 'ingestDocuments',
    document: `(input: { ${agentId}, source: "s", documents: [{ path: "p", content: "c" }] }) { __typename }`,
  },
  { limit: 'INGEST', field: 'syncSource', document: `(input: { ${agentId}, source: "s", entries: [] }) { wanted }` },
  { limit: 'INGEST', field: 'pruneMemory', document: `(input: { ${agentId}, source: "s" }) { __typename }` },
  { limit: 'COSTLY', field: 'rebuildMemory', document: `(${agentId}) { __typename }` },
  { limit: 'COSTLY', field: 'refreshMcpServer', document: `(id: "${id('McpServer')}") { __typename }` },
];

describe('a costly field', () => {
  it.each(mutations)('$field counts for $limit, whatever comes of it', async ({ limit, field, document }) => {
    const user = await service.user(field);
    const ask = () => user.ask(`mutation { ${field}${document} }`);
    const [first, second] = [await ask(), await ask()];
    expect(first.errors[0]?.extensions['code']).toBe('NOT_FOUND');
    expect(second.errors[0]?.extensions).toEqual({ code: 'RATE_LIMITED', retryAfter: expect.any(Number) });
    expect(second.errors[0]?.message).toMatch(/^You may .+ 1 .*a minute\.$/);
    const { data } = await user.ask('{ viewer { usage { rateLimits { name limit remaining } } } }');
    expect(data.viewer.usage.rateLimits).toContainEqual({ name: limit, limit: 1, remaining: 0 });
  });

  it('counts each time that a document holds it', async () => {
    const user = await service.user('searcher');
    const codes = async (document: string) =>
      (await user.ask(document)).errors.map(({ extensions }) => extensions['code']);
    expect(await codes(`{ a: ${search} b: ${search} c: ${search} }`)).not.toContain('RATE_LIMITED');
    expect(await codes(`{ ${search} }`)).toEqual(['RATE_LIMITED']);
  });

  it('says in the headers what is left of each limit that the request counted for', async () => {
    const user = await service.user('reader of headers');
    const twice = await user.ask(`{ one: ${search} other: ${search} }`);
    expect(twice.headers.get('ratelimit')).toMatch(/^"requests";r=8;t=\d+, "search";r=1;t=\d+$/);
    const cheap = await user.ask('{ viewer { id } }');
    expect(cheap.headers.get('ratelimit')).toMatch(/^"requests";r=7;t=\d+$/);
  });
});
