import { serverAudits } from 'graphql-http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestService, type TestService } from '../service.ts';

let service: TestService;
let authorization: string;

beforeAll(async () => {
  service = await startTestService({ worker: false });
  authorization = `Bearer ${(await service.user('alice')).token}`;
});
afterAll(() => service.stop());

/** The audits know nothing of tokens. */
const fetchSignedIn: typeof fetch = (input, init) =>
  fetch(input, { ...init, headers: { ...Object.fromEntries(new Headers(init?.headers)), authorization } });

// https://github.com/graphql/graphql-over-http: every audit passes, of all three strengths.
describe('GraphQL over HTTP', () => {
  const audits = serverAudits({ url: () => service.api.url, fetchFn: fetchSignedIn });

  it.each(audits.map((audit) => [audit.id, audit.name, audit] as const))('%s %s', async (_id, _name, audit) => {
    const result = await audit.fn();
    expect(result.status === 'ok' ? 'ok' : `${result.status}: ${result.reason}`).toBe('ok');
  });

  it('is audited in all three strengths', () => {
    const strengths = new Set(audits.map((audit) => audit.name.split(' ')[0]));
    expect([...strengths].toSorted()).toEqual(['MAY', 'MUST', 'SHOULD']);
    expect(audits.length).toBeGreaterThan(50);
  });
});
