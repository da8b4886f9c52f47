import { execFile } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type pg from 'pg';

/** What Prisma's parser says of a schema, as far as it has to agree with the database. */
export interface DataModel {
  models: {
    name: string;
    dbName: string | null;
    fields: ModelField[];
    primaryKey: { fields: string[] } | null;
    uniqueFields: string[][];
  }[];
  enums: { name: string; dbName: string | null; values: { name: string; dbName: string | null }[] }[];
}

interface ModelField {
  name: string;
  dbName?: string;
  kind: string;
  type: string;
  nativeType?: [name: string, parameters: string[]] | null;
  isList: boolean;
  isRequired: boolean;
  isUnique: boolean;
  isId: boolean;
  hasDefaultValue: boolean;
}

const run = promisify(execFile);

/** Lets Prisma's own command line parse the schema, through a generator that gives the model back. */
export async function readDataModel(): Promise<DataModel> {
  const folder = await mkdtemp(join(tmpdir(), 'data-model-'));
  try {
    await mkdir(join(folder, 'out'));
    const schema = await readFile(new URL('../../prisma/schema.prisma', import.meta.url), 'utf8');
    // Its command goes through a shell: a path beside the schema has no characters that a shell would take apart.
    await copyFile(new URL('model-generator.mjs', import.meta.url), join(folder, 'model-generator.mjs'));
    const own = `generator model {\n provider = "node ${join(folder, 'model-generator.mjs')}"\n output = "./out"\n}\n`;
    await writeFile(join(folder, 'schema.prisma'), own + schema.replace(/^generator client \{[^}]*\}/m, ''));
    const prisma = createRequire(import.meta.url).resolve('prisma/build/index.js');
    await run(process.execPath, [prisma, 'generate', '--schema', join(folder, 'schema.prisma')], {
      timeout: 60_000,
      // As in scripts/generate.mjs: no engine is needed, and none shall be downloaded.
      env: {
        ...process.env,
        PRISMA_SCHEMA_ENGINE_BINARY: '/bin/true',
        PRISMA_HIDE_UPDATE_MESSAGE: '1',
        CHECKPOINT_DISABLE: '1',
      },
    });
    return JSON.parse(await readFile(join(folder, 'out', 'model.json'), 'utf8')) as DataModel;
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** The model in the words of the catalog, one line each. */
export function describeModel(model: DataModel): string[] {
  const enumNames = new Map(model.enums.map((entry) => [entry.name, entry.dbName ?? entry.name]));
  return [
    ...model.enums.map((entry) =>
      enumLine(
        entry.dbName ?? entry.name,
        entry.values.map((value) => value.dbName ?? value.name),
      ),
    ),
    ...model.models.flatMap((table) => {
      const name = table.dbName ?? table.name;
      const column = new Map(table.fields.map((field) => [field.name, field.dbName ?? field.name]));
      const key = table.primaryKey?.fields ?? table.fields.filter((field) => field.isId).map((field) => field.name);
      const unique = [
        ...table.uniqueFields,
        ...table.fields.filter((field) => field.isUnique).map((field) => [field.name]),
      ];
      return [
        ...table.fields.map((field) =>
          columnLine(
            name,
            field.dbName ?? field.name,
            columnType(field, enumNames),
            field.isRequired,
            field.hasDefaultValue,
          ),
        ),
        keyLine(
          'primary',
          name,
          key.map((field) => column.get(field) ?? field),
        ),
        ...unique.map((fields) =>
          keyLine(
            'unique',
            name,
            fields.map((field) => column.get(field) ?? field),
          ),
        ),
      ];
    }),
  ].sort();
}

/** The database in the same words. Unique indexes over expressions and generated columns are beyond the model and left out. */
export async function describeDatabase(client: Pick<pg.ClientBase, 'query'>): Promise<string[]> {
  const tables = `relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'schema_migrations'`;
  const enums = await client.query<{ name: string; values: string[] }>(`
    SELECT typname AS name, array_agg(enumlabel::text ORDER BY enumsortorder) AS values
    FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid GROUP BY typname`);
  const columns = await client.query<{
    table: string;
    name: string;
    type: string;
    required: boolean;
    filled: boolean;
  }>(`
    SELECT relname AS table, attname AS name, format_type(atttypid, atttypmod) AS type, attnotnull AS required, atthasdef AS filled
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE ${tables} AND attnum > 0 AND NOT attisdropped AND attgenerated = ''`);
  const keys = await client.query<{ table: string; primary: boolean; columns: string[] }>(`
    SELECT relname AS table, indisprimary AS primary,
      ARRAY (SELECT attname::text FROM unnest(indkey[0:indnkeyatts - 1]) WITH ORDINALITY AS part (number, place)
        JOIN pg_attribute ON attrelid = indrelid AND attnum = number ORDER BY place) AS columns
    FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
    WHERE ${tables} AND indisunique AND indexprs IS NULL AND indpred IS NULL`);
  return [
    ...enums.rows.map((row) => enumLine(row.name, row.values)),
    ...columns.rows.map((row) => columnLine(row.table, row.name, row.type, row.required, row.filled)),
    ...keys.rows.map((row) => keyLine(row.primary ? 'primary' : 'unique', row.table, row.columns)),
  ].sort();
}

/** Where model and database differ, one line each; none when they agree. */
export function compareLines(model: string[], database: string[]): string[] {
  return [
    ...model.filter((line) => !database.includes(line)).map((line) => `only in the model: ${line}`),
    ...database.filter((line) => !model.includes(line)).map((line) => `only in the database: ${line}`),
  ];
}

function enumLine(name: string, values: string[]): string {
  return `enum ${name}: ${values.join(', ')}`;
}

function columnLine(table: string, name: string, type: string, required: boolean, filled: boolean): string {
  return `column ${table}.${name}: ${type}${required ? ' required' : ''}${filled ? ' with a default' : ''}`;
}

function keyLine(kind: 'primary' | 'unique', table: string, columns: string[]): string {
  return `${kind} key of ${table}: ${columns.join(', ')}`;
}

/** Prisma's defaults for Postgres, and the native types that the model asks for by name. */
const scalarTypes: Record<string, string> = {
  String: 'text',
  Boolean: 'boolean',
  Int: 'integer',
  BigInt: 'bigint',
  Float: 'double precision',
  Json: 'jsonb',
  Bytes: 'bytea',
};

function columnType(field: ModelField, enumNames: Map<string, string>): string {
  const list = field.isList ? '[]' : '';
  if (field.kind === 'enum') {
    return `${enumNames.get(field.type)}${list}`;
  }
  const [native, parameters] = field.nativeType ?? [null, []];
  if (native === 'Uuid') {
    return `uuid${list}`;
  }
  if (native === 'Date') {
    return `date${list}`;
  }
  if (native === 'Timestamptz') {
    const digits = parameters[0] ?? '6';
    // Six digits is what Postgres keeps when no number is given.
    return `timestamp${digits === '6' ? '' : `(${digits})`} with time zone${list}`;
  }
  const type = native === null ? scalarTypes[field.type] : undefined;
  if (type === undefined) {
    throw new Error(`the field ${field.name} has a type that this test can't tell yet: ${field.type} ${native ?? ''}`);
  }
  return `${type}${list}`;
}
