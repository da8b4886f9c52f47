import type pg from 'pg';
import { v7 as uuidv7 } from 'uuid';

/** What a test may know of a table without naming it: read from the catalog. */
export interface TableShape {
  name: string;
  /** The column that says whose a row is; null where rows belong to nobody. */
  userColumn: string | null;
  columns: { name: string; type: string; required: boolean; firstValue: string | null }[];
  foreignKeys: { target: string; columns: string[]; targetColumns: string[] }[];
}

type Row = Record<string, unknown>;
type Client = Pick<pg.ClientBase, 'query'>;

const rowsPerTable = 2;

/** All tables of the service, each after those it refers to by a required column. */
export async function readTableShapes(client: Client): Promise<TableShape[]> {
  const { rows } = await client.query<TableShape>(`
    SELECT tables.relname AS name,
      (SELECT json_agg(json_build_object(
          'name', attname,
          'type', format_type(atttypid, atttypmod),
          'required', attnotnull AND NOT atthasdef,
          'firstValue', (SELECT enumlabel FROM pg_enum WHERE enumtypid = atttypid ORDER BY enumsortorder LIMIT 1)
        ) ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = tables.oid AND attnum > 0 AND NOT attisdropped) AS columns,
      (SELECT coalesce(json_agg(json_build_object(
          'target', confrelid::regclass::text,
          'columns', (SELECT json_agg(attname ORDER BY place) FROM unnest(conkey) WITH ORDINALITY AS key (number, place)
            JOIN pg_attribute ON attrelid = conrelid AND attnum = number),
          'targetColumns', (SELECT json_agg(attname ORDER BY place) FROM unnest(confkey) WITH ORDINALITY AS key (number, place)
            JOIN pg_attribute ON attrelid = confrelid AND attnum = number)
        ) ORDER BY conname), '[]')
        FROM pg_constraint WHERE conrelid = tables.oid AND contype = 'f') AS "foreignKeys"
    FROM pg_class AS tables
    WHERE tables.relnamespace = 'public'::regnamespace AND tables.relkind IN ('r', 'p') AND tables.relname <> 'schema_migrations'
    ORDER BY tables.relname`);
  for (const table of rows) {
    table.userColumn =
      table.name === 'users' ? 'id' : (table.columns.find((column) => column.name === 'user_id')?.name ?? null);
  }
  return inOrderOfNeed(rows);
}

/**
 * Puts two rows of one new user into every table, past every policy: text columns carry the marker, and references lead
 * to rows of the same user. @returns the user's id
 */
export async function fillTables(client: Client, marker: string): Promise<string> {
  const stored = new Map<string, Row[]>();
  for (const table of await readTableShapes(client)) {
    const rows: Row[] = [];
    for (let number = 0; number < (table.name === 'users' ? 1 : rowsPerTable); number += 1) {
      const values = rowValues(table, stored, number, marker);
      rows.push(...(await insertRow(client, table.name, values)));
    }
    if (rows.length === 0 && table.userColumn !== null) {
      // A trigger had already made the one row that there can be.
      const userId = stored.get('users')?.[0]?.['id'];
      const found = await client.query(`SELECT * FROM ${table.name} WHERE ${table.userColumn} = $1`, [userId]);
      rows.push(...found.rows);
    }
    stored.set(table.name, rows);
  }
  return String(stored.get('users')?.[0]?.['id']);
}

/** Every row of these users in every table, as text, in a steady order: equal before and after means nothing changed. */
export async function dumpRows(client: Client, tables: TableShape[], userIds: string[]): Promise<string[]> {
  const parts = tables
    .filter((table) => table.userColumn !== null)
    .map(
      ({ name, userColumn }) =>
        `SELECT '${name} ' || to_jsonb(t)::text AS line FROM ${name} AS t WHERE ${userColumn} = ANY ($1::uuid[])`,
    );
  const { rows } = await client.query<{ line: string }>(`${parts.join(' UNION ALL ')} ORDER BY line`, [userIds]);
  return rows.map((row) => row.line);
}

function inOrderOfNeed(tables: TableShape[]): TableShape[] {
  const ordered: TableShape[] = [];
  let left = tables;
  while (left.length > 0) {
    const placed = new Set(ordered.map((table) => table.name));
    const ready = left.filter((table) => needs(table).every((target) => placed.has(target)));
    if (ready.length === 0) {
      throw new Error(`tables that need each other: ${left.map((table) => table.name).join(', ')}`);
    }
    ordered.push(...ready);
    left = left.filter((table) => !ready.includes(table));
  }
  return ordered;
}

/** Targets of foreign keys that can't be left null; the user's own column stands in every one and decides nothing. */
function needs(table: TableShape): string[] {
  const required = new Set(table.columns.filter((column) => column.required).map((column) => column.name));
  return table.foreignKeys
    .filter((key) => key.target !== table.name && key.columns.every((column) => required.has(column)))
    .map((key) => key.target);
}

function rowValues(table: TableShape, stored: Map<string, Row[]>, number: number, marker: string): Row {
  const values: Row = {};
  const seen = new Map<string, number>();
  for (const key of table.foreignKeys) {
    const targets = stored.get(key.target) ?? [];
    // Two references to one table lead to different rows, as a rule like "no task depends on itself" wants.
    const turn = seen.get(key.target) ?? 0;
    seen.set(key.target, turn + 1);
    const target = targets[(number + turn) % Math.max(targets.length, 1)];
    if (target !== undefined) {
      key.columns.forEach((column, place) => {
        values[column] = target[key.targetColumns[place] ?? ''];
      });
    }
  }
  for (const column of table.columns) {
    if (column.required && !(column.name in values)) {
      values[column.name] = column.firstValue ?? madeUpValue(column.type, `${marker} ${column.name} ${number}`, number);
    }
  }
  return values;
}

function madeUpValue(type: string, text: string, number: number): unknown {
  if (type.startsWith('timestamp')) {
    return new Date(Date.now() + 86_400_000);
  }
  switch (type) {
    case 'date':
      return `2026-01-0${number + 1}`;
    case 'text':
      return text;
    case 'uuid':
      return uuidv7();
    case 'integer':
    case 'bigint':
    case 'double precision':
      return number + 1;
    case 'boolean':
      return false;
    case 'jsonb':
      return JSON.stringify({ text });
    case 'bytea':
      return Buffer.from(text);
    default:
      throw new Error(`no made-up value for a column of type ${type}`);
  }
}

async function insertRow(client: Client, table: string, values: Row): Promise<Row[]> {
  const names = Object.keys(values);
  const { rows } = await client.query(
    `INSERT INTO ${table} (${names.join(', ')}) VALUES (${names.map((_name, place) => `$${place + 1}`).join(', ')})
      ON CONFLICT DO NOTHING RETURNING *`,
    Object.values(values),
  );
  return rows;
}
