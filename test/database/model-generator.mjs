// A Prisma generator: `prisma generate` parses the data model and asks over its standard input, one JSON-RPC request a
// line; answers go to standard error. What it generates is the parsed model itself, as JSON.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  let result = null;
  if (method === 'getManifest') {
    result = { manifest: { prettyName: 'the data model as JSON', defaultOutput: '.' } };
  } else if (method === 'generate') {
    writeFileSync(join(params.generator.output.value, 'model.json'), JSON.stringify(params.dmmf.datamodel));
  }
  process.stderr.write(`${JSON.stringify({ jsonrpc: '2.0', id, result })}\n`);
}
