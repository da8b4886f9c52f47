import { describe, expect, it } from 'vitest';
import { checkTree, readImports, readTree, type SourceFile, type SourceTree } from './import-rule.ts';

function file(...targets: string[]): SourceFile {
  return { lines: 10, imports: targets.map((target) => ({ target, typeOnly: false })), readsEnvironment: false };
}

describe('the rooms of the house', () => {
  it('import downward only, keep GraphQL above the services and the outside in adapters, one noun to a file', async () => {
    const tree = await readTree('src');
    expect(Object.keys(tree)).toEqual(expect.arrayContaining(['app.ts', 'services/agent.ts', 'adapters/postgres.ts']));
    expect(tree['services/agent.ts']?.imports).toContainEqual({ target: 'errors.ts', typeOnly: false });
    expect(checkTree(tree)).toEqual([]);
  });

  it.each<[what: string, tree: SourceTree, finding: string]>([
    [
      'a service imports a resolver',
      { 'services/agent.ts': file('resolvers/agent.ts') },
      'services/agent.ts: imports resolvers/agent.ts, which is not below it',
    ],
    [
      'an adapter imports a service',
      { 'adapters/postgres.ts': file('services/agent.ts') },
      'adapters/postgres.ts: imports services/agent.ts, which is not below it',
    ],
    [
      'rooms of one floor import each other',
      { 'runner/worker.ts': file('http.ts') },
      'runner/worker.ts: imports http.ts, which is not below it',
    ],
    [
      'the errors import anything',
      { 'errors.ts': file('adapters/log.ts') },
      'errors.ts: imports adapters/log.ts, which is not below it',
    ],
    [
      'only a type goes upward',
      { 'queue/task.ts': { ...file(), imports: [{ target: 'services/task.ts', typeOnly: true }] } },
      'queue/task.ts: imports services/task.ts, which is not below it',
    ],
    [
      'a service knows GraphQL',
      { 'services/agent.ts': file('graphql') },
      'services/agent.ts: imports graphql, and may not know GraphQL',
    ],
    [
      'a service knows the schema builder',
      { 'services/agent.ts': file('@pothos/core') },
      'services/agent.ts: imports @pothos/core, and may not know GraphQL',
    ],
    [
      'the runner knows the schema',
      { 'runner/run-task.ts': file('schema/builder.ts') },
      'runner/run-task.ts: imports schema/builder.ts, and may not know GraphQL',
    ],
    [
      'a resolver uses an adapter',
      { 'resolvers/agent.ts': file('adapters/postgres.ts') },
      'resolvers/agent.ts: imports adapters/postgres.ts, and may know no adapter at run time',
    ],
    [
      'a service talks to the outside',
      { 'services/agent.ts': file('pg') },
      'services/agent.ts: imports pg, which only adapters may',
    ],
    [
      'a service reads settings',
      { 'services/agent.ts': file('config.ts') },
      'services/agent.ts: imports config.ts, though settings are handed down',
    ],
    [
      'a service reads the environment',
      { 'services/agent.ts': { ...file(), readsEnvironment: true } },
      'services/agent.ts: reads the environment',
    ],
    [
      'a room is unknown',
      { 'plugins/audit.ts': file() },
      'plugins/audit.ts: the room "plugins" has no floor in test/import-rule.ts',
    ],
    [
      'a noun has no type',
      { 'resolvers/plan.ts': file(), 'services/plan.ts': file() },
      'resolvers/plan.ts: there is no schema/plan.ts',
    ],
    [
      'a noun has no service',
      { 'resolvers/plan.ts': file(), 'schema/plan.ts': file() },
      'resolvers/plan.ts: there is no services/plan.ts',
    ],
    [
      'a file has more than 400 lines',
      { 'services/agent.ts': { ...file(), lines: 401 } },
      'services/agent.ts: has 401 lines; it is about to be two nouns',
    ],
    ['a name says nothing', { 'services/agent-utils.ts': file() }, 'services/agent-utils.ts: the name says nothing'],
    ['a folder says nothing', { 'services/common/page.ts': file() }, 'services/common/page.ts: the name says nothing'],
    [
      'files import each other in a circle',
      { 'queue/a.ts': file('queue/b.ts'), 'queue/b.ts': file('queue/c.ts'), 'queue/c.ts': file('queue/a.ts') },
      'a cycle: queue/a.ts → queue/b.ts → queue/c.ts → queue/a.ts',
    ],
  ])('are found out of order when %s', (_what, tree, finding) => {
    expect(checkTree(tree)).toContain(finding);
  });

  it('let a type of an adapter through to a resolver, for it is gone at run time', () => {
    const imports = [{ target: 'adapters/log.ts', typeOnly: true }];
    expect(checkTree({ 'resolvers/schema.ts': { ...file(), imports } })).toEqual([]);
  });
});

describe('the reader of imports', () => {
  it.each([
    [`import a from './a.ts';`, './a.ts', false],
    [`import { type A, b } from './a.ts';`, './a.ts', false],
    [`import './a.ts';`, './a.ts', false],
    [`export * from './a.ts';`, './a.ts', false],
    [`export { a } from './a.ts';`, './a.ts', false],
    [`const a = async () => (await import('./a.ts')).a;`, './a.ts', false],
    [`import type { A } from './a.ts';`, './a.ts', true],
    [`import { type A, type B } from './a.ts';`, './a.ts', false],
    [`export type { A } from './a.ts';`, './a.ts', true],
    [`let a: import('./a.ts').A;`, './a.ts', true],
  ])('sees %s', (text, target, typeOnly) => {
    expect(readImports(text)).toEqual([{ target, typeOnly }]);
  });
});
