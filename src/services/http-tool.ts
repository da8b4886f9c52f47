import { DomainError } from '../errors.ts';
import {
  fillText,
  fillValue,
  findPlaceFault,
  followPointer,
  holdsSecret,
  type JsonValue,
  parseTemplate,
  type Template,
  type TemplateValues,
  valueText,
} from './tool-template.ts';

/** How an HTTP tool makes its request, as it is stored. */
export interface HttpToolSettings {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Template; its origin is fixed. */
  url: string;
  /** Values are templates. */
  headers: { name: string; value: string }[];
  /** Template of the JSON content; null sends all arguments. */
  body: { [member: string]: JsonValue } | JsonValue[] | null;
  /** JSON Pointer to the part of the answer that is the result; empty for all. */
  resultPointer: string;
  /** Header that tells a repeated request; null sends none. */
  idempotencyHeader: string | null;
}

/** A request that is ready to be sent. */
export interface HttpToolRequest {
  url: string;
  method: string;
  headers: Record<string, string>;
  body: string | undefined;
}

export interface SettingsFault {
  /** Path below the settings. */
  field: string;
  message: string;
}

const headerName = /^[!#$%&'*+.^_`|~\w-]{1,100}$/;
const headerText = /^[\t\x20-\x7e\x80-\xff]*$/;
/** Belong to the connection, not to a tool. */
const reservedHeaders = new Set([
  ...['accept', 'accept-encoding', 'connection', 'content-length', 'expect', 'host', 'keep-alive', 'te', 'trailer'],
  ...['proxy-authorization', 'proxy-connection', 'transfer-encoding', 'upgrade', 'via'],
]);
const secretHeaders = /^(authorization|cookie|x-?api-?key|api-?key|x-auth-token)$/i;
const formType = /^application\/x-www-form-urlencoded\b/i;
const mostHeaders = 30;
const longestBody = 20_000;

/** What is wrong with an HTTP tool's settings; null when they are good. */
export function findHttpFault(
  settings: HttpToolSettings,
  argumentNames: ReadonlySet<string>,
  secretNames: ReadonlySet<string>,
): SettingsFault | null {
  const check = (text: string): string | null => {
    const template = parseTemplate(text);
    return template === null
      ? 'Write a place as `{{argument}}` or `{{secrets.NAME}}`.'
      : findPlaceFault(template, argumentNames, secretNames);
  };
  const url = splitUrl(settings.url);
  const urlFault = 'fault' in url ? url.fault : check(settings.url);
  if (urlFault !== null) {
    return { field: 'url', message: urlFault };
  }
  const headerFault = findHeaderFault(settings.headers, check);
  if (headerFault !== null) {
    return headerFault;
  }
  if (settings.idempotencyHeader !== null && !isFreeHeader(settings.idempotencyHeader)) {
    return { field: 'idempotencyHeader', message: 'This header may not be set by a tool.' };
  }
  if (settings.resultPointer !== '' && !/^(\/([^~]|~[01])*)+$/.test(settings.resultPointer)) {
    return { field: 'resultPointer', message: '`resultPointer` must be a JSON Pointer, such as `/items/0/name`.' };
  }
  if (
    settings.body !== null &&
    (typeof settings.body !== 'object' || JSON.stringify(settings.body).length > longestBody)
  ) {
    return { field: 'body', message: `\`body\` must be a JSON object or list of at most ${longestBody} characters.` };
  }
  const bodyFault = textsIn(settings.body)
    .map(check)
    .find((fault) => fault !== null);
  return bodyFault === undefined ? null : { field: 'body', message: bodyFault };
}

function findHeaderFault(
  headers: HttpToolSettings['headers'],
  check: (text: string) => string | null,
): SettingsFault | null {
  if (headers.length > mostHeaders) {
    return { field: 'headers', message: `A tool may send at most ${mostHeaders} headers.` };
  }
  const seen = new Set<string>();
  for (const [index, { name, value }] of headers.entries()) {
    const field = `headers.${index}`;
    if (!isFreeHeader(name) || seen.has(name.toLowerCase())) {
      return { field: `${field}.name`, message: 'This header may not be set by a tool, or is set twice.' };
    }
    seen.add(name.toLowerCase());
    const template = parseTemplate(value) ?? [];
    if (secretHeaders.test(name) && !holdsSecret(template)) {
      const message = 'Keep what this header says as a secret and write `{{secrets.NAME}}` here: settings can be read.';
      return { field: `${field}.value`, message };
    }
    const fault = headerText.test(value) ? check(value) : 'A header may hold visible characters of Latin-1 only.';
    if (fault !== null) {
      return { field: `${field}.value`, message: fault };
    }
  }
  return null;
}

function isFreeHeader(name: string): boolean {
  return headerName.test(name) && !reservedHeaders.has(name.toLowerCase());
}

/**
 * The request of one call. Nothing that an argument holds changes where it goes: values are encoded, and one that would
 * lead to another path is refused.
 * @throws DomainError TOOL_FAILED when an argument is missing or can't be sent
 */
export function buildHttpRequest(
  settings: HttpToolSettings,
  values: TemplateValues,
  idempotencyKey: string,
): HttpToolRequest {
  const url = splitUrl(settings.url);
  if ('fault' in url) {
    throw new DomainError('TOOL_FAILED', url.fault);
  }
  const path = url.segments.map((segment) => fillSegment(segment, values)).join('/');
  const query = url.query.flatMap((pair) => fillPair(pair, values)).join('&');
  const headers = fillHeaders(settings.headers, values);
  const hasContent = settings.method !== 'GET';
  if (hasContent && settings.idempotencyHeader !== null) {
    headers[settings.idempotencyHeader.toLowerCase()] = idempotencyKey;
  }
  const text = `${url.origin}${path}${query === '' ? '' : `?${query}`}`;
  const parsed = URL.parse(text);
  // What fillSegment and fillPair promise, looked at once more where it counts.
  if (parsed === null || parsed.origin !== url.origin || parsed.pathname !== (path === '' ? '/' : path)) {
    throw new DomainError('TOOL_FAILED', 'An argument can not be part of the URL of this tool.');
  }
  return {
    url: parsed.href,
    method: settings.method,
    headers,
    body: hasContent ? fillBody(settings, values, headers) : undefined,
  };
}

interface UrlTemplate {
  origin: string;
  /** The path cut at its slashes; the first one is empty. */
  segments: Template[];
  query: { name: string; value: Template }[];
}

function splitUrl(text: string): UrlTemplate | { fault: string } {
  const match = /^(https?:\/\/[^/?#{}\\\s]+)((?:\/[^?#\\\s]*)?)(?:\?([^#\\\s]*))?$/i.exec(withoutSpacesInPlaces(text));
  const [, start = '', path = '', query = ''] = match ?? [];
  const origin = URL.parse(start)?.origin;
  if (match === null || origin === undefined || start.includes('@')) {
    return {
      fault: 'The URL must begin with its whole origin, such as `https://api.example.com/`, and have no fragment.',
    };
  }
  const segments = path.split('/').map(parseTemplate);
  const pairs = (query === '' ? [] : query.split('&')).map((pair) => {
    const [name = '', ...value] = pair.split('=');
    return { name, value: parseTemplate(value.join('=')) };
  });
  const isWhole = <Item>(item: Item | null): item is Item => item !== null;
  const values = pairs.map(({ value }) => value);
  if (!segments.every(isWhole) || !values.every(isWhole) || pairs.some(({ name }) => /[{}]/.test(name))) {
    return { fault: 'Places of the URL may stand in its path and in values of its query.' };
  }
  // The literal parts must already be as a URL has them, or they could not be told from what an argument did to them.
  const sample = `${origin}${segments.map((segment) => fixedText(segment)).join('/')}`;
  if (URL.parse(sample)?.href.replace(/\/$/, '') !== sample.replace(/\/$/, '')) {
    return { fault: 'The path of the URL must be written with its characters encoded and without `.` and `..`.' };
  }
  return { origin, segments, query: pairs.map(({ name, value }) => ({ name, value: value ?? [] })) };
}

function withoutSpacesInPlaces(text: string): string {
  return text.replace(/\{\{\s*([\w.-]+)\s*\}\}/g, '{{$1}}');
}

/** The template with something in each place that no URL changes. */
function fixedText(template: Template): string {
  return template.map((part) => (typeof part === 'string' ? part : 'x')).join('');
}

function fillSegment(segment: Template, values: TemplateValues): string {
  const text = fillText(segment, values, (value) => {
    // Many servers decode before they look at slashes: what would lead upwards there is refused as well.
    if (value === '' || value.split(/[/\\]/).some((part) => /^(\.|%2e){1,2}$/i.test(part.trim()))) {
      throw new DomainError('TOOL_FAILED', 'An argument can not be part of the URL of this tool.');
    }
    return encode(value);
  });
  if (/^(\.|%2e){1,2}$/i.test(text)) {
    throw new DomainError('TOOL_FAILED', 'An argument can not be part of the URL of this tool.');
  }
  return text;
}

/** A list becomes a pair for each item; a value that was not given leaves the pair out. */
function fillPair({ name, value }: UrlTemplate['query'][number], values: TemplateValues): string[] {
  const isWhole = value.length === 3 && value[0] === '' && value[2] === '';
  if (!isWhole) {
    return [`${name}=${fillText(value, values, encode)}`];
  }
  const filled = fillValue(value, values);
  const items = Array.isArray(filled) ? filled : [filled];
  return items.flatMap((item) => (item === undefined || item === null ? [] : [`${name}=${encode(valueText(item))}`]));
}

function fillHeaders(headers: HttpToolSettings['headers'], values: TemplateValues): Record<string, string> {
  const filled: Record<string, string> = {};
  for (const { name, value } of headers) {
    const result = fillValue(parseTemplate(value) ?? [], values);
    if (result !== undefined && result !== null) {
      const text = valueText(result);
      if (!headerText.test(text)) {
        throw new DomainError('TOOL_FAILED', `The header \`${name}\` can not hold what an argument puts into it.`);
      }
      filled[name.toLowerCase()] = text;
    }
  }
  return filled;
}

function fillBody(settings: HttpToolSettings, values: TemplateValues, headers: Record<string, string>): string {
  const content = settings.body === null ? values.arguments : fillJson(settings.body, values);
  const type = headers['content-type'];
  if (type !== undefined && formType.test(type)) {
    const members = Object.entries(content as Record<string, unknown>);
    return new URLSearchParams(members.map(([name, value]) => [name, valueText(value)])).toString();
  }
  headers['content-type'] ??= 'application/json';
  return JSON.stringify(content);
}

/** Members whose value was not given are left out. */
function fillJson(template: JsonValue, values: TemplateValues): unknown {
  if (typeof template === 'string') {
    return fillValue(parseTemplate(template) ?? [template], values);
  }
  if (Array.isArray(template)) {
    return template.map((item) => fillJson(item, values)).filter((item) => item !== undefined);
  }
  if (typeof template === 'object' && template !== null) {
    return Object.fromEntries(Object.entries(template).map(([name, value]) => [name, fillJson(value, values)]));
  }
  return template;
}

function textsIn(value: JsonValue): string[] {
  if (typeof value === 'string') {
    return [value];
  }
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(textsIn) : [];
}

/** Percent-encodes everything but letters, digits and `-_.~`. */
function encode(value: string): string {
  try {
    return encodeURIComponent(value).replace(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`);
  } catch {
    throw new DomainError('TOOL_FAILED', 'An argument is not valid text.');
  }
}

/** The part of an answer that is the result. @throws DomainError TOOL_FAILED when there is no such part */
export function selectResult(settings: HttpToolSettings, text: string): string {
  if (settings.resultPointer === '') {
    return text;
  }
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new DomainError('TOOL_FAILED', 'The answer is not JSON, so that no part of it can be taken.');
  }
  const part = followPointer(answer, settings.resultPointer);
  if (part === undefined) {
    throw new DomainError('TOOL_FAILED', `The answer holds nothing at ${settings.resultPointer}.`);
  }
  return valueText(part);
}
