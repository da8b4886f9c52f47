import { findPatternFault } from './pattern.ts';

export type JsonObject = Record<string, unknown>;

/** What is wrong with a schema, and where: a JSON Pointer into it. */
export interface SchemaFault {
  path: string;
  message: string;
}

const longestSchema = 32_768;
const deepestSchema = 24;
/** Most subschemas that one value may have to be checked against, with every reference followed. */
const mostExpanded = 5_000;

const dialects = /^https?:\/\/json-schema\.org\/(draft-07\/schema|draft\/2020-12\/schema)#?$/;
/** Keywords that name a schema for others or lead out of it. */
const foreignKeywords = [
  '$id',
  'id',
  '$anchor',
  '$dynamicAnchor',
  '$dynamicRef',
  '$recursiveRef',
  '$recursiveAnchor',
  '$vocabulary',
];
const schemaKeywords = new Set([
  ...['additionalItems', 'additionalProperties', 'contains', 'contentSchema', 'else', 'if', 'items', 'not'],
  ...['propertyNames', 'then', 'unevaluatedItems', 'unevaluatedProperties'],
]);
const schemaListKeywords = new Set(['allOf', 'anyOf', 'items', 'oneOf', 'prefixItems']);
const schemaMapKeywords = new Set([
  ...['$defs', 'definitions', 'dependencies', 'dependentSchemas', 'patternProperties', 'properties'],
]);
const definitions = new Set(['$defs', 'definitions']);

/**
 * What is wrong with the schema of a tool's arguments, before it is compiled; null when nothing is. It must describe an
 * object, stand for itself (no reference leads out), be small and flat, and stay small when its references are followed.
 */
export function findSchemaFault(schema: unknown): SchemaFault | null {
  if (!isObject(schema)) {
    return { path: '', message: 'must be a JSON object' };
  }
  const size = sizeFault(schema);
  if (size !== null) {
    return size;
  }
  if (schema['type'] !== 'object') {
    return { path: '/type', message: 'must be "object": a tool takes named arguments' };
  }
  if ('$schema' in schema && (typeof schema['$schema'] !== 'string' || !dialects.test(schema['$schema']))) {
    return { path: '/$schema', message: 'must be JSON Schema 2020-12 or draft-07' };
  }
  for (const [path, part] of subschemas(schema)) {
    const fault = partFault(schema, path, part);
    if (fault !== null) {
      return fault;
    }
  }
  return expandedSize(schema, schema, new Map(), new Set()) > mostExpanded
    ? { path: '', message: `has more than ${mostExpanded} parts when its references are followed` }
    : null;
}

function sizeFault(schema: JsonObject): SchemaFault | null {
  const open: { value: unknown; path: string; depth: number }[] = [{ value: schema, path: '', depth: 1 }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { value, path, depth } = next;
    if (typeof value !== 'object' || value === null) {
      continue;
    }
    if (depth > deepestSchema) {
      return { path, message: `is nested more than ${deepestSchema} deep` };
    }
    for (const [member, inner] of Object.entries(value)) {
      if (member === '__proto__') {
        return { path: below(path, member), message: 'is a name that is not allowed' };
      }
      open.push({ value: inner, path: below(path, member), depth: depth + 1 });
    }
  }
  return JSON.stringify(schema).length > longestSchema
    ? { path: '', message: `has more than ${longestSchema} characters` }
    : null;
}

function partFault(root: JsonObject, path: string, part: JsonObject): SchemaFault | null {
  const foreign = foreignKeywords.find((keyword) => keyword in part);
  if (foreign !== undefined) {
    return {
      path: below(path, foreign),
      message: 'is not allowed: the schema of a tool stands for itself',
    };
  }
  if (path !== '' && '$schema' in part) {
    return { path: below(path, '$schema'), message: 'is allowed at the top only' };
  }
  const { $ref: reference, pattern, patternProperties } = part;
  if (reference !== undefined && (typeof reference !== 'string' || !isObject(resolve(root, reference)))) {
    return { path: below(path, '$ref'), message: 'must lead to a schema within this one, such as "#/$defs/city"' };
  }
  const patterns: [string, unknown][] = [
    ...(pattern === undefined ? [] : [[below(path, 'pattern'), pattern] as [string, unknown]]),
    ...Object.keys(isObject(patternProperties) ? patternProperties : {}).map((name): [string, unknown] => [
      below(below(path, 'patternProperties'), name),
      name,
    ]),
  ];
  for (const [place, text] of patterns) {
    const fault = typeof text === 'string' ? findPatternFault(text) : 'must be a text';
    if (fault !== null) {
      return { path: place, message: fault };
    }
  }
  return null;
}

/** Every schema within a schema with its path, itself first. */
function* subschemas(schema: JsonObject, path = ''): Generator<[string, JsonObject]> {
  yield [path, schema];
  for (const [keyword, value] of Object.entries(schema)) {
    const place = below(path, keyword);
    if (schemaKeywords.has(keyword) && isObject(value)) {
      yield* subschemas(value, place);
    } else if (schemaListKeywords.has(keyword) && Array.isArray(value)) {
      for (const [index, part] of value.entries()) {
        if (isObject(part)) {
          yield* subschemas(part, below(place, String(index)));
        }
      }
    } else if (schemaMapKeywords.has(keyword) && isObject(value)) {
      for (const [name, part] of Object.entries(value)) {
        if (isObject(part)) {
          yield* subschemas(part, below(place, name));
        }
      }
    }
  }
}

/** How many schemas one is with all references written out; one that leads back into itself counts once. */
function expandedSize(
  root: JsonObject,
  schema: JsonObject,
  known: Map<JsonObject, number>,
  above: Set<JsonObject>,
): number {
  const before = known.get(schema);
  if (before !== undefined || above.has(schema)) {
    return before ?? 1;
  }
  above.add(schema);
  let size = 1;
  for (const [keyword, value] of Object.entries(schema)) {
    if (!definitions.has(keyword)) {
      for (const part of partsOf(root, keyword, value)) {
        size = Math.min(size + expandedSize(root, part, known, above), mostExpanded + 1);
      }
    }
  }
  above.delete(schema);
  known.set(schema, size);
  return size;
}

function partsOf(root: JsonObject, keyword: string, value: unknown): JsonObject[] {
  if (keyword === '$ref') {
    const target = resolve(root, String(value));
    return isObject(target) ? [target] : [];
  }
  if (schemaKeywords.has(keyword) && isObject(value)) {
    return [value];
  }
  if (schemaListKeywords.has(keyword) && Array.isArray(value)) {
    return value.filter(isObject);
  }
  return schemaMapKeywords.has(keyword) && isObject(value) ? Object.values(value).filter(isObject) : [];
}

/** What a reference within the schema leads to (https://www.rfc-editor.org/rfc/rfc6901, as a fragment). */
function resolve(root: JsonObject, reference: string): unknown {
  if (reference === '#') {
    return root;
  }
  if (!reference.startsWith('#/')) {
    return undefined;
  }
  let value: unknown = root;
  for (const part of reference.slice(2).split('/')) {
    const name = decoded(part).replaceAll('~1', '/').replaceAll('~0', '~');
    value =
      typeof value === 'object' && value !== null && Object.hasOwn(value, name)
        ? (value as JsonObject)[name]
        : undefined;
  }
  return value;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function below(path: string, name: string): string {
  return `${path}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
