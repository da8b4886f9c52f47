import type { JsonSchema } from './protocol.ts';
import { contentWords, identifierWords, sharedWords } from './words.ts';

const DEEPEST = 8;

/** Where the values for a schema come from. */
export interface Source {
  /** The text to take values from. */
  readonly text: string;
  /** The schema that `$ref`s point into. */
  readonly root: JsonSchema;
  /** What fills a property named like an answer. */
  readonly answer?: string;
}

/** Whether an unknown value is a JSON Schema or another object. */
export function isObject(value: unknown): value is JsonSchema {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Follows a `$ref` into the same document and takes the first alternative that isn't null. */
export function resolveSchema(schema: unknown, root: JsonSchema, depth = 0): JsonSchema {
  if (!isObject(schema) || depth > DEEPEST) return {};
  const reference = schema['$ref'];
  if (typeof reference === 'string') return resolveSchema(lookUp(reference, root), root, depth + 1);
  const alternatives = [schema['anyOf'], schema['oneOf'], schema['allOf']].find(Array.isArray) as unknown[] | undefined;
  if (!alternatives) return schema;
  const chosen = alternatives.find((alternative) => !isObject(alternative) || alternative['type'] !== 'null');
  return resolveSchema(chosen, root, depth + 1);
}

function lookUp(reference: string, root: JsonSchema): unknown {
  if (!reference.startsWith('#')) return {};
  let found: unknown = root;
  for (const step of reference.slice(1).split('/').filter(Boolean)) {
    found = isObject(found) ? found[decodeURIComponent(step).replaceAll('~1', '/').replaceAll('~0', '~')] : undefined;
  }
  return found;
}

/** The properties of an object's schema, resolved. */
export function propertiesOf(schema: JsonSchema, root: JsonSchema): [name: string, schema: JsonSchema][] {
  const properties = schema['properties'];
  if (!isObject(properties)) return [];
  return Object.entries(properties).map(([name, property]) => [name, resolveSchema(property, root)]);
}

/** The first type named that isn't null. */
export function typeOf(schema: JsonSchema): string | null {
  const type = [schema['type']].flat().find((name) => name !== 'null');
  if (typeof type === 'string') return type;
  if (schema['properties'] !== undefined) return 'object';
  return schema['items'] === undefined ? null : 'array';
}

/**
 * Makes a value that fits the schema as well as simple rules can: enums and limits are honoured, required properties
 * filled, optional ones only when the text says something for them.
 */
export function fillSchema(schema: unknown, source: Source, name = '', depth = 0): unknown {
  const resolved = resolveSchema(schema, source.root);
  if (resolved['const'] !== undefined) return resolved['const'];
  if (Array.isArray(resolved['enum'])) return pickOption(resolved['enum'], source.text);
  switch (typeOf(resolved)) {
    case 'object':
      return fillObject(resolved, source, depth);
    case 'array':
      return fillArray(resolved, source, name, depth);
    case 'integer':
    case 'number':
      return fillNumber(resolved, source.text);
    case 'boolean':
      return typeof resolved['default'] === 'boolean'
        ? resolved['default']
        : !/\b(?:no|not|never|without)\b/i.test(source.text);
    case 'null':
      return null;
    default:
      return fillString(resolved, source, name);
  }
}

/** The option that shares most words with the text, or the first; an option that stands in the text wins. */
export function pickOption(options: readonly unknown[], text: string): unknown {
  const lower = text.toLowerCase();
  const named = options.find((option) => typeof option === 'string' && option && lower.includes(option.toLowerCase()));
  if (named !== undefined) return named;
  const words = new Set(contentWords(text));
  const scores = options.map((option) => sharedWords(identifierWords(String(option)), words));
  return options[scores.indexOf(Math.max(...scores))] ?? null;
}

function fillObject(schema: JsonSchema, source: Source, depth: number): unknown {
  if (depth > DEEPEST) return {};
  const required = new Set(Array.isArray(schema['required']) ? schema['required'] : []);
  const usedNumbers = new Set<string>();
  const filled: [string, unknown][] = [];
  for (const [name, property] of propertiesOf(schema, source.root)) {
    const isNumber = ['integer', 'number'].includes(typeOf(property) ?? '');
    // Each number of the text serves one property: "from 3 to 7" fills two.
    const text = isNumber ? withoutNumbers(source.text, usedNumbers) : source.text;
    if (!required.has(name) && !saysSomethingFor(property, text, name)) continue;
    if (isNumber) usedNumbers.add(firstNumber(text) ?? '');
    filled.push([name, fillSchema(property, { ...source, text }, name, depth + 1)]);
  }
  return Object.fromEntries(filled);
}

function saysSomethingFor(schema: JsonSchema, text: string, name: string): boolean {
  if (schema['const'] !== undefined || schema['default'] !== undefined) return false;
  const options = schema['enum'];
  if (Array.isArray(options))
    return options.some((option) => option !== null && text.toLowerCase().includes(String(option).toLowerCase()));
  const type = typeOf(schema);
  if (type === 'integer' || type === 'number')
    return firstNumber(text) !== null && sharedWords(identifierWords(name), new Set(contentWords(text))) > 0;
  return type === 'string' && extractString(schema, text, name) !== null;
}

function fillArray(schema: JsonSchema, source: Source, name: string, depth: number): unknown[] {
  const least = limit(schema['minItems'], 1);
  const most = Math.max(least, limit(schema['maxItems'], 20));
  if (depth > DEEPEST) return [];
  const item = resolveSchema(schema['items'], source.root);
  const options = item['enum'];
  if (Array.isArray(options)) {
    const lower = source.text.toLowerCase();
    const named = options.filter((option) => lower.includes(String(option).toLowerCase()));
    const filler = options.filter((option) => !named.includes(option));
    return [...named, ...filler.slice(0, Math.max(0, least - named.length))].slice(0, most);
  }
  const texts = splitList(source.text).slice(0, most);
  while (texts.length < Math.min(least, 100)) texts.push(source.text);
  return texts.map((text) => fillSchema(item, { ...source, text }, name, depth + 1));
}

function splitList(text: string): string[] {
  const quoted = [...text.matchAll(/["“]([^"”]+)["”]/g)].map((found) => found[1] ?? '');
  if (quoted.length > 0) return quoted;
  const listed = /:\s*(.+)$/s.exec(text)?.[1] ?? text;
  const parts = listed
    .split(/\s*[,;\n]\s*(?:and\s+)?/)
    .map((part) => part.trim())
    .filter(Boolean);
  return parts.length > 0 ? parts : [text];
}

function fillNumber(schema: JsonSchema, text: string): number {
  const found = firstNumber(text);
  const fallback = typeof schema['default'] === 'number' ? schema['default'] : 1;
  const value = found === null ? fallback : Number(found);
  const least = limit(schema['minimum'], limit(schema['exclusiveMinimum'], Number.NEGATIVE_INFINITY - 1) + 1);
  const most = limit(schema['maximum'], limit(schema['exclusiveMaximum'], Number.POSITIVE_INFINITY) - 1);
  const bounded = Math.min(Math.max(value, least), most);
  return typeOf(schema) === 'integer' ? Math.round(bounded) : bounded;
}

function fillString(schema: JsonSchema, { text, answer }: Source, name: string): string {
  const asksAnswer = answer !== undefined && /answer|response|reply|summary|explanation|reason|result/i.test(name);
  const value = asksAnswer ? answer : extractString(schema, text, name);
  const fallback =
    typeof schema['default'] === 'string' ? schema['default'] : (FALLBACKS[String(schema['format'])] ?? text);
  const most = limit(schema['maxLength'], 100_000);
  const least = limit(schema['minLength'], 0);
  return (value ?? fallback).slice(0, most).padEnd(Math.min(least, 100_000), '.');
}

const FALLBACKS: Readonly<Record<string, string>> = {
  uri: 'https://example.com/',
  url: 'https://example.com/',
  email: 'nobody@example.com',
  date: '1970-01-01',
  'date-time': '1970-01-01T00:00:00Z',
  time: '00:00:00Z',
  uuid: '00000000-0000-4000-8000-000000000000',
};

/** A string for a property by what its name and format ask for, or null when the text has none. */
function extractString(schema: JsonSchema, text: string, name: string): string | null {
  const first = (pattern: RegExp): string | null => pattern.exec(text)?.[1]?.trim() ?? null;
  const format = String(schema['format'] ?? '');
  const is = (pattern: RegExp): boolean => pattern.test(name);
  if (/^ur[il]$/.test(format) || is(/ur[il]$|link|address$/i)) return first(/(https?:\/\/[^\s<>"”)]+[^\s<>"”).,;!?])/);
  if (format === 'email' || is(/e-?mail/i)) return first(/([\w.+-]+@[\w-]+\.[\w.-]*\w)/);
  if (format === 'date-time') return first(/(\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)?)/);
  if (format === 'date' || is(/date$/i)) return first(/(\d{4}-\d\d-\d\d)/);
  if (format === 'uuid') return first(/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/i);
  if (is(/expression|formula|calculation/i)) return extractExpression(text);
  if (is(/zone/i)) return first(/\b([A-Z][a-z]+\/[A-Z]\w+|UTC)\b/);
  const quoted = first(/["“«]([^"”»]+)["”»]/);
  if (quoted !== null) return quoted;
  if (is(/city|location|place|country|town/i))
    return first(/\b(?:in|at|for|from|near|of)\s+(\p{Lu}[\p{L}-]*(?:\s\p{Lu}[\p{L}-]*)*)/u);
  if (is(/agent|assignee|recipient|person/i))
    return first(/\b(?:ask|tell|let|to|by)\s+(?:the\s+)?(\p{Lu}[\p{L}\p{N}_-]*)/iu);
  if (
    is(
      /quer|question|search|text|content|input|prompt|message|fact|note|memor|task|instruction|topic|subject|title|^q$/i,
    )
  )
    return stripCommand(text);
  return null;
}

/** The arithmetic in a text, such as `12 * (3 + 4)`, with words for signs replaced; null when there is none. */
export function extractExpression(text: string): string | null {
  // Backtracking over a long row of digits would take seconds.
  const signed = text
    .slice(0, 2_000)
    .replace(/\s+(?:plus)\s+/gi, ' + ')
    .replace(/\s+(?:minus)\s+/gi, ' - ')
    .replace(/\s+(?:times|multiplied by)\s+/gi, ' * ')
    .replace(/\s+(?:divided by|over)\s+/gi, ' / ')
    .replace(/(?<=\d)\s*[×x]\s*(?=\d)/g, ' * ')
    .replaceAll('÷', '/')
    .replaceAll('−', '-')
    .replace(/(?<!\d)(\d+(?:\.\d+)?)\s*(?:%|percent)\s+of\s+/gi, '$1 / 100 * ');
  const found = /[-(]*(?<![\d.,])\d[\d.,]*(?:\s*[-+*/^%()]+\s*[-(]*\s*\d[\d.,]*\)*)+/.exec(signed)?.[0];
  const expression = found?.replace(/(?<=\d),(?=\d{3}\b)/g, '').replace(/[.,\s]+$/, '') ?? null;
  // "3-5 sources" and "2024-01-05" are a range and a date, unless somebody asks what they come to.
  const isRange = expression !== null && /^\d+(?:-\d+)+$/.test(expression);
  return isRange && !/\b(?:what is|what's|how much|calculate|compute|evaluate)\b/i.test(text) ? null : expression;
}

/** What remains of "search my memory for green tea": "green tea". */
function stripCommand(text: string): string {
  const bare = text.replace(/^(?:please,?\s+|can you\s+|could you\s+)/i, '').replace(/[\s.!]+$/, '');
  const asked = /^(?:[Aa]sk|[Tt]ell)\s+(?:the\s+)?\p{Lu}[\p{L}\p{N}_-]*\s+(?:to\s+|about\s+|that\s+)?(.+)$/su.exec(
    bare,
  );
  if (asked?.[1]) return asked[1];
  const object =
    /^(?:search|look|find|ask|tell|remember|note|save|store|query)\b[^:]*?(?::\s*|\b(?:for|about|that|up|to)\s+)(.+)$/is.exec(
      bare,
    );
  return object?.[1] ?? bare.replace(/^(?:remember|note|find|search|save)\s+/i, '');
}

function firstNumber(text: string): string | null {
  return /(?<![\p{L}\d.])-?\d+(?:\.\d+)?/u.exec(text)?.[0] ?? null;
}

function withoutNumbers(text: string, used: ReadonlySet<string>): string {
  return text.replace(/(?<![\p{L}\d.])-?\d+(?:\.\d+)?/gu, (found) => (used.has(found) ? '' : found));
}

function limit(value: unknown, fallback: number): number {
  return typeof value === 'number' ? value : fallback;
}
