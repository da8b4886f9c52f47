import { cpus, totalmem } from 'node:os';

/** What one contender did: one value per round. */
export interface Series {
  readonly who: string;
  readonly metric: string;
  readonly unit: string;
  readonly values: readonly number[];
}

/** A goal as a ratio or a count, and whether this run met it. */
export interface Check {
  readonly id: string;
  readonly goal: string;
  readonly value: number;
  readonly unit: string;
  readonly ok: boolean;
}

export interface Measured {
  readonly series: readonly Series[];
  readonly checks: readonly Check[];
  /** Pictures for the documentation, by file name. */
  readonly pictures?: ReadonlyMap<string, string>;
}

export interface BenchOptions {
  /** How often every contender is measured. */
  readonly rounds: number;
  /** How long one measurement lasts. */
  readonly seconds: number;
  /** Holds the data of the embedded stack. */
  readonly dataFolder: string;
  readonly log: (line: string) => void;
}

export interface Bench {
  readonly name: string;
  readonly summary: string;
  /** Rounds when the command names no number. */
  readonly rounds: number;
  run(options: BenchOptions): Promise<Measured>;
}

/** What `--json` prints. */
export interface Report extends Omit<Measured, 'pictures'> {
  readonly name: string;
  readonly machine: string;
  /** Rounds per contender. */
  readonly runs: number;
}

/** Gathers values under who and metric, in the order in which they were first seen. */
export class Recorder {
  private readonly byKey = new Map<string, { who: string; metric: string; unit: string; values: number[] }>();

  add(who: string, metric: string, unit: string, value: number): void {
    const key = JSON.stringify([who, metric]);
    const series = this.byKey.get(key) ?? { who, metric, unit, values: [] };
    series.values.push(value);
    this.byKey.set(key, series);
  }

  /** @throws Error when nothing was recorded under that name */
  median(who: string, metric: string): number {
    return median(this.values(who, metric));
  }

  /** @throws Error when nothing was recorded under that name */
  values(who: string, metric: string): readonly number[] {
    const series = this.byKey.get(JSON.stringify([who, metric]));
    if (series === undefined) {
      throw new Error(`nothing was measured of ${who}: ${metric}`);
    }
    return series.values;
  }

  series(): Series[] {
    return [...this.byKey.values()];
  }
}

/**
 * Lets all contenders take their turn in every round. Every second round runs backwards, so that nobody always follows
 * the same neighbour and a slow change of the machine's mood touches all alike.
 */
export async function inTurns<Contender>(
  rounds: number,
  contenders: readonly Contender[],
  measure: (contender: Contender, round: number) => Promise<void>,
): Promise<void> {
  for (let round = 1; round <= rounds; round += 1) {
    for (const contender of round % 2 === 1 ? contenders : contenders.toReversed()) {
      await measure(contender, round);
    }
  }
}

/** The middle value, or the mean of the two in the middle. @throws Error for no values */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  const upper = sorted[Math.floor(middle)];
  const lower = sorted[Math.ceil(middle) - 1];
  if (upper === undefined || lower === undefined) {
    throw new Error('no values to take the median of');
  }
  return (upper + lower) / 2;
}

/** The value that the given share of all values does not exceed, by nearest rank; NaN for no values. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

/** The kind of machine, without anything that names this one. */
export function describeMachine(): string {
  const cores = cpus();
  const model = cores[0]?.model.trim() ?? 'unknown processor';
  const memory = Math.round(totalmem() / 2 ** 30);
  return `${cores.length} cores (${model}), ${memory} GiB, ${process.platform} ${process.arch}, Node ${process.versions.node}`;
}
