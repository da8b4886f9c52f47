import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';

/** A value of YAML or JSON. */
export type Value = string | number | boolean | null | Value[] | { [key: string]: Value };
export type Mapping = { [key: string]: Value };

/** All documents of a YAML file, with merged keys resolved. @throws Error when one is not valid YAML */
export async function readYaml(path: string): Promise<Mapping[]> {
  return parseAllDocuments(await readFile(path, 'utf8'), { merge: true }).map((document) => {
    const [fault] = [...document.errors, ...document.warnings];
    if (fault !== undefined) {
      throw new Error(`${path}: ${fault.message}`);
    }
    return document.toJS() as Mapping;
  });
}

/** Paths of the files of a folder that end so. */
export async function listFiles(folder: string, ending: string): Promise<string[]> {
  return (await readdir(folder))
    .filter((name) => name.endsWith(ending))
    .sort()
    .map((name) => join(folder, name));
}

/** What stands at a path of keys and places; undefined when nothing does. */
export function at(value: Value | undefined, ...path: (string | number)[]): Value | undefined {
  return path.reduce<Value | undefined>(
    (inner, key) => (typeof inner === 'object' && inner !== null ? (inner as Mapping)[key] : undefined),
    value,
  );
}
