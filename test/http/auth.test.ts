import { base64url, exportSPKI, importJWK } from 'jose';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { createLog } from '../../src/adapters/log.ts';
import { startApi } from '../../src/app.ts';
import { type Authenticate, createAuthenticator } from '../../src/auth.ts';
import { createTestUser, startTestService, type TestService } from '../service.ts';
import {
  audience,
  createSigningKey,
  type IdentityProvider,
  issuer,
  type SigningKey,
  signToken,
  startIdentityProvider,
} from './identity-provider.ts';

let provider: IdentityProvider;
let service: TestService;
let rsa: SigningKey;
let elliptic: SigningKey;
const log = createLog({ level: 'silent' });

beforeAll(async () => {
  provider = await startIdentityProvider();
  rsa = await createSigningKey('RS256', 'rsa-1');
  elliptic = await createSigningKey('ES256', 'elliptic-1');
  provider.publish(rsa, elliptic);
  service = await startTestService({
    worker: false,
    environment: {
      TOKEN_PUBLIC_KEY: '',
      TOKEN_JWKS_URL: provider.url,
      TOKEN_ISSUER: issuer,
      TOKEN_AUDIENCE: audience,
      TOKEN_JWKS_COOLDOWN: '1',
    },
  });
});
afterAll(async () => {
  await service.stop();
  await provider.stop();
});
beforeEach(() => provider.publish(rsa, elliptic));

interface Answer {
  status: number;
  headers: Headers;
  body: { data?: unknown; errors?: { message: string; extensions: Record<string, unknown> }[] };
}

async function ask(authorization: string | null, url = service.api.url, query = '{ viewer { id } }'): Promise<Answer> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(authorization === null ? {} : { authorization }) },
    body: JSON.stringify({ query }),
  });
  return { status: response.status, headers: response.headers, body: (await response.json()) as Answer['body'] };
}

async function countRows(table: string): Promise<number> {
  const [row] = await service.database.owner(`SELECT count(*)::int AS rows FROM ${table}`);
  return Number(row?.['rows']);
}

const soon = (seconds: number): number => Math.floor(Date.now() / 1_000) + seconds;

describe('a token that is accepted', () => {
  it.each(['RS256', 'ES256'] as const)('is signed with %s by a published key', async (algorithm) => {
    const token = await (algorithm === 'RS256' ? rsa : elliptic).sign(`accepted ${algorithm}`);
    expect(await ask(`Bearer ${token}`)).toMatchObject({ status: 200, body: { data: { viewer: {} } } });
  });

  it('names the same user each time', async () => {
    const first = await ask(`Bearer ${await rsa.sign('regular')}`);
    const second = await ask(`bearer ${await elliptic.sign('regular')}`);
    expect(second.body.data).toEqual(first.body.data);
  });

  it('may name one audience of several', async () => {
    const token = await rsa.sign('several', { aud: ['other', audience] });
    expect((await ask(`Bearer ${token}`)).status).toBe(200);
  });
});

