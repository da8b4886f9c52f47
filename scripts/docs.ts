import { readFile, writeFile } from 'node:fs/promises';
import { createMetrics } from '../src/adapters/metrics.ts';
import { describeConfig } from '../src/config.ts';
import { errorCodes } from '../src/errors.ts';
import { createSchema } from '../src/resolvers/schema.ts';
import { eventPage } from './event-page.ts';
import { licencePage, readLockfile } from './supply-chain.ts';

// `npm run docs` writes the pages that follow from the code; `-- --check` is part of `npm run check`.

const locked = await readLockfile();
const pages: Record<string, () => string> = {
  'docs/licences.md': () => licencePage(locked),
  'docs/errors.md': () => `# Error codes

Every expected failure carries \`extensions.code\` from this list. \`extensions.field\` names the argument at fault,
\`extensions.retryAfter\` the seconds after which a retry may succeed. A failed task carries the same codes in \`errorCode\`.
Another user's id and one that does not exist are answered alike.

| Code | What it means and what to do |
| --- | --- |
${Object.entries(errorCodes)
  .map(([code, meaning]) => `| \`${code}\` | ${meaning} |`)
  .join('\n')}

This page is made from \`src/errors.ts\` by \`npm run docs\`.
`,
  'docs/configuration.md': () => `# Settings

All settings come from the environment and are checked together at the start: whatever is wrong is listed at once, by name,
without its value. Durations are in milliseconds.

| Name | Default | What it is |
| --- | --- | --- |
${describeConfig()
  .map(
    ({ name, description, fallback }) =>
      `| \`${name}\` | ${fallback === null ? '' : `\`${fallback}\``} | ${description} |`,
  )
  .join('\n')}

This page is made from \`src/config.ts\` by \`npm run docs\`.
`,
  'docs/events.md': () =>
    eventPage(createSchema(), {
      days: fallbackOf('EVENT_RETENTION_DAYS'),
      perSession: fallbackOf('EVENTS_PER_SESSION'),
    }),
  'docs/metrics.md': () => `# Metrics

Every process with \`METRICS_PORT\` shows these at \`/metrics\`, beside those of the process itself (\`process_…\`, \`nodejs_…\`). Times
are in seconds.

| Name | Kind | Labels | What it is |
| --- | --- | --- | --- |
${createMetrics()
  .describe()
  .map(
    ({ name, kind, labels, help }) =>
      `| \`${name}\` | ${kind} | ${labels.map((label) => `\`${label}\``).join(', ')} | ${help} |`,
  )
  .join('\n')}

This page is made from \`src/adapters/metrics.ts\` by \`npm run docs\`.
`,
};

function fallbackOf(setting: string): string {
  return describeConfig().find(({ name }) => name === setting)?.fallback ?? '';
}

const check = process.argv.includes('--check');
for (const [path, page] of Object.entries(pages)) {
  if (!check) {
    await writeFile(path, page());
  } else if ((await readFile(path, 'utf8').catch(() => '')) !== page()) {
    console.error(`${path} is not what the code makes. Run \`npm run docs\`.`);
    process.exitCode = 1;
  }
}
