import { type Statement, statement } from '../adapters/postgres.ts';
import { badInput, DomainError } from '../errors.ts';
import type { BatchLoad, ReadOperation } from '../operation.ts';
import type { Table } from './table.ts';

/** Arguments of a Relay connection (https://relay.dev/graphql/connections.htm). */
export interface PageArguments {
  first?: number | null | undefined;
  after?: string | null | undefined;
  last?: number | null | undefined;
  before?: string | null | undefined;
}

/** A row with its place in the list. */
export interface Edge<Row> {
  readonly cursor: string;
  readonly node: Row;
}

export interface Page<Row> {
  edges: Edge<Row>[];
  pageInfo: { hasNextPage: boolean; hasPreviousPage: boolean; startCursor: string | null; endCursor: string | null };
}

/** A list that can be paged: its order ends in a column that makes each row's place unique. */
export interface List<Row> {
  table: Table<Row>;
  /** Columns that order the list, all in the same direction, with the casts of their cursor values. */
  order: readonly { field: keyof Row & string; column: string; type: 'uuid' | 'integer' | 'bigint' | 'timestamptz' }[];
  direction: 'ascending' | 'descending';
}

/** A condition on the listed rows: SQL with `?` for each value. */
export interface Condition {
  sql: string;
  values: unknown[];
}

/** The condition of a filter's field, with one `?` for its value; none when the field was left out. */
export function whereGiven(sql: string, value: unknown): Condition[] {
  return value === null || value === undefined ? [] : [{ sql, values: [value] }];
}

interface Window {
  limit: number;
  /** Reads from the end of the list. */
  backward: boolean;
  after: unknown[] | null;
  before: unknown[] | null;
}

export const defaultPageSize = 20;
export const maximumPageSize = 100;

/** One page of the caller's rows. @throws DomainError BAD_USER_INPUT, BAD_CURSOR */
export async function loadPage<Row extends object>(
  operation: ReadOperation,
  list: List<Row>,
  page: PageArguments,
  conditions: readonly Condition[] = [],
): Promise<Page<Row>> {
  const window = readWindow(list, page);
  const values: unknown[] = [operation.userId];
  const rows = await operation.query(select(list, window, conditions, values), values);
  return toPage(list, window, rows);
}

/** Key of one parent's page. Pages of equal arguments are loaded for all parents in one statement. */
export interface ChildPageKey {
  parentId: string;
  page: PageArguments;
}

/**
 * Loads pages of child rows for many parents: one lateral statement for each set of page arguments in use.
 * @param parent the column that names a row's parent, or SQL that says whether a row belongs to `parent.id`
 */
export function childPages<Row extends object>(
  list: List<Row>,
  parent: string | { condition: string },
): BatchLoad<ChildPageKey, Page<Row> | Error> {
  const condition = typeof parent === 'string' ? `${parent} = parent.id` : parent.condition;
  return async (operation, keys) => {
    const groups = Map.groupBy(keys, (key) => JSON.stringify(normalised(key.page)));
    const pages = new Map<string, Page<Row> | Error>();
    await Promise.all(
      [...groups.values()].map(async (group) => {
        for (const [parentId, page] of await loadChildPages(operation, list, condition, group)) {
          pages.set(childPageCacheKey({ parentId, page: group[0]?.page ?? {} }), page);
        }
      }),
    );
    return keys.map((key) => pages.get(childPageCacheKey(key)) ?? new Error('a page was not loaded'));
  };
}

/** One parent's page, gathered with those of its siblings. @throws DomainError BAD_USER_INPUT, BAD_CURSOR */
export async function loadChildPage<Row extends object>(
  operation: ReadOperation,
  pages: BatchLoad<ChildPageKey, Page<Row> | Error>,
  parentId: string,
  page: PageArguments,
): Promise<Page<Row>> {
  const result = await operation.load(pages, { parentId, page }, childPageCacheKey);
  if (result instanceof Error) {
    throw result;
  }
  return result;
}

/** Two keys with this same text mean the same page. */
function childPageCacheKey(key: ChildPageKey): string {
  return `${key.parentId} ${JSON.stringify(normalised(key.page))}`;
}

async function loadChildPages<Row extends object>(
  operation: ReadOperation,
  list: List<Row>,
  condition: string,
  group: readonly ChildPageKey[],
): Promise<Map<string, Page<Row> | Error>> {
  const parentIds = group.map((key) => key.parentId);
  let window: Window;
  try {
    window = readWindow(list, group[0]?.page ?? {});
  } catch (error) {
    // Bad arguments fail this field alone, not every page of the batch.
    const fault = error instanceof Error ? error : new Error(String(error));
    return new Map(parentIds.map((id) => [id, fault]));
  }
  const values: unknown[] = [operation.userId, parentIds];
  const child = select(list, window, [{ sql: condition, values: [] }], values);
  const rows = await operation.query(
    statement<{ parentId: string } & Record<string, unknown>>(
      `SELECT parent.id AS "parentId", child.* FROM unnest($2::uuid[]) AS parent (id) CROSS JOIN LATERAL (${child.text}) AS child`,
    ),
    values,
  );
  const byParent = Map.groupBy(rows, (row) => row.parentId);
  return new Map(parentIds.map((id) => [id, toPage(list, window, (byParent.get(id) ?? []) as unknown as Row[])]));
}

