import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { events } from './events/bench.ts';
import { fairness } from './fairness/bench.ts';
import { graphql } from './graphql/bench.ts';
import { describeMachine, type Report } from './harness.ts';
import { isolation } from './isolation/bench.ts';
import { load } from './load-test/bench.ts';
import { memory } from './memory/bench.ts';
import { orchestration } from './orchestration/bench.ts';
import { queue } from './queue/bench.ts';
import { formatReport, updatePage } from './report.ts';

const benches = [graphql, events, orchestration, queue, load, isolation, fairness, memory];
const page = 'docs/benchmarks.md';
const usage = `npm run bench -- NAME [--json] [--rounds N] [--seconds N] [--update-docs]

${benches.map(({ name, summary }) => `  ${name.padEnd(13)} ${summary}`).join('\n')}

  --json         the last thing on standard output is one JSON object; everything else goes to standard error
  --rounds N     how often every contender is measured (at least 3; by default ${benches.map(({ name, rounds }) => `${rounds} for ${name}`).join(', ')})
  --seconds N    how long one measurement lasts, where it is not a number of tasks (default 4)
  --update-docs  writes the figures to ${page}
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    seconds: { type: 'string', default: '4' },
    'update-docs': { type: 'boolean', default: false },
  },
});
const bench = benches.find(({ name }) => name === positionals[0]);
const rounds = Number(values.rounds ?? bench?.rounds);
const seconds = Number(values.seconds);
if (bench === undefined || !Number.isInteger(rounds) || rounds < 3 || !(seconds > 0 && seconds <= 600)) {
  process.stderr.write(usage);
  process.exitCode = positionals.length === 0 ? 0 : 2;
} else {
  const log = (line: string): void => void process.stderr.write(`${line}\n`);
  const { pictures, ...measured } = await bench.run({ rounds, seconds, dataFolder: '.retinue/bench', log });
  const report: Report = { name: bench.name, machine: describeMachine(), runs: rounds, ...measured };
  const figures = formatReport(
    report,
    `npm run bench -- ${process.argv.slice(2).filter(isPartOfCommand).join(' ')}`,
    new Date(),
  );
  (values.json ? process.stderr : process.stdout).write(`\n${figures}\n\n`);
  for (const check of report.checks.filter(({ ok }) => !ok)) {
    log(`NOT MET: ${check.id} is ${check.value} ${check.unit}, the goal is ${check.goal}`);
  }
  if (values['update-docs']) {
    await updatePage(page, bench.name, figures);
    for (const [name, picture] of pictures ?? []) {
      await writeFile(`docs/images/${name}`, picture);
    }
  }
  if (values.json) {
    process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  }
}

/** How the figures were written down is no part of how they were measured. */
function isPartOfCommand(argument: string): boolean {
  return argument !== '--json' && argument !== '--update-docs';
}
