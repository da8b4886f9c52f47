import { basename, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { SingleBar } from 'cli-progress';
import { createGraphqlClient } from './sync/client.ts';
import { syncFolder } from './sync/sync-folder.ts';
import { watchFolder } from './sync/watch-folder.ts';

// `npm run sync -- FOLDER --agent NAME`: keeps an agent's memory in step with a folder.
const usage = `npm run sync -- FOLDER --agent NAME [--source NAME] [--url URL] [--token TOKEN] [--watch]

  --agent NAME    the agent that shall remember the folder
  --source NAME   name of the source in its memory (by default the name of the folder)
  --url URL       address of the API (by default RETINUE_URL, else http://127.0.0.1:4000/graphql)
  --token TOKEN   your token (by default RETINUE_TOKEN; \`npm run token\` prints one for development)
  --watch         stay, and send what changes
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    agent: { type: 'string' },
    source: { type: 'string' },
    url: { type: 'string', default: process.env['RETINUE_URL'] ?? 'http://127.0.0.1:4000/graphql' },
    token: { type: 'string', default: process.env['RETINUE_TOKEN'] ?? '' },
    watch: { type: 'boolean', default: false },
  },
});
const [folder] = positionals;
if (folder === undefined || positionals.length !== 1 || values.agent === undefined || values.token === '') {
  process.stderr.write(usage);
  if (folder !== undefined && values.token === '') {
    process.stderr.write('\nThere is no token: set RETINUE_TOKEN, or give --token.\n');
  }
  process.exit(2);
}
const client = createGraphqlClient(values.url, values.token);
const target = { folder: resolve(folder), agent: values.agent, source: values.source ?? basename(resolve(folder)) };
const stop = new AbortController();
process.once('SIGINT', () => stop.abort());

async function syncOnce(): Promise<void> {
  const bar = new SingleBar({ format: '{bar} {percentage}% {step}', hideCursor: true });
  bar.start(1, 0, { step: 'reading the folder' });
  try {
    const report = await syncFolder(client, target, stop.signal, ({ step, done, total }) => {
      bar.setTotal(Math.max(total, 1));
      bar.update(done, { step });
    });
    bar.stop();
    const { files, skipped, sent, removed, unchanged, indexed } = report;
    console.log(
      `${files} files: ${sent} sent, ${unchanged} unchanged, ${removed} removed; ${skipped} skipped; ${indexed} chunks indexed.`,
    );
  } finally {
    bar.stop();
  }
}

try {
  await syncOnce();
  if (values.watch) {
    console.log(`Watching ${target.folder}; Ctrl-C ends.`);
    await watchFolder(target.folder, stop.signal, syncOnce, (error) =>
      console.error(`Not synced: ${error instanceof Error ? error.message : String(error)}`),
    );
  }
} catch (error) {
  if (!stop.signal.aborted) {
    console.error(error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  }
}
