import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { preset } from '@graphql-codegen/client-preset';
import { codegen } from '@graphql-codegen/core';
import { buildSchema, parse, Source } from 'graphql';

/** A client whose documents get types: a folder with `operations.graphql`; the types go to `generated/` in it. */
export interface GeneratedClient {
  folder: string;
  /** `string` for a client that takes text, `documentNode` for one that takes parsed documents. */
  documentMode: 'string' | 'documentNode';
}

const clients: GeneratedClient[] = [
  { folder: 'examples/graphql-sse', documentMode: 'string' },
  { folder: 'examples/react', documentMode: 'documentNode' },
];

/**
 * Types for the documents of a client, by the client preset of GraphQL Code Generator: contents by file path.
 * @throws Error that names the field and the document when a document does not fit the schema
 */
export async function generateClient(
  { folder, documentMode }: GeneratedClient,
  schemaText: string,
  documentText: string,
): Promise<Map<string, string>> {
  const schemaAst = buildSchema(schemaText);
  const schema = parse(schemaText);
  const location = join(folder, 'operations.graphql');
  const document = parse(new Source(documentText, location));
  const outputs = await preset.buildGeneratesSection({
    baseOutputDir: `${join(folder, 'generated')}/`,
    schema,
    schemaAst,
    documents: [{ location, document, rawSDL: documentText }],
    config: {
      documentMode,
      scalars: { ID: 'string', DateTime: 'string', JSON: 'unknown' },
      strictScalars: true,
      useTypeImports: true,
      importExtension: '.ts',
    },
    presetConfig: { fragmentMasking: false, skipIndexFile: true },
    plugins: [],
    pluginMap: {},
  });
  const contents = outputs.map(async (output) => [output.filename, await codegen({ ...output, schemaAst })] as const);
  return new Map(await Promise.all(contents));
}

// `npm run codegen`; also after every install and before the checks and tests.
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const root = import.meta.dirname;
  const schemaText = await readFile(join(root, 'schema.graphql'), 'utf8');
  for (const client of clients) {
    const documentText = await readFile(join(root, client.folder, 'operations.graphql'), 'utf8');
    for (const [path, content] of await generateClient(client, schemaText, documentText)) {
      const file = join(root, path);
      // Left alone when nothing changed, so that whoever reads it meanwhile never sees half of it.
      if ((await readFile(file, 'utf8').catch(() => null)) !== content) {
        await mkdir(dirname(file), { recursive: true });
        await writeFile(file, content);
        process.stdout.write(`${relative(process.cwd(), file)}\n`);
      }
    }
  }
}