describe('a token that is refused', () => {
  const tampered = async (): Promise<string> => {
    const [header, , signature] = (await rsa.sign('mallory')).split('.');
    const payload = base64url.encode(JSON.stringify({ iss: issuer, aud: audience, sub: 'victim', exp: soon(600) }));
    return `Bearer ${header}.${payload}.${signature}`;
  };
  const unsigned = (): string => {
    const parts = [{ alg: 'none' }, { iss: issuer, aud: audience, sub: 'mallory', exp: soon(600) }];
    return `Bearer ${parts.map((part) => base64url.encode(JSON.stringify(part))).join('.')}.`;
  };
  const publicKeyAsSecret = async (): Promise<string> => {
    const pem = await exportSPKI((await importJWK(rsa.publicKey, 'RS256')) as CryptoKey);
    return `Bearer ${await signToken(new TextEncoder().encode(pem), { alg: 'HS256', kid: 'rsa-1' }, 'mallory')}`;
  };
  const bearer = async (token: Promise<string>): Promise<string> => `Bearer ${await token}`;

  const cases: [string, () => string | null | Promise<string>][] = [
    ['of another issuer', () => bearer(rsa.sign('mallory', { iss: 'https://other.example' }))],
    ['for another audience', () => bearer(rsa.sign('mallory', { aud: 'other' }))],
    ['that has expired', () => bearer(rsa.sign('mallory', { exp: soon(-10) }))],
    ['without an expiry', () => bearer(rsa.sign('mallory', { exp: undefined }))],
    ['that is not valid yet', () => bearer(rsa.sign('mallory', { nbf: soon(60) }))],
    ['without a subject', () => bearer(rsa.sign(undefined))],
    ['with an empty subject', () => bearer(rsa.sign(''))],
    ['with a subject that can not be stored', () => bearer(rsa.sign('mallory\u0000'))],
    ['with a subject that is too long', () => bearer(rsa.sign('m'.repeat(256)))],
    ['with a subject that is no text', () => bearer(rsa.sign(undefined, { sub: 7 }))],
    [
      'by a key that was never published',
      async () => bearer((await createSigningKey('RS256', 'rsa-1')).sign('mallory')),
    ],
    ['that names an unknown key', async () => bearer((await createSigningKey('RS256', 'none')).sign('mallory'))],
    ['that was changed after it was signed', tampered],
    ['without a signature', unsigned],
    ['with the public key as its secret', publicKeyAsSecret],
    ['that is no token', () => 'Bearer nonsense'],
    ['that is empty', () => 'Bearer '],
    ['sent as a password', () => `Basic ${btoa('alice:secret')}`],
    ['longer than any that is looked at', () => `Bearer ${'a'.repeat(20_000)}.b.c`],
    ['that was not sent', () => null],
  ];

  it.each(cases)('%s: 401, and nothing is run', async (_case, authorization) => {
    const users = await countRows('users');
    const answer = await ask(await authorization(), service.api.url, 'mutation { createSession { session { id } } }');
    expect(answer.status).toBe(401);
    expect(answer.headers.get('www-authenticate')).toBe('Bearer');
    expect(answer.body).toEqual({
      errors: [{ message: expect.any(String), extensions: { code: 'UNAUTHENTICATED' } }],
    });
    expect(await countRows('users')).toBe(users);
  });

  it('in a head too large for the server ends with 431', async () => {
    const response = await fetch(service.api.url, { headers: { authorization: `Bearer ${'a'.repeat(40_000)}` } });
    expect(response.status).toBe(431);
  });

  it('opens no event stream either', async () => {
    const response = await fetch(
      `${service.api.url}?query=${encodeURIComponent('subscription { events { cursor } }')}`,
      {
        headers: { accept: 'text/event-stream' },
      },
    );
    expect(response.status).toBe(401);
  });

  it('says of an expired token that it expired, and nothing of the others', async () => {
    const messageOf = async (token: string): Promise<string | undefined> =>
      (await ask(`Bearer ${token}`)).body.errors?.[0]?.message;
    expect(await messageOf(await rsa.sign('mallory', { exp: soon(-10) }))).toBe('The token has expired.');
    const others = [
      await messageOf(await rsa.sign('mallory', { iss: 'https://other.example' })),
      await messageOf(await rsa.sign('mallory', { aud: 'other' })),
      await messageOf(await (await createSigningKey('RS256', 'rsa-1')).sign('mallory')),
    ];
    expect(new Set(others)).toEqual(new Set(['The token is not valid here.']));
  });
});

