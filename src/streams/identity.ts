import { createHash } from 'node:crypto';
import { type DocumentNode, print, visit } from 'graphql';
import type { Principal } from '../auth.ts';

/** What the key needs to know of a document, found once per document. */
interface Shape {
  text: string;
  /** Variables that can change a result. */
  variables: readonly string[];
}

const shapes = new WeakMap<DocumentNode, Shape>();

/**
 * A key that is equal for subscriptions that always get the same results: the same user and rights, document, operation and
 * variables. Where a reader resumes is left out: readers who are as far get the same from there on.
 */
export function subscriptionKey(
  principal: Principal,
  document: DocumentNode,
  operationName: string | null,
  variables: Readonly<Record<string, unknown>>,
): string {
  // When a token ends is the connection's matter; all else that a token says is part of what its bearer may see.
  const { expiresAt: _expiresAt, ...rights } = principal;
  const shape = shapeOf(document);
  const values = shape.variables.map((name) => [name, variables[name]]);
  return createHash('sha256')
    .update(JSON.stringify([rights, shape.text, operationName, values]))
    .digest('base64url');
}

function shapeOf(document: DocumentNode): Shape {
  const known = shapes.get(document);
  if (known !== undefined) {
    return known;
  }
  const names = new Set<string>();
  const stripped = visit(document, {
    Field: (node) =>
      node.name.value === 'events'
        ? { ...node, arguments: (node.arguments ?? []).filter((argument) => argument.name.value !== 'after') }
        : undefined,
  });
  visit(stripped, {
    VariableDefinition: () => false,
    Variable: (node) => void names.add(node.name.value),
  });
  // A definition may hold the cursor as its default.
  const withoutUnused = visit(stripped, {
    VariableDefinition: (node) => (names.has(node.variable.name.value) ? undefined : null),
  });
  const shape = { text: print(withoutUnused), variables: [...names].sort() };
  shapes.set(document, shape);
  return shape;
}
