import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { auditSchema, schemaText } from '../scripts/schema.ts';
import { errorCodes } from '../src/errors.ts';
import { createSchema } from '../src/resolvers/schema.ts';

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

  it('describes every type, field, argument and enum value', () => {
    const undescribed = Object.values(createSchema().getTypeMap())
      .filter((type) => !type.name.startsWith('__'))
      .flatMap((type) => {
        const members: { name: string; description?: string | null | undefined }[] = [];
        if ('getFields' in type) {
          for (const field of Object.values(type.getFields())) {
            members.push({ name: `${type.name}.${field.name}`, description: field.description });
            for (const argument of 'args' in field ? field.args : []) {
              members.push({ name: `${type.name}.${field.name}(${argument.name})`, description: argument.description });
            }
          }
        }
        if ('getValues' in type) {
          members.push(...type.getValues().map((value) => ({ ...value, name: `${type.name}.${value.name}` })));
        }
        return [{ name: type.name, description: type.description }, ...members];
      })
      .filter((member) => (member.description ?? '') === '')
      .map((member) => member.name);
    expect(undescribed).toEqual([]);
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
});