describe('the key set', () => {
  let authenticate: Authenticate;
  let rotated: SigningKey;

  const createWith = (times: { cooldown: number; maxAge: number }): Authenticate =>
    createAuthenticator({
      issuer,
      audience,
      keys: { url: provider.url, ...times },
      signIn: async ({ subject }) => subject,
    });

  beforeAll(async () => {
    rotated = await createSigningKey('ES256', 'elliptic-2');
  });

  it('is fetched again when a token names a key that is new', async () => {
    expect((await ask(`Bearer ${await elliptic.sign('rotating')}`)).status).toBe(200);
    provider.publish(rotated);
    expect((await ask(`Bearer ${await rotated.sign('rotating')}`)).status).toBe(200);
  });

  it('is fetched at most once per cooldown, whatever keys tokens name', async () => {
    authenticate = createWith({ cooldown: 60_000, maxAge: 600_000 });
    await authenticate(`Bearer ${await rsa.sign('alice')}`);
    const before = provider.fetches();
    const unknown = await createSigningKey('ES256', 'made-up');
    for (let attempt = 0; attempt < 10; attempt += 1) {
      await expect(authenticate(`Bearer ${await unknown.sign('alice')}`)).rejects.toMatchObject({
        code: 'UNAUTHENTICATED',
      });
    }
    expect(provider.fetches()).toBe(before);
  });

  it('is fetched once for many first requests at once', async () => {
    authenticate = createWith({ cooldown: 60_000, maxAge: 600_000 });
    const before = provider.fetches();
    const token = await rsa.sign('alice');
    await Promise.all(Array.from({ length: 20 }, () => authenticate(`Bearer ${token}`)));
    expect(provider.fetches()).toBe(before + 1);
  });

  it.each([
    ['answers with an error', 500, 'broken'],
    ['answers with something else than keys', 200, '<html></html>'],
    ['answers with a set that is none', 200, '{"keys":7}'],
  ])('that %s: known keys still work, tokens of other keys get SERVICE_BUSY', async (_case, status, body) => {
    authenticate = createWith({ cooldown: 1, maxAge: 1 });
    await authenticate(`Bearer ${await rsa.sign('alice')}`);
    provider.fail(status, body);
    await expect(authenticate(`Bearer ${await rsa.sign('alice')}`)).resolves.toMatchObject({ userId: 'alice' });
    await expect(authenticate(`Bearer ${await rotated.sign('alice')}`)).rejects.toMatchObject({
      code: 'SERVICE_BUSY',
      retryAfter: 1,
    });
    provider.publish(rotated);
    await expect
      .poll(async () => authenticate(`Bearer ${await rotated.sign('alice')}`))
      .toMatchObject({ userId: 'alice' });
  });

  it('that lost a key ends the tokens of that key, also those that were found right before', async () => {
    authenticate = createWith({ cooldown: 1, maxAge: 1 });
    const token = await elliptic.sign('alice');
    await authenticate(`Bearer ${token}`);
    provider.publish(rotated);
    await expect
      .poll(() => authenticate(`Bearer ${token}`).catch(({ code }: { code: string }) => code))
      .toBe('UNAUTHENTICATED');
  });

  it('is not asked about a token that was found right, until that token expires', async () => {
    authenticate = createWith({ cooldown: 60_000, maxAge: 600_000 });
    const token = await elliptic.sign('alice', { exp: soon(30) });
    await authenticate(`Bearer ${token}`);
    await authenticate(`Bearer ${token}`);
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 36_000 });
    try {
      await expect(authenticate(`Bearer ${token}`)).rejects.toMatchObject({ message: 'The token has expired.' });
    } finally {
      vi.useRealTimers();
    }
  });

  it('that can not be read is asked for once per cooldown, not by each request', async () => {
    authenticate = createWith({ cooldown: 60_000, maxAge: 600_000 });
    provider.fail(500, '');
    const before = provider.fetches();
    for (let attempt = 0; attempt < 5; attempt += 1) {
      await expect(authenticate(`Bearer ${await rsa.sign('alice')}`)).rejects.toMatchObject({ code: 'SERVICE_BUSY' });
    }
    expect(provider.fetches()).toBe(before + 1);
  });

  it('of a server that is down gives 503 with Retry-After, and makes no user', async () => {
    const gone = await startIdentityProvider();
    await gone.stop();
    const api = await startApi({ ...service.config, TOKEN_JWKS_URL: gone.url }, log);
    try {
      const users = await countRows('users');
      const answer = await ask(`Bearer ${await rsa.sign('early')}`, api.url);
      expect(answer.status).toBe(503);
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
      expect(answer.body.errors?.[0]?.extensions).toEqual({ code: 'SERVICE_BUSY', retryAfter: expect.any(Number) });
      expect(await countRows('users')).toBe(users);
    } finally {
      await api.stop();
    }
  });
});

describe('a new user', () => {
  const team = `{ viewer { id } agents(first: 100) { edges { node { id name } } } }`;

  it('is made once, with one starter team, by many first requests at two processes', async () => {
    const second = await startApi(service.config, log);
    try {
      const token = await rsa.sign('newcomer');
      const users = await countRows('users');
      const answers = await Promise.all(
        Array.from({ length: 20 }, (_, place) =>
          createTestUser(place % 2 === 0 ? service.api.url : second.url, 'newcomer', token).ask(team),
        ),
      );
      expect(answers.flatMap((answer) => answer.errors)).toEqual([]);
      expect(await countRows('users')).toBe(users + 1);
      expect(new Set(answers.map((answer) => answer.data.viewer.id)).size).toBe(1);
      for (const { data } of answers) {
        expect(data.agents.edges.map((edge: { node: { name: string } }) => edge.node.name)).toEqual([
          'Researcher',
          'Writer',
          'Coder',
        ]);
      }
    } finally {
      await second.stop();
    }
  });

  it('who deletes the starter team does not get it back', async () => {
    const token = await rsa.sign('minimalist');
    const user = createTestUser(service.api.url, 'minimalist', token);
    for (const { node } of (await user.ask(team)).data.agents.edges) {
      await user.ask(`mutation ($id: ID!) { deleteAgent(id: $id) { deletedAgentId } }`, { id: node.id });
    }
    const restarted = await startApi(service.config, log);
    try {
      const { data } = await createTestUser(restarted.url, 'minimalist', token).ask(team);
      expect(data.agents.edges).toEqual([]);
    } finally {
      await restarted.stop();
    }
  });

  it('of the same name at another issuer is someone else', async () => {
    const other = await startApi({ ...service.config, TOKEN_ISSUER: 'https://other.example' }, log);
    try {
      const here = await ask(`Bearer ${await rsa.sign('namesake')}`);
      const there = await ask(`Bearer ${await rsa.sign('namesake', { iss: 'https://other.example' })}`, other.url);
      expect(there.status).toBe(200);
      expect(there.body.data).not.toEqual(here.body.data);
    } finally {
      await other.stop();
    }
  });
});

describe('health', () => {
  it.each(['live', 'ready'])('%s needs no token', async (kind) => {
    const response = await fetch(new URL(`/health/${kind}`, service.api.url));
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({ status: kind });
  });
});
