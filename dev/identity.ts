import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exportJWK, generateKeyPair, importJWK, type JWK, SignJWT } from 'jose';

/** Issuer and audience of development tokens. */
export const developmentIssuer = 'https://development.retinue.invalid';
export const developmentAudience = 'retinue';

/** A key pair that signs tokens on this machine only. */
export interface DevelopmentKey {
  publicKey: JWK;
  privateKey: JWK;
}

/** The key of a data folder, made at first use and readable by its owner alone. */
export async function loadDevelopmentKey(dataFolder: string): Promise<DevelopmentKey> {
  const path = join(dataFolder, 'development-key.json');
  try {
    return JSON.parse(await readFile(path, 'utf8')) as DevelopmentKey;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
      throw error;
    }
  }
  const key = await createDevelopmentKey();
  await writeFile(path, JSON.stringify(key), { mode: 0o600 });
  return key;
}

/** The key for secrets of tools of a data folder, as the setting SECRET_KEYS wants it; made at first use. */
export async function loadDevelopmentSecretKey(dataFolder: string): Promise<string> {
  const path = join(dataFolder, 'secret-key.txt');
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
      throw error;
    }
  }
  const key = `development:${randomBytes(32).toString('base64')}`;
  await writeFile(path, key, { mode: 0o600 });
  return key;
}

/** A fresh key pair. */
export async function createDevelopmentKey(): Promise<DevelopmentKey> {
  const pair = await generateKeyPair('ES256', { extractable: true });
  return {
    publicKey: { ...(await exportJWK(pair.publicKey)), alg: 'ES256', kid: 'development', use: 'sig' },
    privateKey: { ...(await exportJWK(pair.privateKey)), alg: 'ES256', kid: 'development' },
  };
}

/** A token for a user of that name. */
export async function signDevelopmentToken(key: DevelopmentKey, user: string, validFor = '12h'): Promise<string> {
  return new SignJWT({})
    .setProtectedHeader({ alg: 'ES256', kid: 'development' })
    .setIssuer(developmentIssuer)
    .setAudience(developmentAudience)
    .setSubject(user)
    .setIssuedAt()
    .setExpirationTime(validFor)
    .sign(await importJWK(key.privateKey, 'ES256'));
}
