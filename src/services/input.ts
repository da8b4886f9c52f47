import { z } from 'zod';
import { badInput } from '../errors.ts';

/**
 * Checks an input against its rules and returns it normalised.
 * @throws DomainError BAD_USER_INPUT for the first member at fault, with its path below `root` (empty for a field's own arguments) as the field.
 */
export function parseInput<Schema extends z.ZodType>(schema: Schema, input: unknown, root: string): z.output<Schema> {
  const result = schema.safeParse(input);
  if (result.success) {
    return result.data;
  }
  const [issue] = result.error.issues;
  const path = [root, ...(issue?.path ?? [])]
    .map(String)
    .filter((part) => part !== '')
    .join('.');
  throw badInput(path, issue?.message ?? 'The input is not valid.');
}

/** The message for a member that is missing, null, or of another type. */
export function required(member: string): { error: string } {
  return { error: `\`${member}\` is required and may not be null.` };
}

/** Text without white space at its ends. Postgres can't store U+0000, so it is refused with a reason instead of a fault. */
export function text(member: string) {
  return z
    .string(required(member))
    .trim()
    .refine((value) => !value.includes('\u0000'), `\`${member}\` may not hold the character U+0000.`);
}
