import type { Message } from './protocol.ts';
import { isImperative } from './request-parts.ts';
import { sentences } from './words.ts';

/** A sentence the model was given and may quote. */
export interface Passage {
  readonly text: string;
  /** The mark such as [1] of the block it stands in. */
  readonly mark: string | null;
  readonly source: 'system' | 'user' | 'tool';
}

/** What the rules need to know about a conversation. */
export interface Conversation {
  /** From "You are …" or "Your name is …" in the system messages. */
  readonly persona: { readonly name: string | null; readonly role: string | null };
  /** What is asked or told now. */
  readonly question: string;
  /** Everything given to answer from, in order: retrieved passages, what the user told before, tool results. */
  readonly passages: readonly Passage[];
  /** The results of the tools called for this question. */
  readonly toolResults: readonly { readonly name: string; readonly arguments: string; readonly result: string }[];
  readonly isFirstAnswer: boolean;
}

/** Takes a conversation apart. */
export function readConversation(messages: readonly Message[]): Conversation {
  const system = messages.flatMap((message) => (message.role === 'system' ? [message.text] : [])).join('\n');
  const lastUser = messages.findLastIndex((message) => message.role === 'user');
  const { question, rest } = splitQuestion(messages[lastUser]?.text ?? '');
  const earlier = lastUser === -1 ? [] : messages.slice(0, lastUser);
  const told = earlier.flatMap((message) => (message.role === 'user' ? readPassages(message.text, 'user') : []));
  const results = readToolResults(messages, lastUser);
  return {
    persona: readPersona(system),
    question,
    passages: [
      ...readPassages(system, 'system').filter(({ text }) => !isInstruction(text)),
      // What was asked or told to do is no knowledge to quote.
      ...told.filter(({ text }) => !text.endsWith('?') && !isImperative(text)),
      ...readPassages(rest, 'user'),
      ...results.flatMap(({ result }) => readPassages(result, 'tool')),
    ],
    toolResults: results,
    isFirstAnswer: !messages.some((message) => message.role === 'assistant'),
  };
}

/**
 * Finds the question in a message that may carry passages too: in a tag, after a label, or as the paragraph that asks.
 */
export function splitQuestion(text: string): { question: string; rest: string } {
  const patterns = [
    /<(question|request|task|instruction|user_message)>\s*([\s\S]*?)\s*<\/\1>/i,
    /^(?:the )?(?:user(?:'s)? )?(?:original )?(question|request|message|task|instruction)s?\s*:[ \t]*\n?([^\n]+(?:\n(?!\n)[^\n]+)*)/im,
  ];
  for (const pattern of patterns) {
    const found = pattern.exec(text);
    if (found?.[2]) return { question: found[2].trim(), rest: text.replace(found[0], '\n').trim() };
  }
  const paragraphs = text.split(/\n\s*\n/).filter((paragraph) => paragraph.trim() !== '');
  if (paragraphs.length <= 1) return { question: text.trim(), rest: '' };
  const asking = paragraphs.findLastIndex((paragraph) => paragraph.trim().endsWith('?'));
  const index = Math.max(asking, 0);
  return { question: paragraphs[index]?.trim() ?? '', rest: paragraphs.toSpliced(index, 1).join('\n\n') };
}

function readPersona(system: string): Conversation['persona'] {
  const name = /(\p{Lu}[\p{L}\p{N}_-]*(?: \p{Lu}[\p{L}\p{N}_-]*){0,3})/u.source;
  const patterns = [
    `[Yy]our name is ["“']?${name}`,
    `[Yy]ou are (?:(?:the |an? )?(?:AI )?agent (?:named |called )?|named |called )?["“']?${name}`,
    `(?:^|\\n)(?:[Aa]gent|[Nn]ame)\\s*:\\s*["“']?${name}`,
  ];
  for (const pattern of patterns) {
    const found = new RegExp(pattern, 'u').exec(system)?.[1];
    if (found && !/^(?:An?|The|AI)\b/.test(found)) return { name: found, role: readRole(system) };
  }
  return { name: null, role: readRole(system) };
}

function readRole(system: string): string | null {
  return /\b[Yy]ou are (?:[^.\n]*?, )?((?:an?|the) [^.,\n]+)/u.exec(system)?.[1]?.trim() ?? null;
}

// Rules for the model's conduct are no knowledge to quote.
const INSTRUCTION =
  /^(?:[-*\d.) ]*)(?:you\b|your\b|answer\b|always\b|never\b|do\b|don't\b|be\b|use\b|if\b|when\b|respond\b|reply\b|keep\b|write\b|cite\b|return\b|only\b|please\b|treat\b)/i;

function isInstruction(sentence: string): boolean {
  return INSTRUCTION.test(sentence);
}

function readPassages(text: string, source: Passage['source']): Passage[] {
  const passages: Passage[] = [];
  for (const paragraph of text.split(/\n\s*\n/)) {
    let mark: string | null = null;
    for (const sentence of sentences(paragraph.replace(/<\/?[a-z_]+(?: [^<>]*)?>/gi, '\n'))) {
      const marked = /^(?:[-*]\s*)?(\[[\p{L}\p{N}_.:/-]{1,40}\])\s*(.*)$/su.exec(sentence);
      mark = marked?.[1] ?? mark;
      const bare = (marked?.[2] ?? sentence).replace(/^(?:[-*•]|\d+[.)])\s+/, '').trim();
      // A short line that ends in a colon is a heading.
      const isHeading = bare.endsWith(':') && bare.length < 80;
      if (bare !== '' && !isHeading) passages.push({ text: bare, mark, source });
    }
  }
  return passages;
}

function readToolResults(messages: readonly Message[], lastUser: number): Conversation['toolResults'] {
  const calls = new Map(messages.flatMap((message) => message.toolCalls.map((call) => [call.id, call] as const)));
  return messages.slice(lastUser + 1).flatMap((message) => {
    if (message.role !== 'tool') return [];
    const call = message.toolCallId === null ? undefined : calls.get(message.toolCallId);
    return [{ name: call?.name ?? 'tool', arguments: call?.arguments ?? '{}', result: message.text }];
  });
}
