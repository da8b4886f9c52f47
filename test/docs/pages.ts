import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { Code, Nodes } from 'mdast';
import { fromMarkdown } from 'mdast-util-from-markdown';

export interface Page {
  path: string;
  nodes: Nodes[];
}

/** All pages under version control, and those that are about to be. */
export async function readPages(): Promise<Page[]> {
  const { stdout } = await promisify(execFile)('git', ['ls-files', '-co', '--exclude-standard', '*.md']);
  return Promise.all(stdout.trim().split('\n').map(readPage));
}

export async function readPage(path: string): Promise<Page> {
  return { path, nodes: flatten(fromMarkdown(await readFile(path, 'utf8'))) };
}

/** All parts of a page in their order. */
function flatten(node: Nodes): Nodes[] {
  return [node, ...('children' in node ? node.children.flatMap(flatten) : [])];
}

export function textOf(node: Nodes): string {
  return 'value' in node ? node.value : 'children' in node ? node.children.map(textOf).join('') : '';
}

export function codeBlocks(page: Page): Code[] {
  return page.nodes.filter((node) => node.type === 'code');
}

/** The anchors that headings get where such pages are shown. */
export function anchorsOf(page: Page): Set<string> {
  return new Set(
    page.nodes
      .filter((node) => node.type === 'heading')
      .map((node) =>
        textOf(node)
          .toLowerCase()
          .replace(/[^\p{L}\p{N}\- ]/gu, '')
          .replaceAll(' ', '-'),
      ),
  );
}
