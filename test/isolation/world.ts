import type { GraphQLAnswer } from '../service.ts';

/** Sends one GraphQL request as one user: over HTTP or within this process. */
export type Ask = (
  query: string,
  variables?: Record<string, unknown>,
  headers?: Record<string, string>,
) => Promise<Pick<GraphQLAnswer, 'status' | 'data' | 'errors'>>;

/** What a user owns in a test: one thing of every noun, and a place in every list. */
export interface World {
  userId: string;
  /** Stands in every text of the user. */
  marker: string;
  ids: Record<string, string>;
  cursors: Record<string, string>;
}

/** Makes a team, sessions, messages and tasks for a user through the API. */
export async function createWorld(ask: Ask, marker: string): Promise<World> {
  const expectData: Ask = async (...request) => {
    const answer = await ask(...request);
    if (answer.errors.length > 0) {
      throw new Error(`the world of ${marker} could not be made: ${JSON.stringify(answer.errors)}`);
    }
    return answer;
  };
  const made = await expectData(
    `mutation ($name: String!, $text: String!) {
      createAgent(input: { name: $name, description: $text, instructions: $text }) { agent { id } }
      first: createSession(input: { title: $text }) { session { id } }
      second: createSession(input: { title: $text }) { session { id } }
    }`,
    { name: marker, text: `secret of ${marker}` },
  );
  const agentId = made.data.createAgent.agent.id;
  const sessionId = made.data.second.session.id;
  await expectData(
    `mutation ($first: SendMessageInput!, $second: SendMessageInput!) {
      first: sendMessage(input: $first) { task { id } }
      second: sendMessage(input: $second) { task { id } }
    }`,
    {
      first: { sessionId, targetAgentId: agentId, content: `first secret of ${marker}` },
      second: { sessionId, targetAgentId: agentId, content: `second secret of ${marker}` },
    },
  );
  const { data } = await expectData(
    `query ($id: ID!) {
      viewer { id }
      agents(first: 1) { edges { cursor } }
      sessions(first: 1) { edges { cursor } }
      tasks(first: 1) { edges { cursor node { id } } }
      session(id: $id) {
        messages(first: 1) { edges { cursor node { id } } }
        tasks(first: 1) { edges { cursor } }
      }
    }`,
    { id: sessionId },
  );
  return {
    userId: rowId(data.viewer.id),
    marker,
    ids: {
      User: data.viewer.id,
      Agent: agentId,
      Session: sessionId,
      Message: data.session.messages.edges[0].node.id,
      Task: data.tasks.edges[0].node.id,
    },
    cursors: {
      'Query.agents': data.agents.edges[0].cursor,
      'Query.sessions': data.sessions.edges[0].cursor,
      'Query.tasks': data.tasks.edges[0].cursor,
      'Session.messages': data.session.messages.edges[0].cursor,
      'Session.tasks': data.session.tasks.edges[0].cursor,
    },
  };
}

/** The row's id within a client's id. */
export function rowId(globalId: string): string {
  return Buffer.from(globalId, 'base64url').toString('utf8').split(':')[1] ?? '';
}
