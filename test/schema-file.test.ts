import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { auditSchema, schemaText } from '../scripts/schema.ts';
import { errorCodes } from '../src/errors.ts';
import { costlyFields } from '../src/resolvers/mutation.ts';
import { createSchema } from '../src/resolvers/schema.ts';

interface Member {
  /** Where it stands in the schema. */
  path: string;
  name: string;
  description?: string | null | undefined;
}

/** Whether a description has no word that its name does not have. */
function saysItsName({ name, description }: Pick<Member, 'name' | 'description'>): boolean {
  const known = new Set([...wordsOf(name.replaceAll(/(?<=[a-z])(?=[A-Z])/g, ' ')), 'a', 'an', 'the', 'its', 'of']);
  return wordsOf(description ?? '').every((word) => known.has(word));
}

function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[a-z]+/g) ?? [];
}

describe('the schema file', () => {
  it('is what the code makes and breaks no client of the released one', async () => {
    const [current, released] = await Promise.all(
      ['schema.graphql', 'schema.released.graphql'].map((file) => readFile(file, 'utf8')),
    );
    expect(auditSchema(schemaText(createSchema()), current ?? '', released ?? '')).toEqual([]);
  });

  it('fails the checks when it is stale', () => {
    const made = 'type Query { new: Int, old: Int }';
    const before = 'type Query { old: Int }';
    expect(auditSchema(made, before, before)).toEqual([expect.stringContaining('npm run schema')]);
  });

  it.each([
    ['a removed field', 'type Query { kept: Int }', 'FIELD_REMOVED'],
    ['a new required argument', 'type Query { kept: Int, gone(size: Int!): Int }', 'REQUIRED_ARG_ADDED'],
    ['a field that may become null', 'type Query { kept: Int, gone: Float }', 'FIELD_CHANGED_KIND'],
  ])('fails the checks for %s', (_case, made, kind) => {
    const released = 'type Query { kept: Int, gone: Int }';
    expect(auditSchema(made, made, released)).toEqual([expect.stringContaining(kind)]);
  });

  const members = Object.values(createSchema().getTypeMap())
    .filter((type) => !type.name.startsWith('__'))
    .flatMap((type): Member[] => {
      const fields = 'getFields' in type ? Object.values(type.getFields()) : [];
      const values = 'getValues' in type ? type.getValues() : [];
      return [
        { ...type, path: type.name },
        ...[...fields, ...values].map((member) => ({ ...member, path: `${type.name}.${member.name}` })),
        ...fields.flatMap((field) =>
          ('args' in field ? field.args : []).map((argument: Omit<Member, 'path'>) => ({
            ...argument,
            path: `${type.name}.${field.name}(${argument.name})`,
          })),
        ),
      ];
    });

  it('describes every type, field, argument and enum value', () => {
    expect(members.filter(({ description }) => (description ?? '') === '').map(({ path }) => path)).toEqual([]);
  });

  it('never only repeats a name as its description', () => {
    expect(members.filter(saysItsName).map(({ path, description }) => `${path}: ${description}`)).toEqual([]);
  });

  it.each([
    ['sessionId', 'Id of the session.', true],
    ['sessionId', 'Only events of this session.', false],
    ['PENDING', 'Pending.', true],
  ])('%s: “%s” repeats the name: %s', (name, description, expected) => {
    expect(saysItsName({ name, description })).toBe(expected);
  });

  const described = ['Mutation', 'Subscription'].flatMap((name) => {
    const type = createSchema().getType(name);
    return type !== undefined && 'getFields' in type
      ? Object.values(type.getFields()).map((field) => [`${name}.${field.name}`, field.description ?? ''] as const)
      : [];
  });

  it.each(described)('says which errors to expect, of those that there are: %s', (_field, description) => {
    const named = /Errors: (.+)\.$/.exec(description)?.[1]?.split(', ') ?? [];
    expect(named).not.toEqual([]);
    expect(named.filter((code) => !(code in errorCodes))).toEqual([]);
  });

  it.each(Object.keys(costlyFields))('says that %s has a limit by the minute', (name) => {
    const description = described.find(([field]) => field === `Mutation.${name}`)?.[1];
    expect(description).toContain('RATE_LIMITED');
  });
});
