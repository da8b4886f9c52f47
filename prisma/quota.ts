import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type pg from 'pg';
import { asOwner } from './owner.ts';

/** Columns of `quotas`, each named as its option of the command line. */
const columns = {
  agents: 'agents',
  sessions: 'sessions',
  'stored-bytes': 'stored_bytes',
  'concurrent-tasks': 'concurrent_tasks',
  'tokens-per-day': 'tokens_per_day',
} as const;
type Option = keyof typeof columns;
const options = Object.keys(columns) as Option[];

const usage = `npm run quota -- show|set|clear --issuer URL --subject NAME [--agents N] [--sessions N]
                 [--stored-bytes N] [--concurrent-tasks N] [--tokens-per-day N]

  show               tells the limits of a user's own
  set                sets those that are given; \`default\` instead of a number takes one back
  clear              takes all of them back: what the service is configured with holds again
  --issuer URL       issuer of the user's tokens (\`iss\`)
  --subject NAME     the user's name with that issuer (\`sub\`)

OWNER_DATABASE_URL names the database, by a superuser or a role with BYPASSRLS. Changes hold from the next request on.
`;

/** The command line can't be followed; its message names the argument and what to give. */
export class UsageError extends Error {}

interface Command {
  verb: 'show' | 'set' | 'clear';
  issuer: string;
  subject: string;
  /** Limits to set; null takes one back. */
  limits: Partial<Record<Option, number | null>>;
}

/** Limits of a user's own, null where the default holds. */
type Row = Record<(typeof columns)[Option], number | null>;

const selected = options.map((option) => `${columns[option]}::float8`).join(', ');

/**
 * Shows or changes the quotas of one user.
 * @returns what to print: the limits, nothing of the user
 * @throws UsageError and Error
 */
export async function runQuotaCommand(words: readonly string[], ownerUrl: string | undefined): Promise<string> {
  const command = parseCommand(words);
  if (ownerUrl === undefined || ownerUrl === '') {
    throw new UsageError('OWNER_DATABASE_URL is not set: give it the URL of the database, with a role that owns it.');
  }
  return asOwner(ownerUrl, async (client) => {
    await client.query(`SET statement_timeout = '15s'`);
    const { rows } = await client.query<{ id: string }>('SELECT id FROM users WHERE issuer = $1 AND subject = $2', [
      command.issuer,
      command.subject,
    ]);
    const [user] = rows;
    if (user === undefined) {
      throw new Error(
        'No user has this --issuer and --subject. Give both exactly as in the `iss` and `sub` of the tokens; a user is known from the first request on.',
      );
    }
    return describe(await follow(client, user.id, command));
  });
}

async function follow(client: pg.Client, userId: string, { verb, limits }: Command): Promise<Row | null> {
  if (verb === 'show') {
    return (await client.query<Row>(`SELECT ${selected} FROM quotas WHERE user_id = $1`, [userId])).rows[0] ?? null;
  }
  if (verb === 'clear') {
    await client.query('DELETE FROM quotas WHERE user_id = $1', [userId]);
    return null;
  }
  const given = options.filter((option) => limits[option] !== undefined);
  const names = given.map((option) => columns[option]);
  const { rows } = await client.query<Row>(
    `INSERT INTO quotas (user_id, ${names.join(', ')})
     VALUES ($1, ${names.map((_, place) => `$${place + 2}`).join(', ')})
     ON CONFLICT (user_id) DO UPDATE SET updated_at = now(), ${names.map((name) => `${name} = excluded.${name}`).join(', ')}
     RETURNING ${selected}`,
    [userId, ...given.map((option) => limits[option])],
  );
  return rows[0] ?? null;
}

function describe(row: Row | null): string {
  const lines = options.map((option) => `${option.padEnd(18)}${row?.[columns[option]] ?? 'default'}`);
  return `${lines.join('\n')}\n`;
}

function parseCommand(words: readonly string[]): Command {
  const { values, positionals } = parse(words);
  const [verb, ...more] = positionals;
  if (verb !== 'show' && verb !== 'set' && verb !== 'clear') {
    throw new UsageError('Say what to do first: `show`, `set` or `clear`.');
  }
  if (more.length > 0) {
    throw new UsageError(`One word is enough after \`quota\`: leave out what follows \`${verb}\` without an option.`);
  }
  const { issuer = '', subject = '' } = values;
  if (issuer === '') {
    throw new UsageError("--issuer is missing: give the `iss` of the user's tokens.");
  }
  if (subject === '') {
    throw new UsageError("--subject is missing: give the `sub` of the user's tokens.");
  }
  const given = options.filter((option) => values[option] !== undefined);
  if (verb === 'set' && given.length === 0) {
    throw new UsageError(`\`set\` needs at least one limit: ${options.map((option) => `--${option} N`).join(', ')}.`);
  }
  if (verb !== 'set' && given.length > 0) {
    throw new UsageError(`--${given[0]} belongs to \`set\`: leave it out of \`${verb}\`.`);
  }
  const limits = Object.fromEntries(given.map((option) => [option, parseLimit(option, values[option] ?? '')]));
  return { verb, issuer, subject, limits };
}

function parse(words: readonly string[]) {
  try {
    return parseArgs({
      args: [...words],
      allowPositionals: true,
      options: {
        issuer: { type: 'string' },
        subject: { type: 'string' },
        agents: { type: 'string' },
        sessions: { type: 'string' },
        'stored-bytes': { type: 'string' },
        'concurrent-tasks': { type: 'string' },
        'tokens-per-day': { type: 'string' },
      },
    });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function parseLimit(option: Option, text: string): number | null {
  if (text === 'default') {
    return null;
  }
  const limit = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(limit)) {
    throw new UsageError(
      `--${option} must be a whole number from 0 to ${Number.MAX_SAFE_INTEGER}, or \`default\` to take it back.`,
    );
  }
  return limit;
}

/** Command line: see `usage`. Ends with 2 when it can't be followed, with 1 when following it failed. */
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    process.stdout.write(await runQuotaCommand(process.argv.slice(2), process.env['OWNER_DATABASE_URL']));
  } catch (error) {
    const isUsage = error instanceof UsageError;
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${isUsage ? `\n${usage}` : ''}`);
    process.exitCode = isUsage ? 2 : 1;
  }
}
