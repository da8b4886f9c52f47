import { readFile, writeFile } from 'node:fs/promises';
import { type Check, median, type Report, type Series } from './harness.ts';

/** The figures of a run as Markdown: a row per metric, a column per contender, medians with the least and the most. */
export function formatReport(report: Report, command: string, date: Date): string {
  const day = date.toISOString().slice(0, 10);
  return [
    `\`${command}\`, ${day}, ${report.machine}. Medians of ${report.runs} rounds (least–most).`,
    formatSeries(report.series),
    formatChecks(report.checks),
  ].join('\n\n');
}

function formatSeries(series: readonly Series[]): string {
  const contenders = [...new Set(series.map(({ who }) => who))];
  const metrics = Map.groupBy(series, ({ metric, unit }) => `${metric}, ${unit}`);
  const rows = [...metrics].map(([metric, measured]) => [
    metric,
    ...contenders.map((who) => {
      const values = measured.find((one) => one.who === who)?.values;
      return values === undefined ? '' : formatValues(values);
    }),
  ]);
  return formatTable(['', ...contenders], rows);
}

function formatChecks(checks: readonly Check[]): string {
  const rows = checks.map(({ id, goal, value, unit, ok }) => [
    `\`${id}\``,
    goal,
    `${formatNumber(value)}${unit === '' ? '' : ` ${unit}`}`,
    ok ? 'met' : '**not met**',
  ]);
  return formatTable(['check', 'goal', 'this run', ''], rows);
}

function formatValues(values: readonly number[]): string {
  const least = formatNumber(Math.min(...values));
  const most = formatNumber(Math.max(...values));
  return least === most ? least : `${formatNumber(median(values))} (${least}–${most})`;
}

/** Three digits that count; more would claim a precision that isn't there. */
function formatNumber(value: number): string {
  if (!Number.isFinite(value)) {
    return 'none';
  }
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return Number(value.toFixed(digits)).toLocaleString('en-US');
}

function formatTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) => Math.max(3, title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    `| ${widths.map((width, column) => (cells[column] ?? '').padEnd(width)).join(' | ')} |`;
  return [line(head), `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`, ...rows.map(line)].join('\n');
}

/** Puts the figures between the benchmark's two marks in the page. @throws Error when the page lacks them */
export async function updatePage(page: string, name: string, figures: string): Promise<void> {
  const text = await readFile(page, 'utf8');
  const [start, end] = [`<!-- figures of ${name} -->`, `<!-- end of ${name} -->`];
  const [from, to] = [text.indexOf(start), text.indexOf(end)];
  if (from < 0 || to < from) {
    throw new Error(`${page} has no place for the figures of ${name}: put "${start}" and "${end}" where they belong`);
  }
  await writeFile(page, `${text.slice(0, from)}${start}\n${figures}\n${text.slice(to)}`);
}
