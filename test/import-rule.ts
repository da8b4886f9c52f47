import { readdir, readFile } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { parseAst } from 'vitest/node';

/** A source file as the rule sees it. */
export interface SourceFile {
  lines: number;
  imports: {
    /** A path from the root of the sources, or the name of a package. */
    target: string;
    /** Gone after types were stripped. */
    typeOnly: boolean;
  }[];
  readsEnvironment: boolean;
}

/** Files by their path from the root of the sources. */
export type SourceTree = Record<string, SourceFile>;

/** Rooms from top to bottom. A file may import from its own room and from rooms of the lines below its own. */
const floors = [
  ['server', 'worker'],
  ['shutdown'],
  ['app'],
  ['process'],
  ['http', 'monitor', 'runner'],
  ['http-limits'],
  ['streams'],
  ['health', 'graphiql', 'graphql-errors', 'http-observation', 'document-limits', 'resolvers'],
  ['schema'],
  ['services'],
  ['queue', 'auth'],
  ['operation'],
  ['outbox', 'governor', 'terms'],
  ['adapters'],
  ['generated'],
  ['config', 'errors'],
];

/** Rooms that may know GraphQL, and the packages and rooms by which one knows it. */
const graphqlRooms = new Set([
  ...['app', 'http', 'http-limits', 'document-limits', 'graphiql', 'graphql-errors', 'http-observation'],
  ...['streams', 'resolvers', 'schema'],
]);
const graphqlTargets =
  /^(graphql|graphql-yoga|graphql-scalars|graphql-sse|@pothos\/.+|@graphql-yoga\/.+|(graphiql|graphql-errors|http-limits|document-limits|streams|resolvers|schema)(\.ts|\/.+))$/;

/** Packages that reach outside of the process: only adapters hold them. */
const outsidePackages =
  /^(pg|ioredis|rate-limiter-flexible|openai|pino|prom-client|undici|@modelcontextprotocol\/.+|@opentelemetry\/.+|graphql-subscriptions|graphql-redis-subscriptions|@prisma\/.+|@qdrant\/.+)$/;

const environmentReaders = new Set(['server.ts', 'worker.ts']);
const configReaders = new Set(['server', 'worker', 'app']);
const emptyNames = /(^|[/-])(utils?|common|helpers?|managers?|misc)([./-]|$)/;
const longestFile = 400;

/** Every break of the rules of the house, one line each. */
export function checkTree(tree: SourceTree): string[] {
  const files = Object.keys(tree).sort();
  return [
    ...files.flatMap((file) => checkImports(file, tree[file]?.imports ?? [])),
    ...files.flatMap((file) => checkFile(file, tree[file])),
    ...checkNouns(tree),
    ...findCycles(tree),
  ];
}

function checkImports(file: string, imports: SourceFile['imports']): string[] {
  const room = roomOf(file);
  const floor = floorOf(room);
  if (floor < 0) {
    return [`${file}: the room "${room}" has no floor in test/import-rule.ts`];
  }
  return imports.flatMap(({ target, typeOnly }) => {
    const to = roomOf(target);
    const inside = target.endsWith('.ts');
    const reasons = [
      inside && to !== room && floorOf(to) <= floor ? 'which is not below it' : null,
      graphqlTargets.test(target) && !graphqlRooms.has(room) ? 'and may not know GraphQL' : null,
      outsidePackages.test(target) && room !== 'adapters' ? 'which only adapters may' : null,
      inside && to === 'adapters' && !typeOnly && (room === 'resolvers' || room === 'schema')
        ? 'and may know no adapter at run time'
        : null,
      inside && to === 'config' && !configReaders.has(room) ? 'though settings are handed down' : null,
    ];
    return reasons.filter((reason) => reason !== null).map((reason) => `${file}: imports ${target}, ${reason}`);
  });
}

function checkFile(file: string, source: SourceFile | undefined): string[] {
  return [
    ...((source?.lines ?? 0) > longestFile ? [`${file}: has ${source?.lines} lines; it is about to be two nouns`] : []),
    ...(emptyNames.test(file) ? [`${file}: the name says nothing`] : []),
    ...(source?.readsEnvironment === true && !environmentReaders.has(file) ? [`${file}: reads the environment`] : []),
  ];
}

/** One noun has one file name in every room. */
function checkNouns(tree: SourceTree): string[] {
  return Object.keys(tree)
    .filter((file) => roomOf(file) === 'resolvers' && !['resolvers/schema.ts', 'resolvers/mutation.ts'].includes(file))
    .flatMap((file) => {
      const noun = file.slice('resolvers/'.length);
      return [`schema/${noun}`, `services/${noun}`]
        .filter((other) => !(other in tree))
        .map((other) => `${file}: there is no ${other}`);
    });
}

function findCycles(tree: SourceTree): string[] {
  const done = new Set<string>();
  const cycles: string[] = [];
  const visit = (file: string, path: string[]): void => {
    const start = path.indexOf(file);
    if (start >= 0) {
      cycles.push(`a cycle: ${[...path.slice(start), file].join(' → ')}`);
    } else if (!done.has(file)) {
      for (const { target } of tree[file]?.imports ?? []) {
        visit(target, [...path, file]);
      }
      done.add(file);
    }
  };
  for (const file of Object.keys(tree).sort()) {
    visit(file, []);
  }
  return cycles;
}

function roomOf(path: string): string {
  return path.split('/')[0]?.replace(/\.ts$/, '') ?? '';
}

function floorOf(room: string): number {
  return floors.findIndex((rooms) => rooms.includes(room));
}

/** Reads all sources below a folder but for those that a generator wrote. */
export async function readTree(root: string): Promise<SourceTree> {
  const tree: SourceTree = {};
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    const file = posix.relative(root, posix.join(entry.parentPath, entry.name));
    if (entry.isFile() && file.endsWith('.ts') && roomOf(file) !== 'generated') {
      const text = await readFile(join(root, file), 'utf8');
      tree[file] = {
        lines: text.trimEnd().split('\n').length,
        imports: readImports(text).map(({ target, typeOnly }) => ({
          target: target.startsWith('.') ? posix.join(posix.dirname(file), target) : target,
          typeOnly,
        })),
        readsEnvironment: /\bprocess\.env\b|\bprocess\[/.test(text),
      };
    }
  }
  return tree;
}

/** All that a text imports or exports again, also in the middle of an expression or a type. */
export function readImports(text: string): SourceFile['imports'] {
  const found: SourceFile['imports'] = [];
  const walk = (node: unknown): void => {
    if (Array.isArray(node)) {
      node.forEach(walk);
    } else if (isNode(node)) {
      const target = node.source?.value;
      if (typeof target === 'string') {
        // Where single names are types the import itself stays: Node strips the names, not the statement.
        const typeOnly = node.type === 'TSImportType' || node.importKind === 'type' || node.exportKind === 'type';
        found.push({ target, typeOnly });
      }
      Object.values(node).forEach(walk);
    }
  };
  walk(parseAst(text, { lang: 'ts' }).body);
  return found;
}

interface SyntaxNode {
  type: string;
  source?: { value?: unknown } | null;
  importKind?: string;
  exportKind?: string;
}

function isNode(value: unknown): value is SyntaxNode {
  return typeof value === 'object' && value !== null && 'type' in value && typeof value.type === 'string';
}
