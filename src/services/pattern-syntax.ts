/** Code points, as pairs of the first and the last of each stretch. */
export type Ranges = readonly (readonly [from: number, to: number])[];

/** What a regular expression is made of. Assertions of a place, such as `^`, read nothing and count as empty. */
export type PatternNode =
  | { kind: 'empty' }
  | { kind: 'characters'; ranges: Ranges }
  | { kind: 'sequence' | 'alternatives'; parts: PatternNode[] }
  | { kind: 'repeat'; inner: PatternNode; least: number; most: number };

const last = 0x10_ff_ff;
const any: Ranges = [[0, last]];
const digits: Ranges = [[48, 57]];
const word: Ranges = [
  [48, 57],
  [65, 90],
  [95, 95],
  [97, 122],
];
const space: Ranges = [
  [9, 13],
  [32, 32],
  [160, 160],
  [5760, 5760],
  [8192, 8202],
  [8232, 8233],
  [8239, 8239],
  [8287, 8287],
  [12288, 12288],
  [65279, 65279],
];
const controls: Record<string, number> = { t: 9, n: 10, v: 11, f: 12, r: 13, '0': 0 };

/** Groups nest at most so deep. */
const deepest = 30;

/**
 * Takes a pattern apart that `new RegExp(pattern, 'u')` has accepted, so that no syntax is checked here.
 * @returns its tree, or why it is beyond what can be judged
 */
export function parsePattern(pattern: string): { node: PatternNode } | { fault: string } {
  try {
    return { node: new Reader(pattern).read() };
  } catch (error) {
    if (error instanceof BeyondJudgement) {
      return { fault: error.message };
    }
    throw error;
  }
}

class BeyondJudgement extends Error {}

class Reader {
  private readonly characters: string[];
  private place = 0;
  private depth = 0;

  constructor(pattern: string) {
    this.characters = [...pattern];
  }

  read(): PatternNode {
    const alternatives: PatternNode[] = [];
    let sequence: PatternNode[] = [];
    for (let next = this.peek(); next !== undefined && next !== ')'; next = this.peek()) {
      if (next === '|') {
        this.place += 1;
        alternatives.push({ kind: 'sequence', parts: sequence });
        sequence = [];
      } else {
        sequence.push(this.readRepeated());
      }
    }
    alternatives.push({ kind: 'sequence', parts: sequence });
    return alternatives.length === 1 && alternatives[0] !== undefined
      ? alternatives[0]
      : { kind: 'alternatives', parts: alternatives };
  }

  private peek(): string | undefined {
    return this.characters[this.place];
  }

  private take(): string {
    const next = this.characters[this.place] ?? '';
    this.place += 1;
    return next;
  }

  /** Takes all up to and with the character, and gives what stood before it. */
  private takeUntil(end: string): string {
    let text = '';
    for (let next = this.take(); next !== end && next !== ''; next = this.take()) {
      text += next;
    }
    return text;
  }

  private readRepeated(): PatternNode {
    const inner = this.readOne();
    const [least, most] = this.readCount();
    return least === 1 && most === 1 ? inner : { kind: 'repeat', inner, least, most };
  }

  private readCount(): [number, number] {
    const sign = this.peek();
    let count: [number, number] = [1, 1];
    if (sign === '*' || sign === '+' || sign === '?') {
      this.place += 1;
      count = [sign === '+' ? 1 : 0, sign === '?' ? 1 : Number.POSITIVE_INFINITY];
    } else if (sign === '{') {
      this.place += 1;
      const [least = '', most] = this.takeUntil('}').split(',');
      count = [
        Number(least),
        most === undefined ? Number(least) : most === '' ? Number.POSITIVE_INFINITY : Number(most),
      ];
    } else {
      return count;
    }
    if (this.peek() === '?') {
      // Lazy repeats read the same texts.
      this.place += 1;
    }
    return count;
  }

