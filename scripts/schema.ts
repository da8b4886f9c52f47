import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { buildSchema, findBreakingChanges, type GraphQLSchema, lexicographicSortSchema, printSchema } from 'graphql';
import { createSchema } from '../src/resolvers/schema.ts';

/** What the code makes. */
const currentFile = 'schema.graphql';
/** What clients may rely on: it moves by `npm run schema -- --release` only, with a new major version when that breaks them. */
const releasedFile = 'schema.released.graphql';

/** The schema as text, in an order that does not depend on the order of the code. */
export function schemaText(schema: GraphQLSchema): string {
  return `${printSchema(lexicographicSortSchema(schema))}\n`;
}

/** What is wrong with the schema files; empty when all is well. */
export function auditSchema(made: string, current: string, released: string): string[] {
  const faults = findBreakingChanges(buildSchema(released), buildSchema(made)).map(
    (change) => `breaks clients (${change.type}): ${change.description}`,
  );
  if (made !== current) {
    faults.unshift(`${currentFile} is not what the code makes: run \`npm run schema\` and look at the difference`);
  }
  return faults;
}

// `npm run schema [-- --release]` writes the files; `-- --check` is part of `npm run check`.
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const made = schemaText(createSchema());
  if (process.argv.includes('--check')) {
    const faults = auditSchema(made, await readFile(currentFile, 'utf8'), await readFile(releasedFile, 'utf8'));
    for (const fault of faults) {
      console.error(fault);
    }
    process.exit(faults.length > 0 ? 1 : 0);
  }
  await writeFile(currentFile, made);
  if (process.argv.includes('--release')) {
    await writeFile(releasedFile, made);
  }
}
