import {
  type GraphQLInputType,
  type GraphQLSchema,
  getNamedType,
  isInputObjectType,
  isInterfaceType,
  isObjectType,
} from 'graphql';

/** Arguments that lead to rows though their type does not say so. */
const pointers = new Set(['after', 'before', 'cursor', 'search']);

/**
 * Every place of a schema where a caller may name a thing: arguments and input members of type ID at any depth, and
 * cursors and searches. Written as `Type.field(argument.member)`.
 */
export function findIdPlaces(schema: GraphQLSchema): string[] {
  return Object.values(schema.getTypeMap())
    .filter((type) => (isObjectType(type) || isInterfaceType(type)) && !type.name.startsWith('__'))
    .flatMap((type) =>
      isObjectType(type) || isInterfaceType(type)
        ? Object.values(type.getFields()).map((field) => ({ type, field }))
        : [],
    )
    .flatMap(({ type, field }) =>
      field.args
        .flatMap((argument) => pathsIn(argument.type, argument.name, argument.name, []))
        .map((path) => `${type.name}.${field.name}(${path})`),
    )
    .sort();
}

function pathsIn(type: GraphQLInputType, name: string, path: string, above: string[]): string[] {
  const named = getNamedType(type);
  if (named.name === 'ID' || pointers.has(name)) {
    return [path];
  }
  if (!isInputObjectType(named) || above.includes(named.name)) {
    return [];
  }
  return Object.values(named.getFields()).flatMap((member) =>
    pathsIn(member.type, member.name, `${path}.${member.name}`, [...above, named.name]),
  );
}

/** Nouns that anyone who knows their id could ask for. */
export function findNouns(schema: GraphQLSchema): string[] {
  const node = schema.getType('Node');
  return isInterfaceType(node)
    ? schema
        .getPossibleTypes(node)
        .map((type) => type.name)
        .sort()
    : [];
}
