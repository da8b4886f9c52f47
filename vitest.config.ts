import { configDefaults, defineConfig } from 'vitest/config';

export default defineConfig({
  // As Node resolves it: a second copy of graphql by its `module` field would not know the schema's types.
  resolve: { alias: [{ find: /^graphql$/, replacement: 'graphql/index.js' }] },
  test: {
    include: ['test/**/*.test.ts'],
    // Needs a script that is too large to be a dependency (CONTRIBUTING.md): left out, not skipped, where it is not there.
    exclude: [
      ...configDefaults.exclude,
      ...(process.env['MERMAID'] === undefined ? ['test/browser/diagrams.test.ts'] : []),
    ],
    globalSetup: ['test/stack.ts'],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // Two cores: more files at once only make each other slow.
    maxWorkers: 2,
    passWithNoTests: false,
    allowOnly: false,
  },
});
