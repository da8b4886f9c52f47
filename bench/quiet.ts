import { readFile } from 'node:fs/promises';

/** What was measured while the machine had its processors to itself, as far as its host let it. */
export interface Measurement<Result> {
  readonly result: Result;
  /** Part of the machine's processor time that its host gave to others meanwhile: 0 to 1. */
  readonly taken: number;
  /** What else was measured and set aside, as the host took more then; what it took least from comes first. */
  readonly setAside: readonly Result[];
}

/** Processor time of all cores since the machine started, in ticks of its clock. */
export interface ProcessorTime {
  readonly all: number;
  /** Something was to be done, and the host did something else. */
  readonly taken: number;
}

/** More than this part of the processor time, and a measurement tells of the machine's neighbours. */
const mostTaken = 0.01;
/** Milliseconds after which no further try begins. */
const patience = 45_000;

export interface QuietOptions {
  readTime?: () => Promise<ProcessorTime>;
  /** Milliseconds since any moment. */
  now?: () => number;
}

/**
 * Measures again while the host of a virtual machine takes processor time away, and keeps what was measured while it took
 * least. What came out has no say in that: who measures must tell what was set aside too.
 */
export async function measureInQuiet<Result>(
  measure: () => Promise<Result>,
  { readTime = readProcessorTime, now = () => performance.now() }: QuietOptions = {},
): Promise<Measurement<Result>> {
  const tries: { result: Result; taken: number }[] = [];
  const end = now() + patience;
  do {
    const before = await readTime();
    const result = await measure();
    const after = await readTime();
    tries.push({ result, taken: (after.taken - before.taken) / Math.max(1, after.all - before.all) });
  } while (now() < end && tries.every(({ taken }) => taken > mostTaken));
  const [kept, ...others] = tries.toSorted((one, other) => one.taken - other.taken);
  if (kept === undefined) {
    throw new Error('nothing was measured');
  }
  return { ...kept, setAside: others.map(({ result }) => result) };
}

/** Only Linux tells; elsewhere nothing counts as taken. The fields are those of proc_stat(5). */
async function readProcessorTime(): Promise<ProcessorTime> {
  const text = process.platform === 'linux' ? await readFile('/proc/stat', 'utf8') : '';
  const [line = ''] = text.split('\n');
  // user, nice, system, idle, iowait, irq, softirq and steal: the times of guests behind them are part of the first two.
  const ticks = line.split(/\s+/).slice(1, 9).map(Number);
  return { all: ticks.reduce((sum, value) => sum + value, 0), taken: ticks[7] ?? 0 };
}
