import { describe, expect, it } from 'vitest';
import { findStorageFault, hashArguments } from '../../src/services/arguments.ts';

const nested = (levels: number): unknown => (levels === 0 ? 1 : { deeper: nested(levels - 1) });

describe('arguments of a call', () => {
  it.each<[string, unknown, RegExp | null]>([
    ['that are fine', { to: 'ada@example.org', copies: 2 }, null],
    ['that are no object', ['ada@example.org'], /must be a JSON object/],
    ['that are nothing', null, /must be a JSON object/],
    ['that hold U+0000', { to: 'a\u0000@example.org' }, /U\+0000/],
    ['that hold half of a surrogate pair', { to: '\ud83d' }, /surrogate/],
    ['that are too large', { to: 'x'.repeat(64_001) }, /at most 64000 bytes/],
    ['that are nested too deep', nested(40), /nested 32 levels/],
    [
      'that are nested deeper than a stack',
      JSON.parse(`${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}`),
      /nested 32/,
    ],
  ])('%s', (_what, given, fault) => {
    const found = findStorageFault(given);
    expect(found ?? '').toMatch(fault ?? /^$/);
  });

  it('may spell out what they may not hold', () => {
    expect(findStorageFault({ text: 'a backslash and u: \\u0000, \\ud83d' })).toBeNull();
  });
});

describe('the hash of arguments', () => {
  it('does not depend on the order of members, at any depth', () => {
    expect(hashArguments('mail', { a: 1, b: [{ c: 2, d: 3 }] })).toBe(
      hashArguments('mail', { b: [{ d: 3, c: 2 }], a: 1 }),
    );
  });

  it.each<[string, string | null, unknown]>([
    ['another tool', 'post', { a: 1, b: [1, 2] }],
    ['no tool', null, { a: 1, b: [1, 2] }],
    ['another value', 'mail', { a: 2, b: [1, 2] }],
    ['another type', 'mail', { a: '1', b: [1, 2] }],
    ['another order in a list', 'mail', { a: 1, b: [2, 1] }],
    ['a member less', 'mail', { a: 1 }],
  ])('is another one for %s', (_what, toolName, given) => {
    expect(hashArguments(toolName, given)).not.toBe(hashArguments('mail', { a: 1, b: [1, 2] }));
  });
});
