import pg from 'pg';
import { inject } from 'vitest';
import { newDatabaseName } from '../service.ts';

export interface EmptyDatabase {
  url: string;
  client: pg.Client;
  drop(): Promise<void>;
}

/** A database that no migration has touched. Its owner is the superuser, or the role of that name and password. */
export async function createEmptyDatabase(owner?: { role: string; password: string }): Promise<EmptyDatabase> {
  const name = newDatabaseName();
  const server = new URL(inject('templateUrl'));
  server.pathname = '/postgres';
  const admin = new pg.Client({ connectionString: server.href });
  await admin.connect();
  await admin.query(`CREATE DATABASE ${name} TEMPLATE template0 ${owner === undefined ? '' : `OWNER ${owner.role}`}`);
  const url = new URL(server);
  url.pathname = `/${name}`;
  if (owner !== undefined) {
    url.username = owner.role;
    url.password = owner.password;
  }
  const client = new pg.Client({ connectionString: url.href });
  await client.connect();
  return {
    url: url.href,
    client,
    drop: async () => {
      await client.end();
      await admin.query(`DROP DATABASE ${name} WITH (FORCE)`);
      await admin.end();
    },
  };
}
