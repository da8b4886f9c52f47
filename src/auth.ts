import { createHash } from 'node:crypto';
import { createLocalJWKSet, errors, type JWK, type JWTVerifyGetKey, jwtVerify } from 'jose';
import { LRUCache } from 'lru-cache';
import { createKeySet, type KeySetOptions } from './adapters/key-set.ts';
import { DomainError } from './errors.ts';

/** Who calls, as the token says it. */
export interface Principal {
  userId: string;
  /** When the token ends, in milliseconds since the epoch. */
  expiresAt: number;
}

export interface AuthenticatorOptions {
  issuer: string;
  audience: string;
  keys: KeySetOptions | { publicKey: string };
  /** Finds or makes the user of an identity. */
  signIn: (identity: { issuer: string; subject: string }) => Promise<string>;
}

/** Turns the value of an Authorization header into a principal. @throws DomainError UNAUTHENTICATED, SERVICE_BUSY */
export type Authenticate = (authorization: string | null) => Promise<Principal>;

/** What a token that was found right says. */
interface Verified {
  subject: string;
  /** In milliseconds since the epoch. */
  expiresAt: number;
}

/** Only signatures by key pair: a shared secret could be guessed, and "none" is no signature. */
const algorithms = ['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA'];
const longestToken = 16_384;
/** Postgres can't store U+0000. */
const subjectPattern = /^[^\0]{1,255}$/;
/** Identities whose user is known. The pair never changes, so that the time limit only bounds memory of idle users. */
const knownUsers = { max: 50_000, ttl: 3_600_000 };
/** Tokens whose signature was found right: a client sends the same one again and again. The time bounds what a withdrawn key is worth. */
const knownTokens = { max: 50_000, ttl: 60_000 };

/**
 * Verifies tokens by the identity provider's key set, which is fetched once, cached, and fetched again when a token
 * names a key it does not hold (https://www.rfc-editor.org/rfc/rfc8725 for what is checked).
 */
export function createAuthenticator(options: AuthenticatorOptions): Authenticate {
  const getKey = createKeySource(options.keys);
  const users = new LRUCache<string, Promise<string>>(knownUsers);
  const tokens = new LRUCache<string, Verified>({
    ...knownTokens,
    ttl: 'url' in options.keys ? Math.min(knownTokens.ttl, options.keys.maxAge) : knownTokens.ttl,
  });

  const verifyOnce = async (token: string): Promise<Verified> => {
    const digest = createHash('sha256').update(token).digest('base64');
    const known = tokens.get(digest);
    if (known !== undefined && known.expiresAt > Date.now()) {
      return known;
    }
    const verified = await verify(token, getKey, options);
    tokens.set(digest, verified);
    return verified;
  };

  const findUser = (issuer: string, subject: string): Promise<string> => {
    const identity = JSON.stringify([issuer, subject]);
    const known = users.get(identity);
    if (known !== undefined) {
      return known;
    }
    const found = options.signIn({ issuer, subject });
    users.set(identity, found);
    // A failed look-up must not be remembered.
    found.catch(() => users.delete(identity));
    return found;
  };

  return async (authorization) => {
    const token = readBearer(authorization);
    const { subject, expiresAt } = await verifyOnce(token);
    return { userId: await findUser(options.issuer, subject), expiresAt };
  };
}

function createKeySource(keys: AuthenticatorOptions['keys']): JWTVerifyGetKey {
  return 'url' in keys ? createKeySet(keys) : createLocalJWKSet({ keys: [JSON.parse(keys.publicKey) as JWK] });
}

function readBearer(authorization: string | null): string {
  if (authorization === null || authorization === '') {
    throw new DomainError('UNAUTHENTICATED', 'Send a token: `Authorization: Bearer <token>`.');
  }
  const match = /^Bearer +([\w-]+\.[\w-]+\.[\w-]+)$/i.exec(authorization);
  if (authorization.length > longestToken || match?.[1] === undefined) {
    throw new DomainError('UNAUTHENTICATED', 'The Authorization header does not hold a bearer token.');
  }
  return match[1];
}

async function verify(token: string, getKey: JWTVerifyGetKey, options: AuthenticatorOptions): Promise<Verified> {
  try {
    const { payload } = await jwtVerify(token, getKey, {
      issuer: options.issuer,
      audience: options.audience,
      algorithms,
      requiredClaims: ['sub', 'exp'],
      clockTolerance: 5,
    });
    if (typeof payload.sub !== 'string' || !subjectPattern.test(payload.sub)) {
      throw new DomainError('UNAUTHENTICATED', 'The token names no subject.');
    }
    return { subject: payload.sub, expiresAt: (payload.exp ?? 0) * 1_000 };
  } catch (error) {
    throw refusal(error);
  }
}

function refusal(error: unknown): DomainError {
  if (error instanceof DomainError) {
    return error;
  }
  if (!(error instanceof errors.JOSEError)) {
    // A fault of ours says nothing about the token.
    throw error;
  }
  // Only expiry is told apart: its fix is the client's, and it gives nothing away.
  const message = error instanceof errors.JWTExpired ? 'The token has expired.' : 'The token is not valid here.';
  return new DomainError('UNAUTHENTICATED', message, { cause: error });
}
