import { all, type BigNumber, create, type FunctionNode, type MathNode, type OperatorNode } from 'mathjs';
import { DomainError } from '../errors.ts';

const longestExpression = 1_000;
const mostParts = 300;
const mostNesting = 60;
/** Bounds of what takes long or tells nothing any more. */
const mostFactorial = 1_000;
const mostExponent = 10_000;
const mostAngle = 1e15;
const digits = 20;

type Compute = (...values: BigNumber[]) => unknown;

/**
 * A calculator with exact decimal numbers. The library reads the expression and computes single steps; which steps there
 * are is decided here, so that nothing of its language but arithmetic can be reached, and each step is short.
 * @returns a function that gives the result as a text
 * @throws DomainError TOOL_FAILED, from that function, for everything that is not arithmetic or too large
 */
export function createCalculator(): (expression: string) => string {
  const math = create(all ?? {}, { number: 'BigNumber', precision: 40 });
  const angle =
    (compute: Compute): Compute =>
    (value, ...more) =>
      value?.abs().lte(mostAngle) ? compute(value, ...more) : fail('An angle is too large.');
  const factorial: Compute = (value) =>
    value?.lte(mostFactorial) ? math.factorial(value) : fail('A factorial is too large.');
  const power: Compute = (base, exponent) =>
    base !== undefined && exponent?.abs().lte(mostExponent)
      ? math.pow(base, exponent)
      : fail('An exponent is too large.');
  // Called with what `evaluate` checked: numbers, in a number that the function takes or refuses.
  const operators = new Map<string, Compute>(
    Object.entries({
      add: math.add,
      subtract: math.subtract,
      multiply: math.multiply,
      divide: math.divide,
      mod: math.mod,
      unaryMinus: math.unaryMinus,
      unaryPlus: math.unaryPlus,
      pow: power,
      factorial,
    }) as [string, Compute][],
  );
  const functions = new Map<string, Compute>([
    ...(Object.entries({
      ...{ abs: math.abs, sqrt: math.sqrt, cbrt: math.cbrt, round: math.round, floor: math.floor, ceil: math.ceil },
      ...{ min: math.min, max: math.max, sum: math.sum, mean: math.mean, median: math.median, sign: math.sign },
      ...{
        exp: math.exp,
        log: math.log,
        ln: math.log,
        log10: math.log10,
        log2: math.log2,
        gcd: math.gcd,
        lcm: math.lcm,
      },
      ...{ asin: math.asin, acos: math.acos, atan: math.atan },
    }) as unknown as [string, Compute][]),
    ['sin', angle(math.sin as Compute)],
    ['cos', angle(math.cos as Compute)],
    ['tan', angle(math.tan as Compute)],
    ['pow', power],
    ['factorial', factorial],
  ]);
  const constants = new Map([
    ['pi', math.acos(math.bignumber(-1)) as unknown as BigNumber],
    ['e', math.exp(math.bignumber(1)) as BigNumber],
  ]);

  const evaluate = (node: MathNode, depth: number): BigNumber => {
    if (depth > mostNesting) {
      return fail('The expression is nested too deep.');
    }
    const below = (part: MathNode): BigNumber => evaluate(part, depth + 1);
    switch (node.type) {
      case 'ConstantNode':
        return toNumber((node as unknown as { value: unknown }).value);
      case 'ParenthesisNode':
        return below((node as unknown as { content: MathNode }).content);
      case 'SymbolNode': {
        const { name } = node as unknown as { name: string };
        return constants.get(name) ?? fail(`There is no number called ${short(name)}.`);
      }
      case 'OperatorNode': {
        const { fn, args, op } = node as unknown as OperatorNode & { fn: string };
        const compute = operators.get(fn) ?? fail(`The operator ${short(op)} is not known here.`);
        return toNumber(compute(...args.map(below)));
      }
      case 'FunctionNode': {
        const { fn, args } = node as unknown as FunctionNode;
        const name = (fn as unknown as { name?: string }).name ?? '';
        const compute = functions.get(name) ?? fail(`There is no function called ${short(name)}.`);
        return toNumber(compute(...args.map(below)));
      }
      default:
        return fail('Only numbers, + - * / ^ % !, parentheses and functions are allowed.');
    }
  };
  const toNumber = (value: unknown): BigNumber => {
    // The 100 of a percentage is a plain number.
    const number = typeof value === 'number' ? math.bignumber(value) : value;
    return math.isBigNumber(number) && number.isFinite() ? number : fail('The result is no real, finite number.');
  };

  return (expression) => {
    if (expression.length > longestExpression) {
      return fail(`The expression has more than ${longestExpression} characters.`);
    }
    try {
      const tree = math.parse(expression);
      let parts = 0;
      tree.traverse(() => {
        parts += 1;
      });
      if (parts > mostParts) {
        return fail('The expression has too many parts.');
      }
      return math.format(evaluate(tree, 0), { notation: 'auto', precision: digits, lowerExp: -9, upperExp: digits });
    } catch (error) {
      // What the library says names a place in the expression, or the types that a function takes.
      throw error instanceof DomainError
        ? error
        : new DomainError('TOOL_FAILED', 'The expression can not be calculated.', { cause: error });
    }
  };
}

function fail(message: string): never {
  throw new DomainError('TOOL_FAILED', message);
}

function short(text: string): string {
  return `"${text.slice(0, 30)}"`;
}
