import { DomainError } from '../errors.ts';
import type { Secrets } from './secret-box.ts';

/** What fills the places of a template. */
export interface TemplateValues {
  arguments: Readonly<Record<string, unknown>>;
  secrets: Secrets;
}

/** A text that is cut at its places: `{{city}}`, `{{address.street}}`, `{{secrets.TOKEN}}`. */
export type Template = readonly (string | { place: string })[];

export type JsonValue = null | boolean | number | string | JsonValue[] | { [member: string]: JsonValue };

const placePattern = /\{\{\s*([A-Za-z_][\w-]*(?:\.[\w-]+)*)\s*\}\}/;
const secretPrefix = 'secrets.';

/** Cuts a text at its places. @returns null when a `{{` is not the start of a place */
export function parseTemplate(text: string): Template | null {
  // `split` by a pattern with one group gives texts and names in turn.
  const parts = text.split(placePattern).map((part, index) => (index % 2 === 0 ? part : { place: part }));
  return parts.some((part) => typeof part === 'string' && part.includes('{{')) ? null : parts;
}

/** What is wrong with the places of a template: they may name arguments of the tool's schema and secrets that it has. */
export function findPlaceFault(
  template: Template,
  argumentNames: ReadonlySet<string>,
  secretNames: ReadonlySet<string>,
): string | null {
  for (const part of template) {
    if (typeof part !== 'string') {
      const secret = secretOf(part.place);
      if (secret !== null && !secretNames.has(secret)) {
        return `\`{{${part.place}}}\` names no secret of the tool.`;
      }
      if (secret === null && !argumentNames.has(part.place.split('.')[0] ?? '')) {
        return `\`{{${part.place}}}\` names no argument of the tool.`;
      }
    }
  }
  return null;
}

/** Whether a text holds a place for a secret. */
export function holdsSecret(template: Template): boolean {
  return template.some((part) => typeof part !== 'string' && secretOf(part.place) !== null);
}

/**
 * Fills a template that may stand for any value: a text that is one place and nothing else becomes the value itself,
 * undefined when it was not given.
 * @throws DomainError TOOL_FAILED when a place within a longer text has no value
 */
export function fillValue(template: Template, values: TemplateValues): unknown {
  const [before, only, after] = template;
  if (template.length === 3 && before === '' && after === '' && only !== undefined && typeof only !== 'string') {
    return valueAt(only.place, values);
  }
  return fillText(template, values, (text) => text);
}

/** Fills a template as a text, with each value written by `encode`. @throws DomainError TOOL_FAILED when a place has no value */
export function fillText(template: Template, values: TemplateValues, encode: (text: string) => string): string {
  return template
    .map((part) => {
      if (typeof part === 'string') {
        return part;
      }
      const value = valueAt(part.place, values);
      if (value === undefined || value === null) {
        throw new DomainError('TOOL_FAILED', `The tool needs a value for \`${part.place}\`.`);
      }
      return encode(valueText(value));
    })
    .join('');
}

/** A value as a text: texts as they are, everything else as JSON. */
export function valueText(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/**
 * What a JSON Pointer leads to (https://www.rfc-editor.org/rfc/rfc6901); undefined when it leads nowhere.
 * The empty pointer leads to the whole.
 */
export function followPointer(value: unknown, pointer: string): unknown {
  let current = value;
  for (const part of pointer.split('/').slice(1)) {
    const name = part.replaceAll('~1', '/').replaceAll('~0', '~');
    const isIndex = !Array.isArray(current) || /^(0|[1-9]\d*)$/.test(name);
    current =
      typeof current === 'object' && current !== null && isIndex && Object.hasOwn(current, name)
        ? (current as Record<string, unknown>)[name]
        : undefined;
  }
  return current;
}

function valueAt(place: string, values: TemplateValues): unknown {
  const secret = secretOf(place);
  if (secret !== null) {
    return Object.hasOwn(values.secrets, secret) ? values.secrets[secret] : undefined;
  }
  return followPointer(values.arguments, `/${place.replaceAll('.', '/')}`);
}

function secretOf(place: string): string | null {
  return place.startsWith(secretPrefix) ? place.slice(secretPrefix.length) : null;
}
