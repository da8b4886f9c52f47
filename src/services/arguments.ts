import { createHash } from 'node:crypto';

/** Arguments of a tool's call, or of whatever else a user is asked to approve: any JSON object. */
export type Arguments = Record<string, unknown>;

/** Most bytes of JSON that arguments may have. */
export const maximumArgumentBytes = 64_000;
const deepestArguments = 32;

/**
 * The hash of what a user is shown, which binds a decision to it. The order of an object's members doesn't count:
 * Postgres keeps none.
 */
export function hashArguments(toolName: string | null, given: unknown): string {
  return createHash('sha256')
    .update(JSON.stringify([toolName, sortMembers(given)]))
    .digest('base64url');
}

/** What keeps arguments from being stored; null when nothing does. */
export function findStorageFault(given: unknown): string | null {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    return 'The arguments must be a JSON object.';
  }
  if (depthOf(given) > deepestArguments) {
    return `The arguments may be nested ${deepestArguments} levels deep at most.`;
  }
  const text = JSON.stringify(given);
  if (Buffer.byteLength(text) > maximumArgumentBytes) {
    return `The arguments may have at most ${maximumArgumentBytes} bytes of JSON.`;
  }
  // JSON writes U+0000 and halves of surrogate pairs as escapes; Postgres stores neither.
  return /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f][\da-f]{2})/.test(text)
    ? 'The arguments may hold neither the character U+0000 nor half of a surrogate pair.'
    : null;
}

function depthOf(value: unknown): number {
  let level: unknown[] = [value];
  let depth = 0;
  while (level.length > 0 && depth <= deepestArguments) {
    level = level.flatMap((item) => (typeof item === 'object' && item !== null ? Object.values(item) : []));
    depth += 1;
  }
  return depth;
}

function sortMembers(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(sortMembers);
  }
  if (typeof value !== 'object' || value === null) {
    return value;
  }
  return Object.fromEntries(
    Object.entries(value)
      .toSorted(([one], [other]) => (one < other ? -1 : 1))
      .map(([name, member]) => [name, sortMembers(member)]),
  );
}
