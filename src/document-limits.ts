import {
  type DocumentNode,
  type FieldNode,
  type FragmentDefinitionNode,
  GraphQLError,
  type GraphQLObjectType,
  type GraphQLOutputType,
  type GraphQLSchema,
  getNamedType,
  getNullableType,
  isCompositeType,
  isInterfaceType,
  isListType,
  isObjectType,
  Kind,
  type ParseOptions,
  parse,
  type SelectionSetNode,
  type Source,
  type ValueNode,
} from 'graphql';
import { DomainError } from './errors.ts';
import { defaultPageSize, maximumPageSize } from './services/page.ts';

/** How much one request may ask. */
export interface DocumentLimits {
  /** Words, names and signs of a document, before anything else looks at it. */
  tokens: number;
  /** Fields within fields. */
  depth: number;
  aliases: number;
  /** Fields that the answer may hold: those of a list count once for each item of its page. */
  cost: number;
}

export interface DocumentMeasure {
  depth: number;
  aliases: number;
  cost: number;
}

/** Items that a list without pages is taken to have. */
const usualList = 10;
/** What a change costs beside the fields of its answer. */
const mutationCost = 10;

/** What is looked at while a document is measured. */
interface Walk {
  schema: GraphQLSchema;
  fragments: ReadonlyMap<string, FragmentDefinitionNode>;
  variables: Readonly<Record<string, unknown>>;
  /** A fragment is measured once, however often it is spread: else a short document could keep the process busy. */
  known: Map<string, DocumentMeasure>;
}

/** Parses as GraphQL does, and stops at the limit. @throws GraphQLError with a DomainError OPERATION_TOO_COMPLEX */
export function parseWithin(limits: DocumentLimits): (source: string | Source, options?: ParseOptions) => DocumentNode {
  return (source, options) => {
    try {
      return parse(source, { ...options, maxTokens: limits.tokens });
    } catch (error) {
      if (error instanceof GraphQLError && error.message.includes(`more that ${limits.tokens} tokens`)) {
        throw new GraphQLError(error.message, { originalError: tooComplex('tokens', limits.tokens, null) });
      }
      throw error;
    }
  };
}

/**
 * Checks an operation of a valid document before it runs.
 * @throws DomainError OPERATION_TOO_COMPLEX, which names the limit
 */
export function checkDocument(
  limits: DocumentLimits,
  schema: GraphQLSchema,
  document: DocumentNode,
  operationName: string | null,
  variables: Readonly<Record<string, unknown>>,
): void {
  const measure = measureDocument(schema, document, operationName, variables);
  for (const name of ['depth', 'aliases', 'cost'] as const) {
    if (measure[name] > limits[name]) {
      throw tooComplex(name, limits[name], measure[name]);
    }
  }
}

function tooComplex(name: keyof DocumentLimits, most: number, asked: number | null): DomainError {
  const found = asked === null ? 'more' : asked;
  return new DomainError(
    'OPERATION_TOO_COMPLEX',
    `The operation has a ${wording[name]} of ${found}; at most ${most} is allowed.`,
    {
      limit: { name, most, ...(asked === null ? {} : { asked }) },
    },
  );
}

const wording: Record<keyof DocumentLimits, string> = {
  tokens: 'number of tokens',
  depth: 'depth',
  aliases: 'number of aliases',
  cost: 'cost',
};

/** How much an operation of a valid document asks. Fields of introspection are left out: graphql-js bounds them itself. */
export function measureDocument(
  schema: GraphQLSchema,
  document: DocumentNode,
  operationName: string | null,
  variables: Readonly<Record<string, unknown>>,
): DocumentMeasure {
  const fragments = new Map<string, FragmentDefinitionNode>();
  const operations = document.definitions.filter((definition) => {
    if (definition.kind === Kind.FRAGMENT_DEFINITION) {
      fragments.set(definition.name.value, definition);
    }
    return definition.kind === Kind.OPERATION_DEFINITION;
  });
  const operation = operations.find((one) => operationName === null || one.name?.value === operationName);
  const root = operation === undefined ? undefined : schema.getRootType(operation.operation);
  if (operation === undefined || root === null || root === undefined) {
    return { depth: 0, aliases: 0, cost: 0 };
  }
  const defaults = Object.fromEntries(
    (operation.variableDefinitions ?? []).map(({ variable, defaultValue }) => [
      variable.name.value,
      defaultValue?.kind === Kind.INT ? Number(defaultValue.value) : undefined,
    ]),
  );
  const walk: Walk = { schema, fragments, variables: { ...defaults, ...variables }, known: new Map() };
  const measure = measureSelection(walk, operation.selectionSet, root, defaultPageSize);
  const changes = operation.operation === 'mutation' ? operation.selectionSet.selections.length : 0;
  return { ...measure, cost: measure.cost + changes * mutationCost };
}

