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

/** Runs SQL past every policy, to arrange what only workers make. */
type Arrange = (sql: string, values?: unknown[]) => Promise<unknown>;

/** A tool, and two questions about it for the oldest task of a session. */
const addApprovals = `
  WITH tool AS (
    INSERT INTO tools (user_id, name, description, kind, arguments_schema, mcp_server_id)
    SELECT user_id, 'send mail of ' || $3, 'secret of ' || $3, 'MCP', '{}', $4 FROM agents WHERE id = $2
    RETURNING user_id, id, name
  ), task AS (
    SELECT id FROM tasks WHERE session_id = $1 ORDER BY id LIMIT 1
  )
  INSERT INTO approvals (user_id, kind, session_id, task_id, tool_id, tool_name, call_id, arguments, arguments_hash,
    arguments_schema, expires_at)
  SELECT tool.user_id, 'TOOL', $1, task.id, tool.id, tool.name, call.id, jsonb_build_object('to', 'secret of ' || $3), 'x',
    '{}', now() + interval '1 hour'
  FROM tool, task, unnest(ARRAY['one', 'two']) AS call (id)`;

/** Makes a team, sessions, messages and tasks for a user through the API, and what workers would ask the user. */
export async function createWorld(ask: Ask, marker: string, arrange: Arrange): Promise<World> {
  const expectData: Ask = async (...request) => {
    const answer = await ask(...request);
    if (answer.errors.length > 0) {
      throw new Error(`the world of ${marker} could not be made: ${JSON.stringify(answer.errors)}`);
    }
    return answer;
  };
  const made = await expectData(
    `mutation ($name: String!, $text: String!, $url: String!) {
      createAgent(input: { name: $name, description: $text, instructions: $text }) { agent { id } }
      createTool(input: { name: "world", description: $text, http: {
        url: "https://api.example.com/", headers: [{ name: "X-Note", value: $text }] },
        secrets: [{ name: "KEY", value: $text }] }) { tool { id } }
      createMcpServer(input: { name: "world", url: $url, headers: [{ name: "X-Key", value: $text }] }) { mcpServer { id } }
      first: createSession(input: { title: $text }) { session { id } }
      second: createSession(input: { title: $text }) { session { id } }
    }`,
    { name: marker, text: `secret of ${marker}`, url: `https://localhost:8443/${marker.replaceAll(' ', '-')}` },
  );
  const agentId = made.data.createAgent.agent.id;
  const toolId = made.data.createTool.tool.id;
  const mcpServerId = made.data.createMcpServer.mcpServer.id;
  const sessionId = made.data.second.session.id;
  await expectData(
    'mutation ($agentId: ID!, $toolId: ID!) { attachTool(agentId: $agentId, toolId: $toolId) { tool { id } } }',
    {
      agentId,
      toolId,
    },
  );
  await expectData(
    `mutation ($first: SendMessageInput!, $second: SendMessageInput!, $third: SendMessageInput!) {
      first: sendMessage(input: $first) { task { id } }
      second: sendMessage(input: $second) { task { id } }
      third: sendMessage(input: $third) { task { id } }
    }`,
    {
      first: { sessionId, targetAgentId: agentId, content: `first secret of ${marker}` },
      second: { sessionId, targetAgentId: agentId, content: `second secret of ${marker}` },
      third: { sessionId, content: `plan for the secret of ${marker}` },
    },
  );
  await expectData(`mutation ($input: IngestDocumentsInput!) { ingestDocuments(input: $input) { job { kind } } }`, {
    input: {
      agentId,
      source: `source of ${marker}`,
      documents: [
        { path: `${marker}/one.md`, content: `first memory of ${marker}` },
        { path: `${marker}/two.md`, content: `second memory of ${marker}` },
      ],
    },
  });
  await arrange(addApprovals, [rowId(sessionId), rowId(agentId), marker, rowId(mcpServerId)]);
  const asked = await expectData('query ($id: ID!) { approvals(sessionId: $id) { edges { node { id } } } }', {
    id: sessionId,
  });
  await expectData(
    'mutation ($id: ID!) { decideApproval(id: $id, decision: APPROVED, remember: true) { approval { id } } }',
    {
      id: asked.data.approvals.edges[1].node.id,
    },
  );
  const { data } = await expectData(
    `query ($id: ID!, $agentId: ID!) {
      viewer { id orchestrator { id } }
      tools(first: 1) { edges { cursor } }
      agent(id: $agentId) { tools(first: 1) { edges { cursor } } }
      mcpServers(first: 1) { edges { cursor node { tools(first: 1) { edges { cursor } } } } }
      agents(first: 1) { edges { cursor } }
      sessions(first: 1) { edges { cursor } }
      tasks(last: 1) { edges { cursor node { id approvals(first: 1) { edges { cursor } } } } }
      approvals(first: 1) { edges { cursor node { id } } }
      memoryDocuments(agentId: $agentId, first: 1) { edges { cursor node { id } } }
      session(id: $id) {
        messages(first: 1) { edges { cursor node { id } } }
        tasks(first: 1) { edges { cursor } }
        plans { edges { cursor node { id } } }
        approvals(first: 1) { edges { cursor } }
        approvalGrants { edges { cursor node { id } } }
      }
    }`,
    { id: sessionId, agentId },
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
      Orchestrator: data.viewer.orchestrator.id,
      Plan: data.session.plans.edges[0].node.id,
      Approval: data.approvals.edges[0].node.id,
      Tool: toolId,
      MemoryDocument: data.memoryDocuments.edges[0].node.id,
      McpServer: mcpServerId,
      ApprovalGrant: data.session.approvalGrants.edges[0].node.id,
    },
    cursors: {
      'Query.agents': data.agents.edges[0].cursor,
      'Query.sessions': data.sessions.edges[0].cursor,
      'Query.tasks': data.tasks.edges[0].cursor,
      'Query.memoryDocuments': data.memoryDocuments.edges[0].cursor,
      'Query.approvals': data.approvals.edges[0].cursor,
      'Query.tools': data.tools.edges[0].cursor,
      'Query.mcpServers': data.mcpServers.edges[0].cursor,
      'McpServer.tools': data.mcpServers.edges[0].node.tools.edges[0].cursor,
      'Agent.tools': data.agent.tools.edges[0].cursor,
      'Session.messages': data.session.messages.edges[0].cursor,
      'Session.tasks': data.session.tasks.edges[0].cursor,
      'Session.plans': data.session.plans.edges[0].cursor,
      'Session.approvals': data.session.approvals.edges[0].cursor,
      'Session.approvalGrants': data.session.approvalGrants.edges[0].cursor,
      'Task.approvals': data.tasks.edges[0].node.approvals.edges[0].cursor,
    },
  };
}

/** The row's id within a client's id. */
export function rowId(globalId: string): string {
  return Buffer.from(globalId, 'base64url').toString('utf8').split(':')[1] ?? '';
}
