import type { Recorder } from '../harness.ts';
import { type ContenderName, contenderNames, flooder } from './scenario.ts';

const width = 720;
const panel = 150;
const left = 170;
const bar = 22;
const gap = 5;

/** Draws who got how much of the budget while one user floods, a row for each contender. */
export function drawShares(
  shares: ReadonlyMap<ContenderName, ReadonlyMap<string, number>>,
  recorder: Recorder,
  metrics: { refused: string; lightWait: string; jain: string },
): string {
  const panels = contenderNames.map((name, row) =>
    drawPanel(name, row, shares.get(name) ?? new Map(), recorder, metrics),
  );
  const height = contenderNames.length * panel + 30;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12">
<title>Tokens by user while one of twenty floods, with the governor, with a FIFO limiter, and without either</title>
<rect width="${width}" height="${height}" fill="#ffffff"/>
${panels.join('\n')}
<text x="${left}" y="${height - 10}" fill="#555555">tokens served, by user: the flooder first, then 19 light users who ask for half of an equal share</text>
</svg>
`;
}

function drawPanel(
  name: ContenderName,
  row: number,
  tokens: ReadonlyMap<string, number>,
  recorder: Recorder,
  metrics: { refused: string; lightWait: string; jain: string },
): string {
  const top = row * panel + 14;
  const base = top + panel - 34;
  const total = Math.max(
    1,
    [...tokens.values()].reduce((sum, value) => sum + value, 0),
  );
  const users = [flooder, ...[...tokens.keys()].filter((user) => user !== flooder).toSorted()];
  const bars = users.map((user, place) => {
    const share = (tokens.get(user) ?? 0) / total;
    const size = Math.round(share * (panel - 40) * 10) / 10;
    const fill = user === flooder ? '#c2410c' : '#1d4ed8';
    return `<rect x="${left + place * (bar + gap)}" y="${base - size}" width="${bar}" height="${size}" fill="${fill}"/>`;
  });
  const facts = [
    `p99 wait of light users: ${Math.round(recorder.median(name, metrics.lightWait)).toLocaleString('en-US')} ms`,
    `refused by the provider: ${Math.round(recorder.median(name, metrics.refused)).toLocaleString('en-US')}`,
    `Jain's index: ${recorder.median(name, metrics.jain).toFixed(3)}`,
  ];
  return [
    `<text x="10" y="${top + 16}" font-weight="600" font-size="14">${name}</text>`,
    ...facts.map(
      (fact, line) => `<text x="10" y="${top + 38 + line * 17}" font-size="10" fill="#333333">${fact}</text>`,
    ),
    `<line x1="${left}" y1="${base}" x2="${width - 10}" y2="${base}" stroke="#999999"/>`,
    ...bars,
  ].join('\n');
}
