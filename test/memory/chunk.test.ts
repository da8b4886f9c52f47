import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { MemoryKind } from '../../src/generated/prisma/enums.ts';
import { chunkText, longestChunk } from '../../src/services/chunk.ts';

const paragraph = (name: string, length: number) => `${name} ${'word '.repeat(length / 5)}`.trim();

describe('chunks of Markdown', () => {
  it('carry the headings above them and begin at headings', () => {
    const text = [
      '# Guide',
      paragraph('intro', 500),
      '',
      '## Install',
      paragraph('install', 500),
      '',
      'Setext',
      '------',
      paragraph('setext', 500),
    ].join('\n');
    expect(chunkText(text, 'MARKDOWN').map(({ heading, startLine, endLine }) => [heading, startLine, endLine])).toEqual(
      [
        ['Guide', 1, 2],
        ['Guide > Install', 4, 5],
        ['Guide > Setext', 7, 9],
      ],
    );
  });

  it('take several small sections together', () => {
    const text = Array.from({ length: 4 }, (_, place) => `## Part ${place}\nshort`).join('\n\n');
    expect(chunkText(text, 'MARKDOWN')).toEqual([{ content: text, heading: 'Part 0', startLine: 1, endLine: 11 }]);
  });

  it('do not take a # in a fenced block for a heading, and cut before the block rather than within it', () => {
    const code = ['```sh', ...Array.from({ length: 20 }, (_, place) => `# step ${place} ${'x'.repeat(40)}`), '```'];
    const text = [paragraph('before', 1_000), '', ...code, '', paragraph('after', 300)].join('\n');
    const chunks = chunkText(text, 'MARKDOWN');
    expect(chunks.map(({ heading }) => heading)).toEqual(chunks.map(() => ''));
    expect(chunks.find(({ content }) => content.includes('```sh'))?.content).toContain(code.join('\n'));
  });

  it('leave out what closes a heading', () => {
    expect(chunkText('## Title ##\ntext', 'MARKDOWN')[0]?.heading).toBe('Title');
    expect(chunkText('## C#\ntext', 'MARKDOWN')[0]?.heading).toBe('C#');
  });
});

describe('chunks of code', () => {
  it('begin at top-level declarations', () => {
    const declaration = (name: string) =>
      [`function ${name}() {`, ...Array.from({ length: 12 }, () => `  ${'work();'.repeat(10)}`), '}'].join('\n');
    const text = ['one', 'two', 'three'].map(declaration).join('\n\n');
    const firstLines = chunkText(text, 'CODE').map(({ content }) => content.split('\n')[0]);
    expect(firstLines).toEqual(['function one() {', 'function two() {', 'function three() {']);
  });
});

describe('chunks of any text', () => {
  it('repeat the last lines of the chunk before', () => {
    const lines = Array.from({ length: 60 }, (_, place) => `line ${place} ${'x'.repeat(60)}`);
    const [first, second] = chunkText(lines.join('\n'), 'TEXT');
    expect(second?.startLine).toBeLessThanOrEqual(first?.endLine ?? 0);
    expect(second?.startLine).toBeGreaterThan((first?.endLine ?? 0) - 5);
  });

  it.each<[what: string, text: string, kind: MemoryKind]>([
    ['nothing', '', 'TEXT'],
    ['blank lines', ' \n\t\n\n', 'MARKDOWN'],
  ])('are none for %s', (_what, text, kind) => {
    expect(chunkText(text, kind)).toEqual([]);
  });

  it('cut a line that is longer than a chunk, between characters', () => {
    const text = '😀'.repeat(3_000);
    const chunks = chunkText(text, 'TEXT');
    expect(chunks.map(({ content }) => content).join('')).toBe(text);
    expect(chunks.every(({ content }) => content.isWellFormed() && content.length <= longestChunk)).toBe(true);
    expect(chunks.every(({ startLine, endLine }) => startLine === 1 && endLine === 1)).toBe(true);
  });

  const line = fc.oneof(
    { weight: 4, arbitrary: fc.string({ maxLength: 80 }) },
    fc.constantFrom('', '', '```', '~~~', '# a', '## b ##', '---', '}', '\t', '\r'),
    fc.integer({ min: 0, max: 5_000 }).map((length) => 'y'.repeat(length)),
  );
  it('hold every line that is not blank, exactly as it is, in order and within the size', () => {
    fc.assert(
      fc.property(
        fc.array(line, { maxLength: 120 }),
        fc.constantFrom<MemoryKind>('TEXT', 'MARKDOWN', 'CODE'),
        (given, kind) => {
          const text = given.join('\n');
          const lines = text.replace(/^\uFEFF/, '').split(/\r?\n/);
          const chunks = chunkText(text, kind);
          const covered = new Set<number>();
          let lastStart = 0;
          for (const { content, startLine, endLine } of chunks) {
            expect(content.length).toBeLessThanOrEqual(longestChunk);
            expect(content.trim()).not.toBe('');
            expect(startLine).toBeGreaterThanOrEqual(lastStart);
            lastStart = startLine;
            const whole = lines.slice(startLine - 1, endLine).join('\n');
            expect(whole).toContain(content);
            for (let place = startLine; place <= endLine; place += 1) {
              covered.add(place);
            }
          }
          lines.forEach((text, place) => {
            expect(covered.has(place + 1) || text.trim() === '', `line ${place + 1}`).toBe(true);
          });
          // Nothing but what overlaps is said twice.
          const size = chunks.reduce((sum, { content }) => sum + content.length, 0);
          expect(size).toBeLessThanOrEqual(text.length + chunks.length * 200);
        },
      ),
      { numRuns: 300 },
    );
  });

  it.each([
    ['brackets', '['.repeat(1_000_000)],
    ['stars', '*a_ '.repeat(250_000)],
    ['hashes', `# ${'# '.repeat(500_000)}`],
    ['quotes', '> '.repeat(500_000)],
    ['blank lines', '\n'.repeat(1_000_000)],
    ['fences', '```\n'.repeat(250_000)],
    ['headings', '# a\n\n'.repeat(200_000)],
  ])('take no longer for a hostile megabyte of %s', (_what, text) => {
    const started = performance.now();
    chunkText(text, 'MARKDOWN');
    // A quadratic way would take minutes.
    expect(performance.now() - started).toBeLessThan(10_000);
  });
});
