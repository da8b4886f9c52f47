import { spawnSync } from 'node:child_process';
import { z } from 'zod';

// `npm run audit`: known vulnerabilities of what is shipped. A registry that does not answer is no finding and no all-clear:
// it is said, and fails only with `-- --required`, which a pipeline that has the registry should give.

/** Advisories that do not concern us: why, and until when that is believed. */
const exceptions: readonly { id: string; reason: string; until: string }[] = [];

const report = z.object({
  vulnerabilities: z.record(
    z.string(),
    z.object({
      severity: z.string(),
      via: z.array(z.union([z.string(), z.object({ url: z.string(), title: z.string(), severity: z.string() })])),
    }),
  ),
});

const run = spawnSync('npm', ['audit', '--omit=dev', '--omit=optional', '--json', '--audit'], {
  encoding: 'utf8',
  timeout: 60_000,
});
const parsed = report.safeParse(parse(run.stdout));
if (!parsed.success) {
  console.error('NOT AUDITED: the registry does not answer questions about vulnerabilities.');
  process.exitCode = process.argv.includes('--required') ? 1 : 0;
} else {
  const today = new Date().toISOString().slice(0, 10);
  const known = new Set(exceptions.filter(({ until }) => until >= today).map(({ id }) => id));
  const found = new Map<string, string>();
  for (const [name, { via }] of Object.entries(parsed.data.vulnerabilities)) {
    for (const advisory of via) {
      if (typeof advisory !== 'string') {
        const id = advisory.url.slice(advisory.url.lastIndexOf('/') + 1);
        found.set(id, `${id} ${advisory.severity} ${name}: ${advisory.title}`);
      }
    }
  }
  const open = [...found].filter(([id]) => !known.has(id));
  for (const [, line] of open) {
    console.error(line);
  }
  console.log(`${found.size} advisories, ${found.size - open.length} of them excepted with a reason`);
  process.exitCode = open.length === 0 ? 0 : 1;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
