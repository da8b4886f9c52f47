import { readFile, writeFile } from 'node:fs/promises';
import { percentile } from '../../bench/harness.ts';
import type { Attempt } from './load.ts';

/** A row of the table: what one fault did, as users saw it. */
export interface Row {
  fault: string;
  /** Attempts of users' clients, and how many of them failed. */
  attempts: number;
  failed: number;
  /** What the failed ones were told, most often first. */
  told: string;
  /** Longest time in which none of all users' attempts went well, in milliseconds. */
  longestGap: number;
  /** From the end of the fault to the first request and message that went well, in milliseconds. */
  recovery: number;
  /** From the end of the fault until all memories were searched by meaning again, in milliseconds. */
  remembered: number;
  /** From the end of the fault until every task was done, in milliseconds. */
  drained: number;
  messages: number;
}

/** Sums up what clients met from the beginning of a fault on. */
export function summarize(
  fault: string,
  attempts: readonly Attempt[],
  times: { begin: number; end: number; recovered: number; remembered: number; drained: number },
  messages: number,
): Row {
  const met = attempts.filter(({ at }) => at >= times.begin);
  const failed = met.filter((attempt) => attempt.fault !== null);
  const degraded = met.filter((attempt) => attempt.degraded === true).length;
  const kinds = Map.groupBy(failed, (attempt) => attempt.fault ?? '');
  const told = [...kinds]
    .toSorted(([, one], [, other]) => other.length - one.length)
    .map(([kind, all]) => `${kind} ×${all.length}`)
    .join(', ');
  const successes = met
    .filter((attempt) => attempt.fault === null)
    .map(({ at, milliseconds }) => at + milliseconds)
    .toSorted((one, other) => one - other);
  const gaps = [times.begin, ...successes].map((at, place, all) => (all[place + 1] ?? at) - at);
  return {
    fault,
    attempts: met.length,
    failed: failed.length,
    told: [
      ...(told === '' ? ['nothing failed'] : [told]),
      ...(degraded === 0 ? [] : [`memory searched by words alone ×${degraded}`]),
    ].join('; '),
    longestGap: Math.max(...gaps),
    recovery: Math.max(0, times.recovered - times.end),
    remembered: Math.max(0, times.remembered - times.end),
    drained: Math.max(0, times.drained - times.end),
    messages,
  };
}

/** The median of what users waited while nothing was wrong. */
export function usualWait(attempts: readonly Attempt[]): number {
  return percentile(
    attempts.filter(({ fault }) => fault === null).map(({ milliseconds }) => milliseconds),
    0.5,
  );
}

const page = 'docs/reliability.md';
const [startMark, endMark] = ['<!-- figures of the fault suite -->', '<!-- end of the fault suite -->'];

/** Writes the rows into the page. @throws Error when the page has no place for them */
export async function writeReport(rows: readonly Row[], date: Date): Promise<void> {
  const seconds = (milliseconds: number): string => `${(milliseconds / 1_000).toFixed(1)} s`;
  const head = [
    'Fault',
    'Attempts',
    'Failed',
    'What those were told',
    'Longest time without an answer',
    'First success after its end',
    'Memory by meaning again after',
    'All tasks done after',
  ];
  const lines = rows.map((row) =>
    [
      row.fault,
      String(row.attempts),
      String(row.failed),
      row.told,
      seconds(row.longestGap),
      seconds(row.recovery),
      seconds(row.remembered),
      seconds(row.drained),
    ].join(' | '),
  );
  const messages = rows.reduce((sum, row) => sum + row.messages, 0);
  const table = [
    `\`npm run test:faults\`, ${date.toISOString().slice(0, 10)}: ${rows.length} faults, ${messages.toLocaleString('en-US')} acknowledged messages, none lost, none`,
    'answered twice; every stream got every event once and in order.',
    '',
    `| ${head.join(' | ')} |`,
    `| ${head.map(() => '---').join(' | ')} |`,
    ...lines.map((line) => `| ${line} |`),
  ].join('\n');
  const text = await readFile(page, 'utf8');
  const [from, to] = [text.indexOf(startMark), text.indexOf(endMark)];
  if (from < 0 || to < from) {
    throw new Error(`${page} has no place for the table`);
  }
  await writeFile(page, `${text.slice(0, from)}${startMark}\n${table}\n${text.slice(to)}`);
}
