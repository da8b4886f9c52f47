import { type PatternNode, parsePattern, type Ranges } from './pattern-syntax.ts';

/** Most characters of a pattern. */
const longestPattern = 500;
/** Most places of a pattern, with its counted repeats written out; what is more is taken for an endless repeat. */
const mostPlaces = 300;
/** Most pairs of places that are looked at. */
const mostPairs = 200_000;

/**
 * Why a regular expression may not be used on texts that somebody else chooses; null when it may. A backtracking matcher
 * takes exponential time exactly where a loop of the pattern can read one text in two ways
 * (Weideman et al., Analyzing Matching Time Behavior of Backtracking Regular Expression Matchers, CIAA 2016), so that is
 * what is looked for, in the pattern's automaton of places (Glushkov 1961).
 */
export function findPatternFault(pattern: string): string | null {
  if (pattern.length > longestPattern) {
    return `has more than ${longestPattern} characters`;
  }
  try {
    new RegExp(pattern, 'u');
  } catch {
    return 'is not a regular expression of ECMAScript with the flag u';
  }
  const parsed = parsePattern(pattern);
  return 'fault' in parsed ? parsed.fault : findAmbiguity(parsed.node);
}

interface Part {
  nullable: boolean;
  first: number[];
  last: number[];
}

/** The automaton: which place may follow which. */
interface Places {
  characters: Ranges[];
  follow: Set<number>[];
  /** Steps that there are two ways to take. */
  doubled: [from: number, to: number][];
}

function findAmbiguity(node: PatternNode): string | null {
  const places: Places = { characters: [], follow: [], doubled: [] };
  build(node, places);
  const loops = components(
    places.follow.map((_next, place) => place),
    (place) => [...(places.follow[place] ?? [])],
  );
  const ambiguous = 'could take endless time: a repeat in it can read the same text in more than one way';
  if (places.doubled.some(([from, to]) => loops.get(from) === loops.get(to))) {
    return ambiguous;
  }
  // Two ways through the same text: a pair of places that both read each next character.
  const size = places.follow.length;
  let looked = 0;
  const pairsAfter = (pair: number): number[] => {
    const next: number[] = [];
    for (const one of places.follow[Math.floor(pair / size)] ?? []) {
      for (const other of places.follow[pair % size] ?? []) {
        looked += 1;
        if (looked <= mostPairs && overlap(places.characters[one] ?? [], places.characters[other] ?? [])) {
          next.push(one * size + other);
        }
      }
    }
    return next;
  };
  const twins = places.follow.map((_next, place) => place * size + place);
  const cycles = components(twins, pairsAfter);
  if (looked > mostPairs) {
    return 'is too complex to be checked';
  }
  const withTwin = new Set(twins.map((twin) => cycles.get(twin)));
  const parted = [...cycles].some(([pair, cycle]) => Math.floor(pair / size) !== pair % size && withTwin.has(cycle));
  return parted ? ambiguous : null;
}

function build(node: PatternNode, places: Places): Part {
  switch (node.kind) {
    case 'empty':
      return { nullable: true, first: [], last: [] };
    case 'characters': {
      const place = places.characters.push(node.ranges) - 1;
      places.follow.push(new Set());
      return { nullable: false, first: [place], last: [place] };
    }
    case 'alternatives': {
      const parts = node.parts.map((part) => build(part, places));
      return {
        nullable: parts.some((part) => part.nullable),
        first: parts.flatMap((part) => part.first),
        last: parts.flatMap((part) => part.last),
      };
    }
    case 'sequence':
      return node.parts
        .map((part) => build(part, places))
        .reduce((left, right) => join(left, right, places), { nullable: true, first: [], last: [] });
    case 'repeat':
      return buildRepeat(node, places);
  }
}

function buildRepeat(node: PatternNode & { kind: 'repeat' }, places: Places): Part {
  const { inner, least, most } = node;
  const copies = most === Number.POSITIVE_INFINITY ? Math.max(least, 1) : most;
  if (copies === 0) {
    return { nullable: true, first: [], last: [] };
  }
  if (places.characters.length + copies * countPlaces(inner) > mostPlaces) {
    const part = build(inner, places);
    connect(part.last, part.first, places);
    return { ...part, nullable: part.nullable || least === 0 };
  }
  // x{2,4} is x x (x (x)?)?, so that a text has one way through it.
  let result: Part | null = null;
  for (let copy = copies; copy >= 1; copy -= 1) {
    const part = build(inner, places);
    if (copy === copies && most === Number.POSITIVE_INFINITY) {
      connect(part.last, part.first, places);
    }
    const joined: Part = result === null ? part : join(part, result, places);
    result = { ...joined, nullable: joined.nullable || copy > least };
  }
  return result ?? { nullable: true, first: [], last: [] };
}

function join(left: Part, right: Part, places: Places): Part {
  connect(left.last, right.first, places);
  return {
    nullable: left.nullable && right.nullable,
    first: left.nullable ? [...left.first, ...right.first] : left.first,
    last: right.nullable ? [...left.last, ...right.last] : right.last,
  };
}

function connect(from: readonly number[], to: readonly number[], places: Places): void {
  for (const one of from) {
    for (const other of to) {
      if (places.follow[one]?.has(other) === true) {
        places.doubled.push([one, other]);
      }
      places.follow[one]?.add(other);
    }
  }
}

function countPlaces(node: PatternNode): number {
  switch (node.kind) {
    case 'empty':
      return 0;
    case 'characters':
      return 1;
    case 'repeat':
      return countPlaces(node.inner) * (node.most === Number.POSITIVE_INFINITY ? Math.max(node.least, 1) : node.most);
    default:
      return node.parts.reduce((sum, part) => sum + countPlaces(part), 0);
  }
}

function overlap(one: Ranges, other: Ranges): boolean {
  return one.some(([from, to]) => other.some(([start, end]) => from <= end && start <= to));
}

/**
 * Number of the strongly connected component of every vertex that can be reached, without recursion
 * (Tarjan, Depth-first search and linear graph algorithms, 1972).
 */
function components(starts: readonly number[], after: (vertex: number) => number[]): Map<number, number> {
  const index = new Map<number, number>();
  const low = new Map<number, number>();
  const found = new Map<number, number>();
  const open: number[] = [];
  let count = 0;
  for (const start of starts.filter((vertex) => !index.has(vertex))) {
    const path = [{ vertex: start, next: enter(start) }];
    for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
      const { vertex, next } = top;
      const child = next.pop();
      if (child === undefined) {
        path.pop();
        const above = path.at(-1);
        if (above !== undefined) {
          low.set(above.vertex, Math.min(low.get(above.vertex) ?? 0, low.get(vertex) ?? 0));
        }
        if (low.get(vertex) === index.get(vertex)) {
          close(vertex);
        }
      } else if (!index.has(child)) {
        path.push({ vertex: child, next: enter(child) });
      } else if (!found.has(child)) {
        low.set(vertex, Math.min(low.get(vertex) ?? 0, index.get(child) ?? 0));
      }
    }
  }
  return found;

  function enter(vertex: number): number[] {
    index.set(vertex, index.size);
    low.set(vertex, index.size - 1);
    open.push(vertex);
    return after(vertex);
  }
  function close(root: number): void {
    count += 1;
    for (let vertex = open.pop(); vertex !== undefined; vertex = open.pop()) {
      found.set(vertex, count);
      if (vertex === root) {
        return;
      }
    }
  }
}
