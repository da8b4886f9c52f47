import { describe, expect, it } from 'vitest';
import { type Page, readPages, textOf } from './pages.ts';

const folder = 'docs/decisions/';
const pages = await readPages();
const records = pages.filter(({ path }) => /^docs\/decisions\/\d{4}-/.test(path));
const index = pages.find(({ path }) => path === `${folder}README.md`);

/** Cells of each of a page's tables. */
function tablesOf(page: Page): string[][][] {
  return page.nodes
    .filter((node) => node.type === 'paragraph')
    .map((node) => textOf(node).split('\n'))
    .filter((lines) => lines.every((line) => line.startsWith('|')))
    .map((lines) =>
      lines.map((line) =>
        line
          .split('|')
          .slice(1, -1)
          .map((cell) => cell.trim()),
      ),
    );
}

/** The tables of a page that weigh something. */
function matricesOf(page: Page): string[][][] {
  return tablesOf(page).filter(([head]) => head?.some((cell) => /weight/i.test(cell)));
}

/** Everything about a matrix that does not add up. */
function faultsOf(matrix: string[][]): string[] {
  const [head = [], , ...rows] = matrix;
  if (head[0] !== 'Criterion' || head[1] !== 'Weight') {
    return ['the first columns are not Criterion and Weight'];
  }
  const sums = rows.find(([name]) => name?.startsWith('Weighted sum'));
  const criteria = rows.filter((row) => row !== sums);
  const numbers = (row: string[]): number[] => row.map((cell) => Number.parseFloat(cell));
  const weights = criteria.map((row) => numbers(row)[1] ?? Number.NaN);
  const whole = weights.reduce((sum, weight) => sum + weight, 0);
  const faults = whole === 100 ? [] : [`the weights add up to ${whole}`];
  for (const [name] of criteria.filter((row) => !row.slice(2).some((cell) => /^\d: ./.test(cell)))) {
    faults.push(`${name}: no score has a reason`);
  }
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

const files = records.map((page) => [page.path, page] as const);

const order = ['Question', 'Options', 'Criteria and scores', 'Choice', 'Does it hold?', 'What would change our mind'];

/** Texts and code of the section with this heading. */
function sectionOf(page: Page, heading: string): string {
  const start = page.nodes.findIndex((node) => node.type === 'heading' && textOf(node) === heading);
  const rest = page.nodes.slice(start + 1);
  const end = rest.findIndex(({ type }) => type === 'heading');
  return rest
    .slice(0, end === -1 ? rest.length : end)
    .map(textOf)
    .join('\n');
}

describe('a decision record', () => {
  it.each(files)('%s has all its parts in their order', (_path, page) => {
    const headings = page.nodes.filter(({ type }) => type === 'heading').map(textOf);
    const parts = headings.map((heading) => heading.replace(/^Choice and its price$/, 'Choice'));
    // Others may stand between them.
    expect(parts.filter((part) => order.includes(part))).toEqual(order);
  });

  it.each(files)('%s names the benchmark or test that shows that it holds', (_path, page) => {
    expect(sectionOf(page, 'Does it hold?')).toMatch(/npm run bench -- \w|test\/\w+\//);
  });

  it.each(files)('%s has one matrix, and it adds up', (_path, page) => {
    expect(matricesOf(page).map(faultsOf)).toEqual([[]]);
  });

  it('that does not add up is found', () => {
    const matrix = [
      ['Criterion', 'Weight', 'One', 'Other'],
      ['---', '---', '---', '---'],
      ['Speed', '60', '3: fair', '5'],
      ['Cost', '30', '2', '7'],
      ['Weighted sum', '', '240', '500'],
    ];
    expect(faultsOf(matrix)).toEqual([
      'the weights add up to 90',
      'Cost: no score has a reason',
      'Other: a score is not from 0 to 5',
      'Other: the sum is 510, not 500',
    ]);
  });

  it('whose matrix has other columns is found', () => {
    const matrix = [['criterion', 'weight', 'One']];
    expect(faultsOf(matrix)).toEqual(['the first columns are not Criterion and Weight']);
  });

  it('is found from the index, under a number of its own', () => {
    const linked = index?.nodes.flatMap((node) => (node.type === 'link' ? [`${folder}${node.url}`] : []));
    expect(linked).toEqual(expect.arrayContaining(records.map(({ path }) => path)));
    const numbers = records.map(({ path }) => path.slice(folder.length, folder.length + 4));
    expect(numbers).toEqual([...new Set(numbers)]);
  });
});
