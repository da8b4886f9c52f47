import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join, normalize } from 'node:path';
import { buildSchema, parse, validate } from 'graphql';
import { describe, expect, it } from 'vitest';
import { graphiqlOptions } from '../../src/graphiql.ts';
import { anchorsOf, codeBlocks, type Page, readPage, readPages } from './pages.ts';

const pages = await readPages();
const files = pages.map((page) => [page.path, page] as const);

/** Links and pictures of a page that lead to nothing. */
async function deadLinks({ path, nodes }: Page): Promise<string[]> {
  const dead: string[] = [];
  for (const node of nodes) {
    if ((node.type === 'link' || node.type === 'image') && !/^[a-z]+:/.test(node.url)) {
      const [file = '', anchor] = node.url.split('#');
      const target = file === '' ? path : normalize(join(dirname(path), file));
      if (!existsSync(target)) {
        dead.push(node.url);
      } else if (anchor !== undefined && !anchorsOf(await readPage(target)).has(anchor)) {
        dead.push(node.url);
      }
    }
  }
  return dead;
}

/** Everything of a page that is written as code, a line each. */
function codeLines({ nodes }: Page): string[] {
  return nodes.flatMap((node) => (node.type === 'inlineCode' || node.type === 'code' ? node.value.split('\n') : []));
}

/** Commands that package.json does not have. */
function unknownScripts(page: Page, scripts: ReadonlySet<string>): string[] {
  return codeLines(page)
    .flatMap((line) => [...line.matchAll(/\bnpm run (?:--silent )?([\w:-]+)/g)].map(([, name]) => name ?? ''))
    .filter((name) => !scripts.has(name));
}

/** Files and folders of this repository that are named as code and are not there. */
function missingPaths(page: Page): string[] {
  return codeLines(page)
    .flatMap((line) => [
      ...line.matchAll(/(?<![@\w./-])(?:src|test|bench|dev|deploy|docs|examples|prisma|scripts)\/[\w./-]*[\w/]/g),
    ])
    .map(([path]) => path)
    .filter((path) => !existsSync(path) && !isMade(path));
}

/** What generators and builds make is not there in a fresh clone. */
function isMade(path: string): boolean {
  return /(^|\/)(generated|dist)(\/|$)/.test(path);
}

describe('the documentation', () => {
  it.each(files)('%s: every link leads somewhere', async (_path, page) => {
    expect(await deadLinks(page)).toEqual([]);
  });

  it.each(files)('%s: every command exists', async (_path, page) => {
    const { scripts } = JSON.parse(await readFile('package.json', 'utf8')) as { scripts: Record<string, string> };
    expect(unknownScripts(page, new Set(Object.keys(scripts)))).toEqual([]);
  });

  it.each(files)('%s: every file that it names exists', (_path, page) => {
    expect(missingPaths(page)).toEqual([]);
  });

  it.each(files)('%s: every operation fits the schema', async (_path, page) => {
    const schema = buildSchema(await readFile('schema.graphql', 'utf8'));
    const faults = codeBlocks(page)
      .filter(({ lang }) => lang === 'graphql')
      .flatMap(({ value }) => validate(schema, parse(value)).map(({ message }) => message));
    expect(faults).toEqual([]);
  });

  it('and the ready examples of GraphiQL fit the schema', async () => {
    const schema = buildSchema(await readFile('schema.graphql', 'utf8'));
    const tabs = graphiqlOptions(null, new URL('http://localhost/graphql')).defaultTabs ?? [];
    expect(tabs.length).toBeGreaterThan(0);
    expect(tabs.flatMap(({ query }) => validate(schema, parse(query ?? '')).map(({ message }) => message))).toEqual([]);
  });

  it('leads to every page from the one that everybody opens first', async () => {
    const reached = new Set(['README.md', 'CONTRIBUTING.md']);
    for (const path of reached) {
      const page = pages.find((one) => one.path === path);
      for (const node of page?.nodes ?? []) {
        if (node.type === 'link' && !/^[a-z]+:/.test(node.url)) {
          const target = normalize(join(dirname(path), node.url.split('#')[0] ?? ''));
          reached.add(target.endsWith('.md') ? target : join(target, 'README.md'));
        }
      }
    }
    expect(pages.map(({ path }) => path).filter((path) => !reached.has(path))).toEqual([]);
  });
});
