import { describe, expect, it } from 'vitest';
import { builtInTools } from '../../src/services/built-in-tool.ts';
import { createToolArguments } from '../../src/services/tool-arguments.ts';

const checker = createToolArguments();
const object = (properties: object, rest: object = {}) => ({ type: 'object', properties, ...rest });
const nestedValue = (depth: number): object => (depth === 0 ? {} : { a: nestedValue(depth - 1) });
const nested = (depth: number): object => (depth === 0 ? {} : { properties: { a: nested(depth - 1) } });

describe('a schema of arguments', () => {
  it.each<[string, object]>([
    ['an empty object', { type: 'object' }],
    ['named arguments', object({ city: { type: 'string', minLength: 1 } }, { required: ['city'] })],
    ['references within it', object({ a: { $ref: '#/$defs/a' } }, { $defs: { a: { type: 'string' } } })],
    ['a tree', object({ children: { type: 'array', items: { $ref: '#' } } })],
    [
      'draft-07',
      { $schema: 'http://json-schema.org/draft-07/schema#', ...object({ a: { type: 'array', items: [{}] } }) },
    ],
    ['2020-12', { $schema: 'https://json-schema.org/draft/2020-12/schema', ...object({ a: { type: 'string' } }) }],
    ['formats', object({ at: { type: 'string', format: 'date-time' }, mail: { type: 'string', format: 'email' } })],
    ['a property called like a keyword', object({ $ref: { type: 'string' }, pattern: { type: 'string' }, id: {} })],
    ['an honest pattern', object({ slug: { type: 'string', pattern: '^[a-z0-9]+(?:-[a-z0-9]+)*$' } })],
  ])('may be %s', (_what, schema) => {
    expect(checker.findSchemaFault(schema, true)).toBeNull();
  });

  it.each<[string, unknown, string, RegExp]>([
    ['no object', ['a'], '', /JSON object/],
    ['no object of arguments', { type: 'string' }, '/type', /"object"/],
    [
      'of another dialect',
      { $schema: 'http://json-schema.org/draft-04/schema#', type: 'object' },
      '/$schema',
      /2020-12/,
    ],
    ['a misspelt keyword', object({ a: { typ: 'string' } }), '', /unknown keyword: "typ"/],
    ['a type that does not exist', object({ a: { type: 'text' } }), '/properties/a/type', /allowed values/],
    ['an unknown format', object({ a: { type: 'string', format: 'zip' } }), '', /unknown format "zip"/],
    ['a reference to elsewhere', object({ a: { $ref: 'https://example.com/a.json' } }), '/properties/a/$ref', /within/],
    ['a reference to a file', object({ a: { $ref: 'file:///etc/passwd' } }), '/properties/a/$ref', /within/],
    ['a reference to nothing', object({ a: { $ref: '#/$defs/b' } }), '/properties/a/$ref', /within/],
    ['a name for others', object({ a: { $id: 'https://example.com/a' } }), '/properties/a/$id', /itself/],
    ['an anchor', object({ a: { $dynamicRef: '#b' } }), '/properties/a/$dynamicRef', /itself/],
    ['huge', object({ a: { type: 'string', description: 'x'.repeat(40_000) } }), '', /32768 characters/],
    ['deep', { type: 'object', ...nested(20) }, '/properties/a'.repeat(12), /nested more than 24/],
    [
      'a name that would change every object',
      JSON.parse('{"type":"object","properties":{"__proto__":{"type":"string"}}}'),
      '/properties/__proto__',
      /not allowed/,
    ],
    [
      'small but huge when written out',
      object(
        { a: { $ref: '#/$defs/l0' } },
        {
          $defs: Object.fromEntries(
            Array.from({ length: 20 }, (_, n) => [
              `l${n}`,
              n === 19 ? {} : { allOf: [{ $ref: `#/$defs/l${n + 1}` }, { $ref: `#/$defs/l${n + 1}` }] },
            ]),
          ),
        },
      ),
      '',
      /5000 parts/,
    ],
    [
      'no regular expression',
      object({ a: { type: 'string', pattern: '(' } }),
      '/properties/a/pattern',
      /not a regular/,
    ],
    [
      'a pattern without end',
      object({ a: { type: 'string', pattern: '^(a+)+$' } }),
      '/properties/a/pattern',
      /endless/,
    ],
    [
      'a name pattern without end',
      object({}, { patternProperties: { '^(a|a)*$': {} } }),
      '/patternProperties/^(a|a)*$',
      /endless/,
    ],
    [
      'a pattern without end deep inside',
      object({ a: { anyOf: [{}, { items: { pattern: '(x+x+)+y' } }] } }),
      '/properties/a/anyOf/1/items/pattern',
      /endless/,
    ],
  ])('is refused with its path when it is %s', (_what, schema, path, message) => {
    expect(checker.findSchemaFault(schema, true)).toEqual({ path, message: expect.stringMatching(message) });
  });

  it.each(Object.entries(builtInTools))('of the built-in tool %s is a good one', (_name, { argumentsSchema }) => {
    expect(checker.findSchemaFault(argumentsSchema, true)).toBeNull();
  });

  it('of somebody else may hold keywords that JSON Schema does not know', () => {
    expect(checker.findSchemaFault(object({ a: { 'x-order': 1, type: 'string', format: 'zip' } }), false)).toBeNull();
  });
});

