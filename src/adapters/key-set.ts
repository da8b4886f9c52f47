import {
  createLocalJWKSet,
  createRemoteJWKSet,
  type ExportedJWKSCache,
  errors,
  type JWKSCacheInput,
  type JWTVerifyGetKey,
  jwksCache,
} from 'jose';
import { DomainError } from '../errors.ts';

export interface KeySetOptions {
  url: string;
  /** Shortest time between two fetches, in milliseconds: a token with a made-up key id must not cause one each. */
  cooldown: number;
  /** After this many milliseconds the set is fetched again, so that a withdrawn key ends. */
  maxAge: number;
}

/** Longest wait for the provider's answer, in milliseconds. */
const fetchTimeout = 5_000;
/**
 * How long keys go on to be trusted while the provider can't be read, in milliseconds: its outage should not lock
 * everybody out, and a withdrawn key may not live for ever.
 */
const staleFor = 3_600_000;

/** What `jose` says of a token, as against of the key set. */
const tokenFaults = [errors.JWKSNoMatchingKey, errors.JWKSMultipleMatchingKeys, errors.JOSENotSupported];

/**
 * An identity provider's public keys (https://www.rfc-editor.org/rfc/rfc7517), fetched at first use, again when they
 * are old, and again when a token names a key that is not among them.
 * @throws DomainError SERVICE_BUSY while they can't be read and the token's key is not known
 */
export function createKeySet(options: KeySetOptions): JWTVerifyGetKey {
  // The library writes what it fetched into this object.
  const cache: Partial<ExportedJWKSCache> = {};
  const remote = createRemoteJWKSet(new URL(options.url), {
    timeoutDuration: fetchTimeout,
    cooldownDuration: options.cooldown,
    cacheMaxAge: options.maxAge,
    [jwksCache]: cache as JWKSCacheInput,
  });
  let failedAt = Number.NEGATIVE_INFINITY;
  let known: { keys: unknown; find: JWTVerifyGetKey } | null = null;

  const findKnown: JWTVerifyGetKey = async (header, token) => {
    const { jwks, uat } = cache;
    if (jwks === undefined || uat === undefined || Date.now() - uat > staleFor) {
      throw new errors.JWKSNoMatchingKey();
    }
    known = known?.keys === jwks ? known : { keys: jwks, find: createLocalJWKSet(jwks) };
    return known.find(header, token);
  };

  return async (header, token) => {
    let failure: unknown;
    if (performance.now() - failedAt >= options.cooldown) {
      try {
        return await remote(header, token);
      } catch (error) {
        if (tokenFaults.some((fault) => error instanceof fault)) {
          throw error;
        }
        failedAt = performance.now();
        failure = error;
      }
    }
    // The provider can't be read now. A key that is not known may be a new one, so the token is not called wrong.
    return Promise.resolve(findKnown(header, token)).catch((error: unknown) => {
      if (!(error instanceof errors.JWKSNoMatchingKey)) {
        throw error;
      }
      throw new DomainError('SERVICE_BUSY', "The identity provider's keys could not be read.", {
        retryAfter: Math.max(1, Math.ceil(options.cooldown / 1_000)),
        cause: failure,
      });
    });
  };
}
