import pg from 'pg';

/**
 * Connects as an operator, for whom row-level security does not hold, and disconnects afterwards.
 * @throws Error when the role would not see all rows
 */
export async function asOwner<Result>(url: string, work: (client: pg.Client) => Promise<Result>): Promise<Result> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 });
  client.on('error', () => undefined);
  await client.connect();
  try {
    const { rows } = await client.query<{ all: boolean }>(
      'SELECT rolsuper OR rolbypassrls AS all FROM pg_roles WHERE rolname = current_user',
    );
    if (rows[0]?.all !== true) {
      throw new Error('This role is held to row-level security and would see no rows: use one with BYPASSRLS.');
    }
    return await work(client);
  } finally {
    // What was not committed is taken back by the server.
    await client.end();
  }
}
