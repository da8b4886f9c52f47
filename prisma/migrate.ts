import { fileURLToPath } from 'node:url';
import { runner } from 'node-pg-migrate';
import pg from 'pg';

export interface MigrateOptions {
  /** A role that may create roles and owns the tables. */
  ownerUrl: string;
  direction: 'up' | 'down';
  /** How many migrations; all when left out. */
  count?: number;
  log?: (line: string) => void;
}

/**
 * Applies or takes back migrations, each in a transaction, one process at a time.
 * @returns the names that ran
 * @throws Error when another process holds a lock for longer than a minute
 */
export async function migrate(options: MigrateOptions): Promise<string[]> {
  const client = new pg.Client({
    connectionString: options.ownerUrl,
    connectionTimeoutMillis: 10_000,
    lock_timeout: 60_000,
  });
  await client.connect();
  try {
    const ran = await runner({
      dbClient: client,
      dir: fileURLToPath(new URL('migrations', import.meta.url)),
      migrationsTable: 'schema_migrations',
      direction: options.direction,
      singleTransaction: false,
      checkOrder: true,
      // Several processes may migrate as they start: the later ones wait and then find nothing to do.
      advisoryLockMode: 'wait',
      ...(options.count === undefined ? { count: Number.POSITIVE_INFINITY } : { count: options.count }),
      log: options.log ?? (() => undefined),
    });
    return ran.map((migration) => migration.name);
  } finally {
    await client.end();
  }
}

/** Lets a role of the service sign in with the password of its URL. Run it after `up`, as the owner. */
export async function allowLogin(ownerUrl: string, roleUrl: string): Promise<void> {
  const { username, password } = new URL(roleUrl);
  const client = new pg.Client({ connectionString: ownerUrl, connectionTimeoutMillis: 10_000 });
  await client.connect();
  try {
    const role = client.escapeIdentifier(decodeURIComponent(username));
    // ALTER ROLE takes no parameters.
    await client.query(`ALTER ROLE ${role} LOGIN PASSWORD ${client.escapeLiteral(decodeURIComponent(password))}`);
  } finally {
    await client.end();
  }
}

/** Command line: `migrate.ts up|down [count]`, with OWNER_DATABASE_URL and the URLs of the two roles. */
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [direction = 'up', count] = process.argv.slice(2);
  const { OWNER_DATABASE_URL: ownerUrl, DATABASE_URL, WORKER_DATABASE_URL } = process.env;
  if (ownerUrl === undefined || (direction !== 'up' && direction !== 'down')) {
    throw new Error('usage: OWNER_DATABASE_URL=… npm run migrate -- up|down [count]');
  }
  const log = (line: string): void => void process.stdout.write(`${line}\n`);
  await migrate({
    ownerUrl,
    direction,
    ...(count === undefined ? (direction === 'down' ? { count: 1 } : {}) : { count: Number(count) }),
    log,
  });
  if (direction === 'up') {
    for (const url of [DATABASE_URL, WORKER_DATABASE_URL]) {
      if (url !== undefined) {
        await allowLogin(ownerUrl, url);
      }
    }
  }
}
