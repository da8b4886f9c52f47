import { encodeId } from '../../src/schema/builder.ts';
import type { SeededUser } from './seed.ts';

/** What the hand-written server takes instead of a GraphQL document. */
export type FloorRequest = { first: number } | { sessionId: string; title: string };

/** How a contender wants to be asked. */
export type Dialect = 'retinue' | 'postgraphile' | 'floor';

export interface Request {
  readonly token: string;
  readonly body: string;
}

const message = 'edges { node { id position role content createdAt } }';
const sessionsQuery: Record<'retinue' | 'postgraphile', string> = {
  retinue: `query Sessions($first: Int) {
    sessions(first: $first) { edges { node { id title lastAccessedAt messages(last: 10) { ${message} } } } }
  }`,
  postgraphile: `query Sessions($first: Int) {
    sessions: allSessions(first: $first, orderBy: [LAST_ACCESSED_AT_DESC, ROW_ID_DESC]) {
      edges { node { id title lastAccessedAt
        messages: messagesByUserIdAndSessionId(last: 10, orderBy: POSITION_ASC) { ${message} }
      } }
    }
  }`,
};
const renameMutation: Record<'retinue' | 'postgraphile', string> = {
  retinue: `mutation Rename($id: ID!, $title: String!) {
    updateSession(id: $id, input: { title: $title }) { session { id title } }
  }`,
  postgraphile: `mutation Rename($userId: UUID!, $id: UUID!, $title: String!) {
    updateSession: updateSessionByUserIdAndRowId(
      input: { userId: $userId, rowId: $id, sessionPatch: { title: $title } }
    ) { session { id title } }
  }`,
};

/** The user's newest sessions, with the newest ten messages of each. */
export function readSessions(dialect: Dialect, user: SeededUser, first: number): Request {
  const body =
    dialect === 'floor' ? ({ first } satisfies FloorRequest) : { query: sessionsQuery[dialect], variables: { first } };
  return { token: user.token, body: JSON.stringify(body) };
}

/** Gives one of the user's sessions a title and reads it back. */
export function renameSession(dialect: Dialect, user: SeededUser, place: number, title: string): Request {
  const id = user.sessionIds[place % user.sessionIds.length] ?? '';
  const bodies: Record<Dialect, () => object> = {
    floor: () => ({ sessionId: id, title }) satisfies FloorRequest,
    retinue: () => ({ query: renameMutation.retinue, variables: { id: encodeId('Session', id), title } }),
    postgraphile: () => ({ query: renameMutation.postgraphile, variables: { userId: user.id, id, title } }),
  };
  return { token: user.token, body: JSON.stringify(bodies[dialect]()) };
}

/** Answers of all contenders mean the same when their texts are equal after this: ids and ways to write a time differ. */
export function normalise(answer: unknown): string {
  return JSON.stringify(answer, (key, value: unknown) => {
    if (key === 'id') {
      return 'an id';
    }
    return typeof value === 'string' && key.endsWith('At') ? new Date(value).getTime() : value;
  });
}
