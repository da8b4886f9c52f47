import { once } from 'node:events';
import { createServer } from 'node:http';
import { type CryptoKey, exportJWK, generateKeyPair, type JWK, type JWTPayload, SignJWT } from 'jose';
import { listen } from '../../dev/listen.ts';

export const issuer = 'https://identity.example';
export const audience = 'retinue';

/** A key of the provider, with what a token may say beside its usual claims. */
export interface SigningKey {
  publicKey: JWK;
  /** A token for `subject`; a claim that is undefined is left out. */
  sign(subject: string | undefined, claims?: Record<string, unknown>): Promise<string>;
}

/** An identity provider's key server on this machine. */
export interface IdentityProvider {
  url: string;
  /** How often the key set was asked for. */
  fetches(): number;
  /** What it serves from now on. */
  publish(...keys: SigningKey[]): void;
  /** Answers with this instead of the keys until the next `publish`. */
  fail(status: number, body: string): void;
  stop(): Promise<void>;
}

/** A fresh key pair. */
export async function createSigningKey(algorithm: 'RS256' | 'ES256', kid: string): Promise<SigningKey> {
  const pair = await generateKeyPair(algorithm, { extractable: true });
  return {
    publicKey: { ...(await exportJWK(pair.publicKey)), alg: algorithm, kid, use: 'sig' },
    sign: (subject, claims = {}) => signToken(pair.privateKey, { alg: algorithm, kid }, subject, claims),
  };
}

/** Signs a token that is right in all that `claims` does not change. */
export function signToken(
  key: CryptoKey | Uint8Array,
  header: { alg: string; kid?: string },
  subject: string | undefined,
  claims: Record<string, unknown> = {},
): Promise<string> {
  const now = Math.floor(Date.now() / 1_000);
  const usual = { iss: issuer, aud: audience, iat: now, exp: now + 600 };
  const payload: JWTPayload = { ...usual, ...(subject === undefined ? {} : { sub: subject }), ...claims };
  return new SignJWT(payload).setProtectedHeader(header).sign(key);
}

export async function startIdentityProvider(): Promise<IdentityProvider> {
  let fetches = 0;
  let answer = { status: 200, body: '{"keys":[]}' };
  const server = createServer((_request, response) => {
    fetches += 1;
    response.writeHead(answer.status, { 'content-type': 'application/json', connection: 'close' });
    response.end(answer.body);
  });
  const { origin } = await listen(server);
  return {
    url: `${origin}/keys`,
    fetches: () => fetches,
    publish: (...keys) => {
      answer = { status: 200, body: JSON.stringify({ keys: keys.map((key) => key.publicKey) }) };
    },
    fail: (status, body) => {
      answer = { status, body };
    },
    stop: async () => {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}
