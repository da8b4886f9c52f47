import { expect } from 'vitest';
import { errorCodes } from '../../src/errors.ts';
import type { TestDatabase, TestService } from '../service.ts';

/** What a refused request got. */
export interface Refusal {
  status: number;
  headers: Headers;
  text: string;
  errors: { message: string; extensions: Record<string, unknown> }[];
}

/** Sends a body as it is, signed in, and takes the media type whose statuses tell most. */
export async function post(
  service: TestService,
  token: string,
  body: string,
  headers: Record<string, string> = {},
): Promise<Refusal> {
  return readRefusal(
    await fetch(service.api.url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'application/graphql-response+json',
        authorization: `Bearer ${token}`,
        ...headers,
      },
      body,
    }),
  );
}

/** Reads an answer whose errors must be of the documented shape: nothing of our insides may show in them. */
export async function readRefusal(response: Response): Promise<Refusal> {
  const text = await response.text();
  const { errors = [] } = JSON.parse(text) as Partial<Pick<Refusal, 'errors'>>;
  for (const error of errors) {
    expect(['message', 'locations', 'path', 'extensions']).toEqual(expect.arrayContaining(Object.keys(error)));
    expect(['code', 'field', 'retryAfter', 'quota', 'limit', 'traceId']).toEqual(
      expect.arrayContaining(Object.keys(error.extensions)),
    );
    expect(Object.keys(errorCodes)).toContain(error.extensions['code']);
  }
  expect(text).not.toMatch(/node_modules|\.ts:|at async|SELECT |INSERT /);
  return { status: response.status, headers: response.headers, text, errors };
}

/** How many rows each table holds: equal before and after when nothing was stored. */
export async function countAllRows(database: TestDatabase): Promise<Record<string, unknown>> {
  const tables = await database.owner(
    `SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1`,
  );
  const counts = tables.map(({ name }) => `(SELECT count(*)::int FROM "${String(name)}") AS "${String(name)}"`);
  const [row] = await database.owner(`SELECT ${counts.join(', ')}`);
  return row ?? {};
}
