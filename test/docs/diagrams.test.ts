import { describe, expect, it } from 'vitest';
import { codeBlocks, readPages } from './pages.ts';

// Mermaid itself is no dependency: test/browser/diagrams.test.ts renders with it where it is at hand. These are its two
// traps that readers of the source do not see.
const diagrams = (await readPages()).flatMap((page) =>
  codeBlocks(page)
    .filter(({ lang }) => lang === 'mermaid')
    .map(({ value }, place) => [`${page.path}, ${place + 1}`, value] as const),
);

/** Words of Mermaid's flowcharts that can't be the name of a node. */
const reserved = /^(?:call|class|classDef|click|default|end|graph|href|linkStyle|style|subgraph)$/;

/** Lines of a diagram that Mermaid would not read as they are meant. */
function misread(diagram: string): string[] {
  const [head = '', ...lines] = diagram.split('\n');
  if (head.startsWith('sequenceDiagram')) {
    // A semicolon ends a statement, also in the middle of its text.
    return lines.filter((line) => line.includes(';'));
  }
  if (head.startsWith('flowchart')) {
    return lines.filter((line) => /[-=.]/.test(line) && namesOf(line).some((name) => reserved.test(name)));
  }
  return [];
}

/** The nodes at the ends of a line's arrows. */
function namesOf(line: string): string[] {
  return line
    .replaceAll(/"[^"]*"|\|[^|]*\|/g, '')
    .split(/\s*<?(?:-\.[^-]*\.?-|-{2,}|={2,}|-\.-)>?\s*|\s+&\s+/)
    .flatMap((part) => /^\s*(\w+)/.exec(part)?.[1] ?? []);
}

describe('a diagram', () => {
  it.each(diagrams)('of %s has no line that Mermaid misreads', (_place, diagram) => {
    expect(misread(diagram)).toEqual([]);
  });

  it.each([
    ['flowchart TD\n  a --> call["the tools"]', ['  a --> call["the tools"]']],
    ['flowchart LR\n  a & end -.-> b', ['  a & end -.-> b']],
    ['flowchart TD\n  a -->|"end"| b["call"]\n  subgraph one\n  end', []],
    ['sequenceDiagram\n  A->>B: first; then', ['  A->>B: first; then']],
  ])('that is misread is found: %j', (diagram, faults) => {
    expect(misread(diagram)).toEqual(faults);
  });
});
