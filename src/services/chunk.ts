import type { MemoryKind } from '../generated/prisma/enums.ts';

/** A piece of a document, short enough to be found and quoted as one. Lines count from 1. */
export interface Chunk {
  content: string;
  /** Headings above it, outermost first, joined by ` > `; empty outside of Markdown. */
  heading: string;
  startLine: number;
  endLine: number;
}

/** Most UTF-16 code units of a chunk: about 400 tokens, far below what embedding models take. */
export const longestChunk = 1_600;
/** Code units at the end of a chunk that the next one repeats, in whole lines, so that no thought is cut in two. */
const overlap = 200;
/** A heading ends the chunk before it when that has as many code units; smaller sections share a chunk. */
const smallSection = 400;
const longestHeading = 200;

/** How well a chunk may begin at a line. */
const begins = { inBlock: 0, anywhere: 1, paragraph: 2, declaration: 3, section: 4 } as const;
type Beginning = (typeof begins)[keyof typeof begins];

interface Line {
  beginning: Beginning;
  heading: string;
}

/** A line, or a part of one that is longer than a chunk may be. */
interface Piece extends Line {
  text: string;
  line: number;
}

/**
 * Cuts a document into chunks along its structure: headings and code blocks of Markdown, top-level declarations of code,
 * paragraphs of anything. Every line that is not blank is in some chunk. Takes time in proportion to the text, whatever
 * the text is.
 */
export function chunkText(text: string, kind: MemoryKind): Chunk[] {
  const lines = text.replace(/^\uFEFF/, '').split(/\r?\n/);
  const outline = kind === 'MARKDOWN' ? outlineMarkdown(lines) : outlineParagraphs(lines, kind === 'CODE');
  const pieces: Piece[] = [];
  for (const [place, line] of lines.entries()) {
    addPieces(pieces, line, place + 1, outline[place]);
  }
  const chunks: Chunk[] = [];
  let start = 0;
  while (start < pieces.length) {
    const end = findEnd(pieces, start);
    const chunk = toChunk(pieces.slice(start, end));
    if (chunk !== null) {
      chunks.push(chunk);
    }
    start = end >= pieces.length ? end : findNextStart(pieces, start, end);
  }
  return chunks;
}

/** What is embedded of a chunk: its headings tell what it is about. */
export function embeddedText(chunk: Pick<Chunk, 'heading' | 'content'>): string {
  return chunk.heading === '' ? chunk.content : `${chunk.heading}\n${chunk.content}`;
}

function addPieces(
  pieces: Piece[],
  text: string,
  line: number,
  { beginning, heading }: Line = { beginning: begins.anywhere, heading: '' },
): void {
  if (text.length < longestChunk) {
    pieces.push({ beginning, heading, text, line });
    return;
  }
  for (let at = 0; at < text.length; ) {
    let end = Math.min(at + longestChunk - 1, text.length);
    if (end < text.length && isHighSurrogate(text.charCodeAt(end - 1))) {
      end -= 1;
    }
    pieces.push({ beginning: at === 0 ? beginning : begins.inBlock, heading, text: text.slice(at, end), line });
    at = end;
  }
}

function isHighSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdbff;
}

/** The place behind a chunk's last piece: where it is full, at the best place in its second half, or before a section. */
function findEnd(pieces: readonly Piece[], start: number): number {
  let size = 0;
  let best = start + 1;
  let bestBeginning: Beginning = begins.inBlock;
  for (let end = start; end < pieces.length; end += 1) {
    const piece = pieces[end];
    if (piece === undefined) {
      break;
    }
    if (end > start && size > 0) {
      if (piece.beginning === begins.section && size >= smallSection) {
        return end;
      }
      if (size < longestChunk / 2 || piece.beginning >= bestBeginning) {
        best = end;
        bestBeginning = size < longestChunk / 2 ? begins.inBlock : piece.beginning;
      }
    }
    size += piece.text.length + 1;
    if (size > longestChunk + 1) {
      return best;
    }
  }
  return pieces.length;
}