describe('a pattern', () => {
  it.each([
    '^[a-z]+$',
    '^\\d{4}-\\d{2}-\\d{2}$',
    '^(\\w+\\.)*\\w+$',
    '^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$',
    '^.{1,200}$',
    '^(foo|bar)*$',
    '^(?<year>\\d+)-x$',
    '\\p{L}+',
    '^([^,]*,)*[^,]*$',
    '^a*b*c*$',
    '[\\]\\-\\u{1F600}]+',
    '(a{0}){5}',
  ])('is taken: %s', (pattern) => {
    expect(checker.findSchemaFault(object({ a: { type: 'string', pattern } }), true)).toBeNull();
  });

  it.each([
    '(a+)+',
    '(a*)*',
    '([a-z]+)*',
    '(a|aa)+',
    '(a|a?)+',
    '(.*a){20,}',
    '(\\w|\\d)*x',
    '(\\s*,?)*',
    '^(([a-z])+.)+[A-Z]([a-z])+$',
    '(a?b?)*',
    '(\\p{L}|é)+',
    '(?=a)b',
    '(a)\\1',
    '(?<!a)b',
    'a'.repeat(501),
    `${'('.repeat(40)}a${')'.repeat(40)}`,
  ])('is refused: %.40s', (pattern) => {
    expect(checker.findSchemaFault(object({ a: { type: 'string', pattern } }), true)).toMatchObject({
      path: '/properties/a/pattern',
    });
  });
});

describe('arguments', () => {
  const schema = object(
    { city: { type: 'string' }, days: { type: 'integer', maximum: 7 }, unit: { enum: ['C', 'F'] } },
    { required: ['city'], additionalProperties: false },
  ) as Record<string, unknown>;

  it('are checked by their own schema when two lead back to themselves', () => {
    const tree = (type: string) => object({ children: { type: 'array', items: { $ref: '#' } }, value: { type } });
    expect(checker.findFault(tree('string'), { children: [{ value: 'a' }] })).toBeNull();
    expect(checker.findFault(tree('integer'), { children: [{ value: 'a' }] })).toBe(
      '`/children/0/value` must be integer.',
    );
    expect(checker.findFault(tree('string'), { children: [{ value: 1 }] })).toBe('`/children/0/value` must be string.');
  });

  it('pass when they fit', () => {
    expect(checker.findFault(schema, { city: 'Oslo', days: 3, unit: 'C' })).toBeNull();
  });

  it.each<[unknown, string]>([
    [{}, "The arguments must have required property 'city'."],
    [{ city: 7 }, '`/city` must be string.'],
    [{ city: 'Oslo', days: 9 }, '`/days` must be <= 7.'],
    [{ city: 'Oslo', unit: 'K' }, '`/unit` must be equal to one of the allowed values: ["C","F"].'],
    [{ city: 'Oslo', zip: 1 }, 'The arguments must NOT have additional properties: "zip".'],
    ['Oslo', 'The arguments must be object.'],
    [undefined, 'The arguments must be object.'],
    [{ city: 'x'.repeat(200_001) }, 'The arguments have more than 200000 characters.'],
  ])('are refused in words, case %#', (given, fault) => {
    expect(checker.findFault(schema, given)).toBe(fault);
  });

  it.each<[string, object, unknown]>([
    [
      'a pattern that was never looked at',
      object({ a: { type: 'string', pattern: '^(a+)+$' } }),
      { a: `${'a'.repeat(40)}b` },
    ],
    [
      'a tree that is read twice at every level',
      object({ a: { allOf: [{ $ref: '#' }, { $ref: '#' }] } }),
      nestedValue(40),
    ],
    [
      'a schema that leads to itself',
      object({ a: { $ref: '#/$defs/a' } }, { $defs: { a: { $ref: '#/$defs/a' } } }),
      { a: 1 },
    ],
  ])('are given up soon, whatever the schema: case %#', (_what, hostile, given) => {
    const started = performance.now();
    expect(checker.findFault(hostile as Record<string, unknown>, given)).toMatch(/take too long|can't be used/);
    expect(performance.now() - started).toBeLessThan(5_000);
  });
});
