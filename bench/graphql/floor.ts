import { createServer, type IncomingMessage } from 'node:http';
import pg from 'pg';
import { listen } from '../../dev/listen.ts';
import { runChild } from '../child.ts';
import { createSameAuthentication, poolSize, type ServerReady, type ServerSettings } from './settings.ts';
import type { FloorRequest } from './workload.ts';

const readSessions = {
  name: 'read sessions',
  text: `
    SELECT json_build_object('data', json_build_object('sessions', json_build_object('edges', coalesce(json_agg(
      json_build_object('node', json_build_object(
        'id', session.id, 'title', session.title, 'lastAccessedAt', session.last_accessed_at,
        'messages', json_build_object('edges', message.edges)))
      ORDER BY session.last_accessed_at DESC, session.id DESC), '[]'))))::text AS body
    FROM (
      SELECT id, title, last_accessed_at FROM sessions WHERE user_id = $1
      ORDER BY last_accessed_at DESC, id DESC LIMIT $2
    ) AS session
    CROSS JOIN LATERAL (
      SELECT coalesce(json_agg(
        json_build_object('node', json_build_object(
          'id', recent.id, 'position', recent.position, 'role', recent.role, 'content', recent.content,
          'createdAt', recent.created_at))
        ORDER BY recent.position), '[]') AS edges
      FROM (
        SELECT id, position, role, content, created_at FROM messages
        WHERE user_id = $1 AND session_id = session.id ORDER BY position DESC LIMIT 10
      ) AS recent
    ) AS message`,
};
const renameSession = {
  name: 'rename session',
  text: `
    UPDATE sessions SET title = $3 WHERE user_id = $1 AND id = $2
    RETURNING json_build_object('data', json_build_object('updateSession', json_build_object('session',
      json_build_object('id', id, 'title', title))))::text AS body`,
};

// The least that a server of this data can do: one statement written by hand, whose result is the answer's text, in a
// transaction that says whose it is. No GraphQL, no checks of the input.
runChild<ServerSettings, ServerReady>(async (settings) => {
  const pool = new pg.Pool({ connectionString: settings.databaseUrl, max: poolSize, pipeline: true });
  const authenticate = createSameAuthentication(settings, pool);

  const answer = async (request: IncomingMessage): Promise<string> => {
    const { userId } = await authenticate(request.headers.authorization ?? null);
    const chunks: Buffer[] = [];
    for await (const chunk of request) {
      chunks.push(chunk as Buffer);
    }
    const asked = JSON.parse(Buffer.concat(chunks).toString('utf8')) as FloorRequest;
    const query =
      'first' in asked
        ? { ...readSessions, values: [userId, asked.first] }
        : { ...renameSession, values: [userId, asked.sessionId, asked.title] };
    const client = await pool.connect();
    try {
      // All three travel together, which only a server can do that knows the whole transaction beforehand.
      const begin = 'first' in asked ? 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY' : 'BEGIN';
      const [, { rows }] = await Promise.all([
        client.query(`${begin}; SELECT set_config('app.user_id', '${userId}', true)`),
        client.query<{ body: string }>(query),
        client.query('COMMIT'),
      ]);
      return rows[0]?.body ?? '{"errors":[]}';
    } finally {
      client.release();
    }
  };

  const server = createServer((request, response) => {
    answer(request).then(
      (body) => response.writeHead(200, { 'content-type': 'application/json' }).end(body),
      (error: unknown) => response.writeHead(500).end(String(error)),
    );
  });
  const { origin } = await listen(server);
  return {
    ready: { url: `${origin}/` },
    commands: {},
    stop: async () => {
      server.close();
      server.closeAllConnections();
      await pool.end();
    },
  };
});
