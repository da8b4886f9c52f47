import { z } from 'zod';
import { badInput } from '../errors.ts';
import { required } from './input.ts';
import type { SealedSecrets, SecretBox, SecretOwner, Secrets } from './secret-box.ts';

/** A secret to be kept, or with null to be forgotten. */
export interface SecretInput {
  name: string;
  value?: string | null | undefined;
}

/** The columns that a row keeps its secrets in. */
export interface SecretColumns {
  secrets: Uint8Array | null;
  secretsKeyId: string | null;
  secretNames: string[];
}

const mostSecrets = 20;

/** @param name what a name may be: a header's for a server, a word for a tool */
export function secretRules(name: RegExp, rule: string) {
  return z
    .array(
      z.object({
        name: z.string(required('name')).regex(name, rule),
        value: z
          .string()
          .min(4, 'A secret must have at least 4 characters.')
          .max(4_000, 'A secret may have at most 4,000 characters.')
          // What is sent as a header may hold nothing else.
          .regex(/^[\t\x20-\x7e]*$/, 'A secret may hold visible ASCII characters only.')
          .nullish(),
      }),
      required('secrets'),
    )
    .max(mostSecrets, `\`secrets\` may have at most ${mostSecrets} entries.`)
    .refine(
      (secrets) => new Set(secrets.map(({ name: one }) => one)).size === secrets.length,
      '`secrets` names one twice.',
    )
    .optional();
}

/** What is kept for a row that has none yet, or whose secrets are all given anew. */
export const noSecrets: SecretColumns = { secrets: null, secretsKeyId: null, secretNames: [] };

/**
 * The row's secrets with the changes made, sealed. Without changes nothing is opened.
 * @throws DomainError SECRETS_UNAVAILABLE, BAD_USER_INPUT when there would be too many
 */
export function changeSecrets(
  box: SecretBox,
  owner: SecretOwner,
  before: SecretColumns,
  changes: readonly SecretInput[] | undefined,
): SecretColumns {
  if (changes === undefined || changes.length === 0) {
    return before;
  }
  // A row whose key is lost can still be given all its secrets anew.
  const replaced = new Set(changes.map(({ name }) => name));
  const kept = before.secretNames.some((name) => !replaced.has(name)) ? openSecrets(box, owner, before) : {};
  const after: Record<string, string> = Object.fromEntries(
    [
      ...Object.entries(kept).filter(([name]) => !replaced.has(name)),
      ...changes.map(({ name, value }) => [name, value]),
    ].filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
  const names = Object.keys(after).sort();
  if (names.length > mostSecrets) {
    throw badInput('input.secrets', `There may be at most ${mostSecrets} secrets.`);
  }
  if (names.length === 0) {
    return noSecrets;
  }
  const { bytes, keyId } = box.seal(owner, after);
  return { secrets: bytes, secretsKeyId: keyId, secretNames: names };
}

/** The secrets of a row; empty when it has none. @throws DomainError SECRETS_UNAVAILABLE */
export function openSecrets(
  box: SecretBox,
  owner: SecretOwner,
  { secrets, secretsKeyId }: Pick<SecretColumns, 'secrets' | 'secretsKeyId'>,
): Secrets {
  if (secrets === null || secretsKeyId === null) {
    return {};
  }
  const sealed: SealedSecrets = { bytes: new Uint8Array(secrets), keyId: secretsKeyId };
  return box.open(owner, sealed);
}

/**
 * Secrets were entrusted to one origin. Whoever moves a row to another must know them: they are to be given anew, or
 * taken away, in the same change.
 * @throws DomainError BAD_USER_INPUT
 */
export function assertMayMove(
  from: string,
  to: string,
  names: readonly string[],
  changes: readonly SecretInput[] | undefined,
  field: string,
): void {
  const given = new Set(changes?.map(({ name }) => name));
  const left = names.filter((name) => !given.has(name));
  if (URL.parse(from)?.origin !== URL.parse(to)?.origin && left.length > 0) {
    throw badInput(field, `The URL leads to another origin: give its secrets anew as well (${left.join(', ')}).`);
  }
}