  private readOne(): PatternNode {
    const next = this.take();
    switch (next) {
      case '^':
      case '$':
        return { kind: 'empty' };
      case '.':
        return { kind: 'characters', ranges: any };
      case '(':
        return this.readGroup();
      case '[':
        return { kind: 'characters', ranges: this.readClass() };
      case '\\':
        return this.readEscape();
      default:
        return { kind: 'characters', ranges: single(codePoint(next)) };
    }
  }

  private readGroup(): PatternNode {
    if (this.peek() === '?') {
      this.place += 1;
      const kind = this.take();
      const isNamed = kind === '<' && this.peek() !== '=' && this.peek() !== '!';
      if (isNamed) {
        this.takeUntil('>');
      } else if (kind !== ':') {
        throw new BeyondJudgement('looks ahead or behind, which is not allowed here');
      }
    }
    this.depth += 1;
    if (this.depth > deepest) {
      throw new BeyondJudgement(`nests groups more than ${deepest} deep`);
    }
    const node = this.read();
    this.depth -= 1;
    this.place += 1;
    return node;
  }

  private readEscape(): PatternNode {
    const next = this.peek() ?? '';
    if (next === 'b' || next === 'B') {
      this.place += 1;
      return { kind: 'empty' };
    }
    if (/[1-9k]/.test(next)) {
      throw new BeyondJudgement('refers back to a group, which is not allowed here');
    }
    return { kind: 'characters', ranges: this.readEscapedCharacters() };
  }

  private readClass(): Ranges {
    const isInverted = this.peek() === '^';
    if (isInverted) {
      this.place += 1;
    }
    const ranges: (readonly [number, number])[] = [];
    for (let next = this.take(); next !== ']' && next !== ''; next = this.take()) {
      const from = next === '\\' ? this.readEscapedCharacters(true) : single(codePoint(next));
      if (this.peek() === '-' && this.characters[this.place + 1] !== ']') {
        this.place += 1;
        const end = this.take();
        const to = end === '\\' ? this.readEscapedCharacters(true) : single(codePoint(end));
        ranges.push([from[0]?.[0] ?? 0, to.at(-1)?.[1] ?? last]);
      } else {
        ranges.push(...from);
      }
    }
    return isInverted ? inverted(ranges) : ranges;
  }

  private readEscapedCharacters(inClass = false): Ranges {
    const next = this.take();
    const control = controls[next];
    if (control !== undefined) {
      return single(control);
    }
    switch (next) {
      case 'd':
        return digits;
      case 'D':
        return inverted(digits);
      case 'w':
        return word;
      case 'W':
        return inverted(word);
      case 's':
        return space;
      case 'S':
        return inverted(space);
      case 'b':
        return inClass ? single(8) : any;
      case 'c':
        return single(codePoint(this.take()) % 32);
      case 'x':
        return single(Number.parseInt(this.take() + this.take(), 16));
      case 'u':
        return single(this.readUnicode());
      case 'p':
      case 'P':
        // Which characters have a property is beyond this: taken for all, it is judged too strictly at most.
        this.takeUntil('}');
        return any;
      default:
        return single(codePoint(next));
    }
  }

  private readUnicode(): number {
    if (this.peek() === '{') {
      this.place += 1;
      return Number.parseInt(this.takeUntil('}'), 16);
    }
    const unit = this.readUnit();
    const isPair = unit >= 0xd800 && unit < 0xdc00 && this.peek() === '\\' && this.characters[this.place + 1] === 'u';
    if (!isPair) {
      return unit;
    }
    this.place += 2;
    return String.fromCharCode(unit, this.readUnit()).codePointAt(0) ?? 0;
  }

  private readUnit(): number {
    return Number.parseInt(this.take() + this.take() + this.take() + this.take(), 16);
  }
}

function codePoint(character: string): number {
  return character.codePointAt(0) ?? 0;
}

function single(code: number): Ranges {
  return [[code, code]];
}

function inverted(ranges: Ranges): Ranges {
  const result: [number, number][] = [];
  let next = 0;
  for (const [from, to] of [...ranges].sort((one, other) => one[0] - other[0])) {
    if (from > next) {
      result.push([next, from - 1]);
    }
    next = Math.max(next, to + 1);
  }
  return next > last ? result : [...result, [next, last]];
}
