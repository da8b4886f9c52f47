import type { Conversation, Passage } from './conversation.ts';
import { isImperative } from './request-parts.ts';
import { contentWords, sentences } from './words.ts';

const HONESTY = 'I am a rule-based offline model, not a real one: I can only quote what I was given.';
const MOST_QUOTES = 3;

/** Answers in words, from what the conversation holds and nothing else. */
export function answerInWords(conversation: Conversation): string {
  const { persona, question, isFirstAnswer } = conversation;
  if (asksWhoAnswers(question)) return introduce(persona);
  const opening = persona.name !== null && isFirstAnswer ? `${persona.name} here. ` : '';
  if (isGreeting(question)) return `Hello! ${introduce(persona)}`;
  if (conversation.toolResults.length > 0) return opening + reportResults(conversation);
  const quotes = findQuotes(conversation);
  const facts = isImperative(question) || question.includes('?') ? [] : sentences(question).filter(isFact);
  if (facts.length > 0) return `${opening}Noted for this conversation: ${facts.map(quote).join(' ')}`;
  if (quotes.length > 0) return `${opening}From what I was given: ${quotes.map(quotePassage).join(' ')}`;
  return opening + admitIgnorance(question);
}

function asksWhoAnswers(question: string): boolean {
  return /\b(?:who|what) are you\b|\b(?:what|which) (?:ai |language )?model\b|\byour name\b|\bare you (?:an? |the )?(?:real|ai|artificial|human|robot|bot|model|llm)\b|\bintroduce yourself\b/i.test(
    question,
  );
}

function isGreeting(question: string): boolean {
  return /^(?:hello|hi|hey|good (?:morning|day|evening|afternoon))\b(?:[ ,]+\p{L}+){0,2}[.! ]*$/iu.test(
    question.trim(),
  );
}

function isFact(sentence: string): boolean {
  return (
    /\b(?:I|I'm|I am|my|we|our|mine)\b/.test(sentence.replace(/^My\b/, 'my').replace(/^We\b/, 'we')) ||
    /^remember\b/i.test(sentence)
  );
}

function introduce({ name, role }: Conversation['persona']): string {
  const who = [name, role].filter((part) => part !== null).join(', ');
  return who === '' ? HONESTY : `I am ${who}. ${HONESTY}`;
}

function reportResults({ toolResults }: Conversation): string {
  const lines = toolResults.map(({ name, result }) => `${name} says: ${readable(result)}`);
  return lines.join('\n');
}

/** A tool's JSON as words: a single value as itself, an object as its fields. */
export function readable(result: string): string {
  let value: unknown;
  try {
    value = JSON.parse(result);
  } catch {
    return result.trim();
  }
  return describe(value, 0);
}

function describe(value: unknown, depth: number): string {
  if (value === null || typeof value !== 'object') return String(value);
  if (depth >= 3) return JSON.stringify(value);
  if (Array.isArray(value)) return value.map((item) => describe(item, depth + 1)).join('; ') || 'nothing';
  const fields = Object.entries(value);
  const [only] = fields;
  if (fields.length === 1 && only) return describe(only[1], depth + 1);
  return fields.map(([name, field]) => `${name}: ${describe(field, depth + 1)}`).join(', ');
}

/**
 * The sentences that share the most telling words with the question, in their own order. A word weighs the more the
 * fewer sentences have it; sentences about something that failed always count when they come with the question.
 */
function findQuotes({ question, passages }: Conversation): Passage[] {
  const asked = new Set(contentWords(question));
  const known = passages.map((passage) => ({ passage, words: new Set(contentWords(passage.text)) }));
  const frequency = new Map<string, number>();
  for (const { words } of known) for (const word of words) frequency.set(word, (frequency.get(word) ?? 0) + 1);
  const scored = known.map(({ passage, words }) => {
    let score = 0;
    for (const word of words) {
      if (asked.has(word)) score += Math.log(1 + known.length / (frequency.get(word) ?? 1));
    }
    return { passage, score: score / (1 + 0.02 * words.size) };
  });
  const best = Math.max(0, ...scored.map(({ score }) => score));
  const chosen = scored
    .filter(({ score }) => score > 0 && score >= best / 2)
    .toSorted((one, other) => other.score - one.score)
    .slice(0, MOST_QUOTES)
    .map(({ passage }) => passage);
  if (chosen.length === 0 && /\b(?:about me|remember|told you)\b/i.test(question)) {
    chosen.push(...passages.filter(({ source, text }) => source === 'user' && isFact(text)).slice(0, 5));
  }
  // A request that comes with material, such as results to be put together, is answered with its beginnings.
  if (chosen.length === 0 && isImperative(question)) chosen.push(...passages.filter(isMaterial).slice(0, MOST_QUOTES));
  const failures = passages.filter(
    (passage) => isMaterial(passage) && /\b(?:failed|skipped|missing)\b/i.test(passage.text),
  );
  const wanted = new Set([...chosen, ...(chosen.length > 0 ? failures.slice(0, 3) : [])]);
  return passages.filter((passage) => wanted.has(passage));
}

function isMaterial({ source }: Passage): boolean {
  return source !== 'system';
}

function quote(text: string): string {
  return `“${text}”`;
}

function quotePassage({ text, mark }: Passage): string {
  return mark === null ? quote(text) : `${quote(text)} ${mark}`;
}

function admitIgnorance(question: string): string {
  if (question === '') return HONESTY;
  const about = quote(question.length > 200 ? `${question.slice(0, 200)}…` : question);
  return isImperative(question)
    ? `${HONESTY} For ${about} I was given nothing to work from; a real model would do it here.`
    : `${HONESTY} I found nothing about ${about}.`;
}