function normalised(page: PageArguments): unknown[] {
  return [page.first ?? null, page.after ?? null, page.last ?? null, page.before ?? null];
}

function readWindow<Row>(list: List<Row>, page: PageArguments): Window {
  const { first, last } = page;
  if (typeof first === 'number' && typeof last === 'number') {
    throw badInput('last', 'Give either `first` or `last`, not both.');
  }
  for (const [field, size] of [
    ['first', first],
    ['last', last],
  ] as const) {
    if (typeof size === 'number' && (size < 0 || size > maximumPageSize)) {
      throw badInput(field, `\`${field}\` must be from 0 to ${maximumPageSize}.`);
    }
  }
  return {
    limit: first ?? last ?? defaultPageSize,
    backward: typeof last === 'number',
    after: readCursor(list, page.after, 'after'),
    before: readCursor(list, page.before, 'before'),
  };
}

function select<Row extends object>(
  list: List<Row>,
  window: Window,
  conditions: readonly Condition[],
  values: unknown[],
): Statement<Row & Record<string, unknown>> {
  const where = ['user_id = $1'];
  for (const condition of conditions) {
    let place = 0;
    where.push(
      condition.sql.replaceAll('?', () => {
        values.push(condition.values[place]);
        place += 1;
        return `$${values.length}`;
      }),
    );
  }
  const columns = list.order.map((part) => part.column).join(', ');
  const ascending = list.direction === 'ascending';
  const bound = (cursor: unknown[], comparison: '<' | '>'): void => {
    const places = cursor.map((value, index) => {
      values.push(value);
      return `$${values.length}::${list.order[index]?.type}`;
    });
    where.push(`(${columns}) ${comparison} (${places.join(', ')})`);
  };
  if (window.after !== null) {
    bound(window.after, ascending ? '>' : '<');
  }
  if (window.before !== null) {
    bound(window.before, ascending ? '<' : '>');
  }
  const direction = ascending === window.backward ? 'DESC' : 'ASC';
  const order = list.order.map((part) => `${part.column} ${direction}`).join(', ');
  // One row more than asked for tells whether the list goes on.
  values.push(window.limit + 1);
  return statement(
    `SELECT ${list.table.columns} FROM ${list.table.name} WHERE ${where.join(' AND ')} ORDER BY ${order} LIMIT $${values.length}::int`,
  );
}

function toPage<Row extends object>(list: List<Row>, window: Window, found: readonly Row[]): Page<Row> {
  const more = found.length > window.limit;
  const rows = found.slice(0, window.limit);
  if (window.backward) {
    rows.reverse();
  }
  const edges = rows.map((node) => new ListEdge(list, node));
  return {
    edges,
    pageInfo: {
      hasNextPage: window.backward ? window.before !== null : more,
      hasPreviousPage: window.backward ? more : window.after !== null,
      startCursor: edges[0]?.cursor ?? null,
      endCursor: edges.at(-1)?.cursor ?? null,
    },
  };
}

/** Writes its cursor when it is read: most requests ask for none of the hundreds that a page can hold. */
class ListEdge<Row extends object> implements Edge<Row> {
  readonly node: Row;
  private readonly list: List<Row>;

  constructor(list: List<Row>, node: Row) {
    this.list = list;
    this.node = node;
  }

  get cursor(): string {
    return writeCursor(this.list, this.node);
  }
}

function writeCursor<Row>(list: List<Row>, row: Row): string {
  const values = list.order.map(({ field }) => {
    const value: unknown = row[field];
    return typeof value === 'bigint' ? value.toString() : value;
  });
  return Buffer.from(JSON.stringify([list.table.name, ...values])).toString('base64url');
}

const cursorValues: Record<List<unknown>['order'][number]['type'], (value: unknown) => boolean> = {
  uuid: (value) => typeof value === 'string' && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value),
  integer: (value) => Number.isInteger(value) && Math.abs(value as number) < 2 ** 31,
  bigint: (value) => typeof value === 'string' && /^\d{1,18}$/.test(value),
  // Only what `Date` writes itself passes, of years that both count alike: Postgres knows no 31st of a short month either.
  timestamptz: (value) => typeof value === 'string' && isExactTime(value),
};

function isExactTime(value: string): boolean {
  const time = Date.parse(value);
  return !Number.isNaN(time) && new Date(time).toISOString() === value && /^(?!0000)\d{4}-/.test(value);
}

function readCursor<Row>(list: List<Row>, cursor: string | null | undefined, field: string): unknown[] | null {
  if (cursor === null || cursor === undefined) {
    return null;
  }
  const [name, ...values] = parseCursor(cursor);
  const fits =
    name === list.table.name &&
    values.length === list.order.length &&
    list.order.every((part, place) => cursorValues[part.type](values[place]));
  if (!fits) {
    throw new DomainError('BAD_CURSOR', `\`${field}\` is not a cursor of this list.`, { field });
  }
  return values;
}

function parseCursor(cursor: string): unknown[] {
  try {
    const parsed: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    return Array.isArray(parsed) ? parsed : [];
  } catch {
    return [];
  }
}