function measureSelection(walk: Walk, set: SelectionSetNode, parent: GraphQLOutputType, page: number): DocumentMeasure {
  const total: DocumentMeasure = { depth: 0, aliases: 0, cost: 0 };
  for (const selection of set.selections) {
    let part: DocumentMeasure;
    if (selection.kind === Kind.FIELD) {
      part = measureField(walk, selection, parent, page);
    } else if (selection.kind === Kind.INLINE_FRAGMENT) {
      const type = selection.typeCondition && walk.schema.getType(selection.typeCondition.name.value);
      part = measureSelection(walk, selection.selectionSet, isCompositeType(type) ? type : parent, page);
    } else {
      part = measureFragment(walk, selection.name.value, page);
    }
    total.depth = Math.max(total.depth, part.depth);
    total.aliases += part.aliases;
    total.cost += part.cost;
  }
  return total;
}

function measureFragment(walk: Walk, name: string, page: number): DocumentMeasure {
  const key = `${name} ${page}`;
  const known = walk.known.get(key);
  if (known !== undefined) {
    return known;
  }
  const fragment = walk.fragments.get(name);
  const type = fragment && walk.schema.getType(fragment.typeCondition.name.value);
  if (fragment === undefined || !isCompositeType(type)) {
    return { depth: 0, aliases: 0, cost: 0 };
  }
  const measure = measureSelection(walk, fragment.selectionSet, type, page);
  walk.known.set(key, measure);
  return measure;
}

function measureField(walk: Walk, field: FieldNode, parent: GraphQLOutputType, page: number): DocumentMeasure {
  const name = field.name.value;
  const aliases = field.alias === undefined ? 0 : 1;
  if (name.startsWith('__')) {
    return { depth: 0, aliases, cost: 0 };
  }
  const definition = isObjectType(parent) || isInterfaceType(parent) ? fieldOf(parent, name) : undefined;
  if (definition === undefined || field.selectionSet === undefined) {
    return { depth: 1, aliases, cost: 1 };
  }
  const named = getNamedType(definition.type);
  const inner = measureSelection(
    walk,
    field.selectionSet,
    named,
    named.name.endsWith('Connection') ? pageSize(walk, field) : defaultPageSize,
  );
  const isList = isListType(getNullableType(definition.type));
  // The items of a page are where its size counts; the page itself is one.
  const items = !isList ? 1 : isObjectType(parent) && parent.name.endsWith('Connection') ? page : usualList;
  return { depth: inner.depth + 1, aliases: inner.aliases + aliases, cost: 1 + items * inner.cost };
}

function fieldOf(parent: Pick<GraphQLObjectType, 'getFields'>, name: string) {
  return parent.getFields()[name];
}

function pageSize(walk: Walk, field: FieldNode): number {
  const sizes = (field.arguments ?? [])
    .filter(({ name }) => name.value === 'first' || name.value === 'last')
    .map(({ value }) => numberOf(walk, value))
    .filter((size) => size !== null);
  return sizes.length === 0 ? defaultPageSize : Math.min(maximumPageSize, Math.max(0, ...sizes));
}

function numberOf(walk: Walk, value: ValueNode): number | null {
  const given =
    value.kind === Kind.VARIABLE
      ? walk.variables[value.name.value]
      : value.kind === Kind.INT
        ? Number(value.value)
        : null;
  return typeof given === 'number' && Number.isFinite(given) ? given : null;
}
