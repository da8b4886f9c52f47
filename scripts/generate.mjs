// Makes the typed database client and the types of the example clients. It runs after every install; no database and no
// download is needed.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';

// A production install may leave the generators out: the image brings the generated client along, and has no examples.
if (existsSync('node_modules/prisma')) {
  run('node_modules/prisma/build/index.js', 'generate');
}
if (existsSync('node_modules/@graphql-codegen/core')) {
  run('codegen.ts');
}

/** Runs a program with this Node.js; ends with its output and exit code when it fails. */
function run(...command) {
  const result = spawnSync(process.execPath, command, {
    stdio: ['ignore', 'pipe', 'pipe'],
    encoding: 'utf8',
    // `generate` needs no schema engine, but looks for one and would download it: point it at a program that does nothing.
    env: {
      ...process.env,
      PRISMA_SCHEMA_ENGINE_BINARY: '/bin/true',
      PRISMA_HIDE_UPDATE_MESSAGE: '1',
      CHECKPOINT_DISABLE: '1',
    },
  });
  if (result.status !== 0) {
    process.stderr.write(`${result.stdout}${result.stderr}`);
    process.exit(result.status ?? 1);
  }
}