/** The last lines are repeated, but not before a section or declaration begins, and never so many that the next chunk adds nothing. */
function findNextStart(pieces: readonly Piece[], start: number, end: number): number {
  const first = pieces[end];
  if (first === undefined || first.beginning >= begins.declaration) {
    return end;
  }
  let repeated = 0;
  let next = end;
  while (next > start + 1) {
    const size = repeated + (pieces[next - 1]?.text.length ?? 0) + 1;
    if (size > overlap || size + first.text.length + 1 > longestChunk) {
      break;
    }
    repeated = size;
    next -= 1;
  }
  return next;
}

function toChunk(pieces: readonly Piece[]): Chunk | null {
  const first = pieces.findIndex(({ text }) => text.trim() !== '');
  const last = pieces.findLastIndex(({ text }) => text.trim() !== '');
  const kept = pieces.slice(first, last + 1);
  const [top, bottom] = [kept[0], kept.at(-1)];
  if (first < 0 || top === undefined || bottom === undefined) {
    return null;
  }
  const content = kept.map(({ text, line }, place) => (line === kept[place - 1]?.line ? text : `\n${text}`)).join('');
  return { content: content.slice(1), heading: top.heading, startLine: top.line, endLine: bottom.line };
}

function outlineParagraphs(lines: readonly string[], isCode: boolean): Line[] {
  return lines.map((line, place) => {
    const isAfterBlank = place === 0 || lines[place - 1]?.trim() === '';
    const isTopLevel = isCode && /^[^\s})\]]/.test(line);
    const beginning = !isAfterBlank ? begins.anywhere : isTopLevel ? begins.declaration : begins.paragraph;
    return { beginning, heading: '' };
  });
}

/** Headings and fenced blocks by the rules of CommonMark's leaf blocks (https://spec.commonmark.org/0.31.2/#leaf-blocks). */
function outlineMarkdown(lines: readonly string[]): Line[] {
  const above: { depth: number; text: string }[] = [];
  let fence: string | null = null;
  let current = '';
  return lines.map((line, place) => {
    const isAfterBlank = place === 0 || lines[place - 1]?.trim() === '';
    const mark = /^ {0,3}(`{3,}|~{3,})(.*)$/.exec(line);
    if (fence !== null) {
      if (mark?.[1]?.startsWith(fence) && mark[2]?.trim() === '') {
        fence = null;
      }
      return { beginning: begins.inBlock, heading: current };
    }
    if (mark?.[1] !== undefined && !(mark[1].startsWith('`') && mark[2]?.includes('`'))) {
      fence = mark[1];
      return { beginning: begins.paragraph, heading: current };
    }
    const heading = readHeading(line, lines[place + 1], isAfterBlank);
    if (heading !== null) {
      while ((above.at(-1)?.depth ?? 0) >= heading.depth) {
        above.pop();
      }
      above.push(heading);
      current = headingText(above);
      return { beginning: begins.section, heading: current };
    }
    return { beginning: isAfterBlank ? begins.paragraph : begins.anywhere, heading: current };
  });
}

function readHeading(
  line: string,
  next: string | undefined,
  isAfterBlank: boolean,
): { depth: number; text: string } | null {
  const marked = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/.exec(line);
  if (marked?.[1] !== undefined) {
    // Cut first: a pattern that looks for what closes a heading must not see a line of any length.
    const text = (marked[2] ?? '').trim().slice(0, longestHeading);
    return { depth: marked[1].length, text: text.replace(/(^|[ \t]+)#+$/, '') };
  }
  const isText = isAfterBlank && line.trim() !== '' && /^ {0,3}[^\s>#+*-]/.test(line);
  if (isText && next !== undefined && next.length < longestHeading && /^ {0,3}(=+|-{2,})[ \t]*$/.test(next)) {
    return { depth: next.trim().startsWith('=') ? 1 : 2, text: line.trim().slice(0, longestHeading) };
  }
  return null;
}

function headingText(above: readonly { text: string }[]): string {
  return above
    .map(({ text }) => text)
    .filter((text) => text !== '')
    .join(' > ')
    .slice(-longestHeading)
    .toWellFormed();
}
