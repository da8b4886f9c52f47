import type pg from 'pg';
import { developmentAudience, developmentIssuer } from '../../dev/identity.ts';
import { type Authenticate, createAuthenticator } from '../../src/auth.ts';

/** What every server of this benchmark is given. */
export interface ServerSettings {
  /** Postgres as the role app_user. */
  readonly databaseUrl: string;
  /** The public key of the tokens, as JWK in JSON. */
  readonly publicKey: string;
}

/** What every server tells when it listens. */
export interface ServerReady {
  readonly url: string;
}

/** Connections to Postgres, alike for all: the service's own default. */
export const poolSize = 20;

/** The check of tokens that the service itself has, so that it costs every contender the same. */
export function createSameAuthentication(settings: ServerSettings, pool: pg.Pool): Authenticate {
  return createAuthenticator({
    issuer: developmentIssuer,
    audience: developmentAudience,
    keys: { publicKey: settings.publicKey },
    signIn: async ({ issuer, subject }) => {
      const { rows } = await pool.query<{ user_id: string }>('SELECT user_id FROM app.sign_in($1, $2)', [
        issuer,
        subject,
      ]);
      if (rows[0] === undefined) {
        throw new Error('sign-in gave no user');
      }
      return rows[0].user_id;
    },
  });
}
