import { describe, expect, it } from 'vitest';
import { type Page, readPages, textOf } from './pages.ts';

const folder = 'docs/decisions/';
const pages = await readPages();
const records = pages.filter(({ path }) => /^docs\/decisions\/\d{4}-/.test(path));
const index = pages.find(({ path }) => path === `${folder}README.md`);

/** Cells of a page's table whose head has a column of weights; null when there is none. */
function matrixOf(page: Page): string[][] | null {
  for (const node of page.nodes) {
    if (node.type === 'paragraph') {
      const rows = textOf(node)
        .split('\n')
        .map((line) => line.split('|').map((cell) => cell.trim()))
        .map((cells) => cells.slice(1, -1));
      if (rows[0]?.[1] === 'Weight') {
        return rows;
      }
    }
  }
  return null;
}

/** Everything about a matrix that does not add up. */
function faultsOf(matrix: string[][]): string[] {
  const [head = [], , ...rows] = matrix;
  const sums = rows.find(([name]) => name?.startsWith('Weighted sum'));
  const criteria = rows.filter((row) => row !== sums);
  const numbers = (row: string[]): number[] => row.map((cell) => Number.parseFloat(cell));
  const weights = criteria.map((row) => numbers(row)[1] ?? Number.NaN);
  const whole = weights.reduce((sum, weight) => sum + weight, 0);
  const faults = whole === 100 ? [] : [`the weights add up to ${whole}`];
  for (let option = 2; option < head.length; option += 1) {
    const scores = criteria.map((row) => numbers(row)[option] ?? Number.NaN);
    const sum = scores.reduce((total, score, place) => total + score * (weights[place] ?? 0), 0);
    const written = numbers(sums ?? [])[option];
    if (scores.some((score) => !(score >= 0 && score <= 5))) {
      faults.push(`${head[option]}: a score is not from 0 to 5`);
    }
    if (written !== sum) {
      faults.push(`${head[option]}: the sum is ${sum}, not ${written}`);
    }
  }
  return faults;
}

describe('a decision record', () => {
  it.each(records.map((page) => [page.path, page] as const))('%s says what shows that it holds', (_path, page) => {
    const headings = page.nodes.filter(({ type }) => type === 'heading').map(textOf);
    expect(headings).toEqual(expect.arrayContaining(['Question', 'Options', 'Does it hold?']));
  });

  it.each(
    records.flatMap((page) => {
      const matrix = matrixOf(page);
      return matrix === null ? [] : [[page.path, matrix] as const];
    }),
  )('%s adds up', (_path, matrix) => {
    expect(faultsOf(matrix)).toEqual([]);
  });

  it('that does not add up is found', () => {
    const matrix = [
      ['Criterion', 'Weight', 'One', 'Other'],
      ['---', '---', '---', '---'],
      ['Speed', '60', '3: fair', '5'],
      ['Cost', '30', '2', '7: beyond'],
      ['Weighted sum', '', '240', '500'],
    ];
    expect(faultsOf(matrix)).toEqual([
      'the weights add up to 90',
      'Other: a score is not from 0 to 5',
      'Other: the sum is 510, not 500',
    ]);
  });

  it('is found from the index, under a number of its own', () => {
    const linked = index?.nodes.flatMap((node) => (node.type === 'link' ? [`${folder}${node.url}`] : []));
    expect(linked).toEqual(expect.arrayContaining(records.map(({ path }) => path)));
    const numbers = records.map(({ path }) => path.slice(folder.length, folder.length + 4));
    expect(numbers).toEqual([...new Set(numbers)]);
  });
});
