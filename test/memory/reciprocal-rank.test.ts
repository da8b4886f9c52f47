import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { joinByReciprocalRank } from '../../src/services/reciprocal-rank.ts';

const ids = (lists: string[][]) => joinByReciprocalRank(lists).map(({ id }) => id);

describe('joining ranked lists', () => {
  it.each<[what: string, lists: string[][], joined: string[]]>([
    ['nothing', [[], []], []],
    ['one list as it is', [['b', 'a', 'c'], []], ['b', 'a', 'c']],
    [
      'what both found before what one found first',
      [
        ['a', 'both'],
        ['b', 'both'],
      ],
      ['both', 'a', 'b'],
    ],
    ['equal places by id, so that the order is steady', [['b'], ['a']], ['a', 'b']],
    ['an id that a list has twice by its first place', [['a', 'b', 'a']], ['a', 'b']],
  ])('puts %s', (_what, lists, joined) => {
    expect(ids(lists)).toEqual(joined);
  });

  it('gives the published score and each place', () => {
    expect(joinByReciprocalRank([['a', 'b'], ['b']])).toEqual([
      { id: 'b', score: 1 / 62 + 1 / 61, ranks: [2, 1] },
      { id: 'a', score: 1 / 61, ranks: [1, null] },
    ]);
  });

  it('keeps the order of a list among those that it alone found, and loses nothing', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(50)), fc.uniqueArray(fc.nat(50)), (one, other) => {
        const lists = [one, other].map((list) => list.map(String));
        const joined = ids(lists);
        expect(new Set(joined)).toEqual(new Set(lists.flat()));
        for (const [list, against] of [lists, lists.toReversed()]) {
          const alone = (list ?? []).filter((id) => !against?.includes(id));
          expect(joined.filter((id) => alone.includes(id))).toEqual(alone);
        }
      }),
    );
  });
});
