import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { readImports, readTree } from '../import-rule.ts';

describe('the image', () => {
  it('holds every package that the service imports', async () => {
    const { dependencies } = JSON.parse(await readFile('package.json', 'utf8')) as { dependencies: object };
    const tree = await readTree('src');
    const targets = [
      ...Object.values(tree).flatMap(({ imports }) => imports.filter(({ typeOnly }) => !typeOnly)),
      ...readImports(await readFile('prisma/migrate.ts', 'utf8')),
    ].map(({ target }) => target);
    const packages = targets
      .filter((target) => !target.endsWith('.ts') && !target.startsWith('node:'))
      .map((target) =>
        target
          .split('/')
          .slice(0, target.startsWith('@') ? 2 : 1)
          .join('/'),
      );
    expect(new Set(packages).size).toBeGreaterThan(15);
    expect([...new Set(packages)].filter((name) => !(name in dependencies))).toEqual([]);
  });

  it.each(['api', 'worker'])('tells Node.js what `npm run serve:%s` tells it', async (name) => {
    const { scripts } = JSON.parse(await readFile('package.json', 'utf8')) as { scripts: Record<string, string> };
    const [, entrypoint = '[]'] = /^ENTRYPOINT (.+)$/m.exec(await readFile('Dockerfile', 'utf8')) ?? [];
    const flags = scripts[`serve:${name}`]?.split(' ').slice(0, -1);
    expect(flags?.length).toBeGreaterThan(1);
    expect(JSON.parse(entrypoint)).toEqual(flags);
  });

  it('is built from what .dockerignore lets through', async () => {
    const allowed = (await readFile('.dockerignore', 'utf8'))
      .split('\n')
      .filter((line) => line.startsWith('!'))
      .map((line) => line.slice(1));
    const copied = [...(await readFile('Dockerfile', 'utf8')).matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(
      ([, paths]) => String(paths).split(' '),
    );
    expect(copied.filter((path) => !allowed.includes(path))).toEqual([]);
    expect(copied).toEqual(expect.arrayContaining(['src', 'prisma', 'package.json']));
  });
});
