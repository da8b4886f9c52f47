import { type DevelopmentKey, developmentIssuer, signDevelopmentToken } from '../../dev/identity.ts';
import type { BenchDatabase } from '../database.ts';

/** How much there is; the newest ten messages of each session are read. */
export const size = { users: 1_000, sessionsPerUser: 20, messagesPerSession: 12 } as const;

/** A user of the benchmark, with a token that is good for the whole run. */
export interface SeededUser {
  readonly id: string;
  readonly token: string;
  readonly sessionIds: readonly string[];
}

/** Fills the database past the API, which would take minutes, and lets Postgres look at what is there. */
export async function seed(database: BenchDatabase, key: DevelopmentKey): Promise<SeededUser[]> {
  await database.owner(
    `INSERT INTO users (issuer, subject) SELECT $1, 'user-' || n FROM generate_series(1, $2::int) AS n`,
    [developmentIssuer, size.users],
  );
  // Users with an orchestrator aren't new: the first request of each doesn't have to make a starter team.
  await database.owner(
    `INSERT INTO orchestrators (user_id, name, instructions) SELECT id, 'Orchestrator', 'Plan.' FROM users`,
  );
  await database.owner(
    `INSERT INTO sessions (user_id, title, message_count, request_count, last_accessed_at, expires_at)
     SELECT users.id, 'Session ' || n, $2, $2 / 2, now() - n * interval '1 minute', now() + interval '30 days'
     FROM users, generate_series(1, $1::int) AS n`,
    [size.sessionsPerUser, size.messagesPerSession],
  );
  await database.owner(
    `INSERT INTO messages (user_id, session_id, position, role, content)
     SELECT user_id, id, n, (CASE n % 2 WHEN 1 THEN 'USER' ELSE 'AGENT' END)::message_role,
       repeat('What was agreed on in the meeting of Tuesday? ', 1 + n % 6)
     FROM sessions, generate_series(1, $1::int) AS n`,
    [size.messagesPerSession],
  );
  await database.owner('VACUUM (ANALYZE)');
  const rows = await database.owner<{ id: string; subject: string; sessionIds: string[] }>(
    `SELECT users.id, users.subject, array_agg(sessions.id::text) AS "sessionIds"
     FROM users JOIN sessions ON sessions.user_id = users.id GROUP BY users.id`,
  );
  return Promise.all(
    rows.map(async ({ id, subject, sessionIds }) => ({
      id,
      token: await signDevelopmentToken(key, subject),
      sessionIds,
    })),
  );
}
