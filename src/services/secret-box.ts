import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { DomainError } from '../errors.ts';

/** A key of 256 bits and the name under which rows say that it is theirs. */
export interface SecretKey {
  id: string;
  key: Buffer;
}

/** Whose secrets these are. It is bound to the cipher text: in another row, or another user's, it can't be opened. */
export interface SecretOwner {
  userId: string;
  table: 'tools' | 'mcp_servers';
  rowId: string;
}

export interface SealedSecrets {
  bytes: Uint8Array<ArrayBuffer>;
  keyId: string;
}

export type Secrets = Readonly<Record<string, string>>;

/** Encrypts the secrets of tools (AES-256-GCM, https://csrc.nist.gov/pubs/sp/800/38/d/final). */
export interface SecretBox {
  /** The key that new secrets are sealed with; null when there is none. */
  readonly currentKeyId: string | null;
  /** @throws DomainError SECRETS_UNAVAILABLE when no key is configured */
  seal(owner: SecretOwner, secrets: Secrets): SealedSecrets;
  /** @throws DomainError SECRETS_UNAVAILABLE when the key is not configured any more, or the bytes are not this row's */
  open(owner: SecretOwner, sealed: SealedSecrets): Secrets;
}

const cipher = 'aes-256-gcm';
const nonceBytes = 12;
const tagBytes = 16;

/** @param keys the first one seals; the others only open what was sealed before */
export function createSecretBox(keys: readonly SecretKey[]): SecretBox {
  const [current] = keys;
  return {
    currentKeyId: current?.id ?? null,
    seal: (owner, secrets) => {
      if (current === undefined) {
        throw new DomainError('SECRETS_UNAVAILABLE', 'The service has no key to keep secrets with.');
      }
      const nonce = randomBytes(nonceBytes);
      const sealing = createCipheriv(cipher, current.key, nonce);
      sealing.setAAD(ownerBytes(owner, current.id));
      const text = Buffer.concat([sealing.update(JSON.stringify(secrets), 'utf8'), sealing.final()]);
      return { bytes: new Uint8Array(Buffer.concat([nonce, sealing.getAuthTag(), text])), keyId: current.id };
    },
    open: (owner, { bytes, keyId }) => {
      const known = keys.find(({ id }) => id === keyId);
      try {
        if (known === undefined) {
          throw new Error('the key is not configured');
        }
        const opening = createDecipheriv(cipher, known.key, bytes.subarray(0, nonceBytes), { authTagLength: tagBytes });
        opening.setAAD(ownerBytes(owner, keyId));
        opening.setAuthTag(bytes.subarray(nonceBytes, nonceBytes + tagBytes));
        const text = Buffer.concat([opening.update(bytes.subarray(nonceBytes + tagBytes)), opening.final()]);
        return JSON.parse(text.toString('utf8')) as Secrets;
      } catch (error) {
        throw new DomainError('SECRETS_UNAVAILABLE', 'The secrets can not be opened. Set them again.', {
          cause: error,
        });
      }
    },
  };
}

/** A hash has one length whatever it is made of, so that no two owners can be written alike. */
function ownerBytes({ userId, table, rowId }: SecretOwner, keyId: string): Buffer {
  return createHash('sha256')
    .update(JSON.stringify(['retinue secrets 1', keyId, userId, table, rowId]))
    .digest();
}

/** What stands in place of a secret in anything that is told or stored. */
const mask = '[secret]';

/**
 * Takes secrets out of a text: as they are, and as the other side may have written them into a URL, JSON, HTML or Base64.
 */
export function redactSecrets(text: string, secrets: Secrets): string {
  const forms = Object.values(secrets).flatMap((value) => [
    value,
    encodeURIComponent(value),
    new URLSearchParams({ v: value }).toString().slice(2),
    JSON.stringify(value).slice(1, -1),
    value.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;'),
    ...base64Forms(value),
  ]);
  // The longest first: one may hold another.
  return [...new Set(forms)]
    .filter((form) => form !== '')
    .sort((one, other) => other.length - one.length)
    .reduce((rest, form) => rest.replaceAll(form, mask), text);
}

/** Base64 of a value at each of the three places where it may begin within a longer text, without what its neighbours change. */
function base64Forms(value: string): string[] {
  const bytes = Buffer.from(value);
  return [0, 1, 2].flatMap((before) => {
    const first = Math.ceil((before * 8) / 6);
    const last = Math.floor(((before + bytes.length) * 8) / 6);
    const encoded = Buffer.concat([Buffer.alloc(before), bytes])
      .toString('base64')
      .slice(first, last);
    return encoded.length < 8 ? [] : [encoded, encoded.replaceAll('+', '-').replaceAll('/', '_')];
  });
}
