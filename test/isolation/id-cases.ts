import type { World } from './world.ts';

/** How a place that takes an id, a cursor or a search is tried with what belongs to somebody else. */
export interface IdCase {
  /** Noun of the id; `Node` for all nouns in turn; or a cursor of that list, or a text to search for. */
  takes:
    | 'Node'
    | 'User'
    | 'Agent'
    | 'Session'
    | 'Message'
    | 'Task'
    | 'Approval'
    | 'ApprovalGrant'
    | 'Orchestrator'
    | 'Plan'
    | 'Tool'
    | 'MemoryDocument'
    | 'McpServer'
    | { cursorOf: string }
    | { search: true };
  /** The document, with the tried value as `$value`. What it answers to the owner must hold something of the owner. */
  document: string;
  /** Other variables: things of the caller's own. */
  own?: (world: World) => Record<string, unknown>;
}

const tool = 'id name description toolArguments: arguments secretNames http { url headers { name value } }';
const server = 'id name url headerNames listError tools { edges { node { id description } } }';
const agent = `id name description instructions lastError createdAt tools { edges { node { id description } } }`;
const session = 'id title clientAddress messages { edges { node { content } } } tasks { edges { node { id } } }';
const message = 'id content session { id } agent { id name } task { id }';
const task = 'id state errorMessage answerId session { id title } agent { id } message { content } answer { content }';
const approval = 'id approvalState: state toolName arguments note task { id } session { id title }';
const orchestrator = 'id name instructions createdAt';
const plan = `id planState: state request mermaid planTasks: tasks { key } edges { from to } message { content } answer { content } session { id title }
  planningTask { id } composingTask { id }`;
const grant = 'id toolName agent { id name } session { id title }';

const memoryDocument = 'id source path contentHash: hash agent { id name }';
const memoryJob =
  'job { kind added removed pending task { id agent { id name memoryState { documents sources { source } } } } }';

function memoryDocuments(argument: string): IdCase {
  return {
    takes: { cursorOf: 'Query.memoryDocuments' },
    document: `query ($value: String!, $id: ID!) { memoryDocuments(agentId: $id, ${argument}: $value) {
      edges { cursor node { ${memoryDocument} } } pageInfo { hasNextPage hasPreviousPage } } }`,
    own: ({ ids }) => ({ id: ids['Agent'] }),
  };
}

function connection(list: string, argument: string, node: string): IdCase {
  return {
    takes: { cursorOf: `Query.${list}` },
    document: `query ($value: String!) { ${list}(${argument}: $value) { edges { cursor node { ${node} } } pageInfo { hasNextPage hasPreviousPage } } }`,
  };
}

function ofSession(list: string, argument: string, node: string): IdCase {
  return {
    takes: { cursorOf: `Session.${list}` },
    document: `query ($value: String!, $id: ID!) { session(id: $id) {
      ${list}(${argument}: $value) { edges { cursor node { ${node} } } pageInfo { hasNextPage hasPreviousPage } } } }`,
    own: ({ ids }) => ({ id: ids['Session'] }),
  };
}

function ofTask(list: string, argument: string, node: string): IdCase {
  return {
    takes: { cursorOf: `Task.${list}` },
    document: `query ($value: String!, $id: ID!) { task(id: $id) {
      ${list}(${argument}: $value) { edges { cursor node { ${node} } } pageInfo { hasNextPage hasPreviousPage } } } }`,
    own: ({ ids }) => ({ id: ids['Task'] }),
  };
}

function ofAgent(list: string, argument: string, node: string): IdCase {
  return {
    takes: { cursorOf: `Agent.${list}` },
    document: `query ($value: String!, $id: ID!) { agent(id: $id) {
      ${list}(${argument}: $value) { edges { cursor node { ${node} } } pageInfo { hasNextPage hasPreviousPage } } } }`,
    own: ({ ids }) => ({ id: ids['Agent'] }),
  };
}

function ofServer(list: string, argument: string, node: string): IdCase {
  return {
    takes: { cursorOf: `McpServer.${list}` },
    document: `query ($value: String!, $id: ID!) { mcpServer(id: $id) {
      ${list}(${argument}: $value) { edges { cursor node { ${node} } } pageInfo { hasNextPage hasPreviousPage } } } }`,
    own: ({ ids }) => ({ id: ids['McpServer'] }),
  };
}

/** One case for each place of the schema that `findIdPlaces` names. */
export const idCases: Record<string, IdCase> = {
  'Query.node(id)': {
    takes: 'Node',
    document: `query ($value: ID!) { node(id: $value) { __typename id ... on User { createdAt } ... on Agent { ${agent} }
      ... on Session { ${session} } ... on Message { ${message} } ... on Task { ${task} }
      ... on MemoryDocument { ${memoryDocument} }
      ... on Approval { ${approval} } ... on ApprovalGrant { ${grant} }
      ... on Tool { ${tool} } ... on McpServer { ${server} } ... on Orchestrator { ${orchestrator} } ... on Plan { ${plan} } } }`,
  },
  'Query.agent(id)': { takes: 'Agent', document: `query ($value: ID!) { agent(id: $value) { ${agent} } }` },
  'Query.session(id)': { takes: 'Session', document: `query ($value: ID!) { session(id: $value) { ${session} } }` },
  'Query.task(id)': { takes: 'Task', document: `query ($value: ID!) { task(id: $value) { ${task} } }` },
  'Query.plan(id)': { takes: 'Plan', document: `query ($value: ID!) { plan(id: $value) { ${plan} } }` },
  'Query.tasks(filter.sessionId)': {
    takes: 'Session',
    document: `query ($value: ID!) { tasks(filter: { sessionId: $value }) { edges { cursor node { ${task} } } pageInfo { hasNextPage } } }`,
  },
  'Query.tasks(filter.agentId)': {
    takes: 'Agent',
    document: `query ($value: ID!) { tasks(filter: { agentId: $value }) { edges { cursor node { ${task} } } pageInfo { hasNextPage } } }`,
  },
  'Query.approval(id)': {
    takes: 'Approval',
    document: `query ($value: ID!) { approval(id: $value) { ${approval} } }`,
  },
  'Query.approvals(sessionId)': {
    takes: 'Session',
    document: `query ($value: ID!) { approvals(sessionId: $value) { edges { cursor node { ${approval} } } pageInfo { hasNextPage } } }`,
  },
  'Query.sessions(search)': {
    takes: { search: true },
    document: `query ($value: String!) { sessions(search: $value) { edges { cursor node { ${session} } } pageInfo { hasNextPage } } }`,
  },
  'Query.tool(id)': { takes: 'Tool', document: `query ($value: ID!) { tool(id: $value) { ${tool} } }` },
  'Query.tools(after)': connection('tools', 'after', tool),
  'Query.tools(before)': connection('tools', 'before', tool),
  'Query.mcpServer(id)': {
    takes: 'McpServer',
    document: `query ($value: ID!) { mcpServer(id: $value) { ${server} } }`,
  },
  'Query.mcpServers(after)': connection('mcpServers', 'after', server),
  'Query.mcpServers(before)': connection('mcpServers', 'before', server),
  'McpServer.tools(after)': ofServer('tools', 'after', tool),
  'McpServer.tools(before)': ofServer('tools', 'before', tool),
  'Mutation.updateMcpServer(id)': {
    takes: 'McpServer',
    document: `mutation ($value: ID!) {
      updateMcpServer(id: $value, input: { headers: [{ name: "X-Mine", value: "taken over" }] }) { mcpServer { ${server} } } }`,
  },
  'Mutation.deleteMcpServer(id)': {
    takes: 'McpServer',
    document: 'mutation ($value: ID!) { deleteMcpServer(id: $value) { deletedMcpServerId } }',
  },
  'Mutation.refreshMcpServer(id)': {
    takes: 'McpServer',
    document: `mutation ($value: ID!) { refreshMcpServer(id: $value) { mcpServer { ${server} } } }`,
  },
  'Agent.tools(after)': ofAgent('tools', 'after', tool),
  'Agent.tools(before)': ofAgent('tools', 'before', tool),
  'Mutation.createAgent(input.toolIds)': {
    takes: 'Tool',
    document: `mutation ($value: ID!) {
      createAgent(input: { name: "Borrower", instructions: "borrow", toolIds: [$value] }) { agent { ${agent} } } }`,
  },
  'Mutation.updateAgent(input.toolIds)': {
    takes: 'Tool',
    document: `mutation ($value: ID!, $agent: ID!) {
      updateAgent(id: $agent, input: { toolIds: [$value] }) { agent { ${agent} } } }`,
    own: ({ ids }) => ({ agent: ids['Agent'] }),
  },
  'Mutation.updateTool(id)': {
    takes: 'Tool',
    document: `mutation ($value: ID!) { updateTool(id: $value, input: { description: "taken over" }) { tool { ${tool} } } }`,
  },
  'Mutation.deleteTool(id)': {
    takes: 'Tool',
    document: 'mutation ($value: ID!) { deleteTool(id: $value) { deletedToolId } }',
  },
  ...Object.fromEntries(
    ['attachTool', 'detachTool'].flatMap((name): [string, IdCase][] => [
      [
        `Mutation.${name}(agentId)`,
        {
          takes: 'Agent',
          document: `mutation ($value: ID!, $tool: ID!) { ${name}(agentId: $value, toolId: $tool) { agent { ${agent} } tool { ${tool} } } }`,
          own: ({ ids }) => ({ tool: ids['Tool'] }),
        },
      ],
      [
        `Mutation.${name}(toolId)`,
        {
          takes: 'Tool',
          document: `mutation ($value: ID!, $agent: ID!) { ${name}(agentId: $agent, toolId: $value) { agent { ${agent} } tool { ${tool} } } }`,
          own: ({ ids }) => ({ agent: ids['Agent'] }),
        },
      ],
    ]),
  ),
  'Query.agents(after)': connection('agents', 'after', agent),
  'Query.agents(before)': connection('agents', 'before', agent),
  'Query.sessions(after)': connection('sessions', 'after', session),
  'Query.sessions(before)': connection('sessions', 'before', session),
  'Query.tasks(after)': connection('tasks', 'after', task),
  'Query.tasks(before)': connection('tasks', 'before', task),
  'Query.approvals(after)': connection('approvals', 'after', approval),
  'Query.approvals(before)': connection('approvals', 'before', approval),
  'Task.approvals(after)': ofTask('approvals', 'after', approval),
  'Task.approvals(before)': ofTask('approvals', 'before', approval),
  'Session.approvals(after)': ofSession('approvals', 'after', approval),
  'Session.approvals(before)': ofSession('approvals', 'before', approval),
  'Session.approvalGrants(after)': ofSession('approvalGrants', 'after', grant),
  'Session.approvalGrants(before)': ofSession('approvalGrants', 'before', grant),
  'Session.messages(after)': ofSession('messages', 'after', message),
  'Session.messages(before)': ofSession('messages', 'before', message),
  'Session.plans(after)': ofSession('plans', 'after', plan),
  'Session.plans(before)': ofSession('plans', 'before', plan),
  'Session.tasks(after)': ofSession('tasks', 'after', task),
  'Session.tasks(before)': ofSession('tasks', 'before', task),
  'Query.memoryDocuments(agentId)': {
    takes: 'Agent',
    document: `query ($value: ID!) { memoryDocuments(agentId: $value) { edges { cursor node { ${memoryDocument} } } pageInfo { hasNextPage } } }`,
  },
  'Query.memoryDocuments(after)': memoryDocuments('after'),
  'Query.memoryDocuments(before)': memoryDocuments('before'),
  'Query.searchMemory(agentId)': {
    takes: 'Agent',
    document: `query ($value: ID!) { searchMemory(agentId: $value, query: "memory") {
      degraded matches { content path source documentId document { ${memoryDocument} } } } }`,
  },
  'Mutation.ingestDocuments(input.agentId)': {
    takes: 'Agent',
    document: `mutation ($value: ID!) {
      ingestDocuments(input: { agentId: $value, source: "taken over", documents: [{ path: "a", content: "b" }] }) { ${memoryJob} } }`,
  },
  'Mutation.syncSource(input.agentId)': {
    takes: 'Agent',
    document: `mutation ($value: ID!) {
      syncSource(input: { agentId: $value, source: "taken over", entries: [] }) { wanted removed again ${memoryJob} } }`,
  },
  'Mutation.pruneMemory(input.agentId)': {
    takes: 'Agent',
    document: `mutation ($value: ID!) { pruneMemory(input: { agentId: $value, maxBytes: 0 }) { ${memoryJob} } }`,
  },
  'Mutation.rebuildMemory(agentId)': {
    takes: 'Agent',
    document: `mutation ($value: ID!) { rebuildMemory(agentId: $value) { ${memoryJob} } }`,
  },
  'Mutation.updateAgent(id)': {
    takes: 'Agent',
    document: `mutation ($value: ID!) { updateAgent(id: $value, input: { description: "taken over", maxConcurrentTasks: 9 }) { agent { ${agent} } } }`,
  },
  'Mutation.deleteAgent(id)': {
    takes: 'Agent',
    document: 'mutation ($value: ID!) { deleteAgent(id: $value) { deletedAgentId } }',
  },
  'Mutation.updateSession(id)': {
    takes: 'Session',
    document: `mutation ($value: ID!) { updateSession(id: $value, input: { title: "taken over" }) { session { ${session} } } }`,
  },
  'Mutation.deleteSession(id)': {
    takes: 'Session',
    document: 'mutation ($value: ID!) { deleteSession(id: $value) { deletedSessionId } }',
  },
  'Mutation.sendMessage(input.sessionId)': {
    takes: 'Session',
    document: `mutation ($value: ID!, $agent: ID!) {
      sendMessage(input: { sessionId: $value, targetAgentId: $agent, content: "hello" }) {
        message { ${message} } session { ${session} } task { ${task} } } }`,
    own: ({ ids }) => ({ agent: ids['Agent'] }),
  },
  'Mutation.sendMessage(input.targetAgentId)': {
    takes: 'Agent',
    document: `mutation ($value: ID!, $session: ID!) {
      sendMessage(input: { sessionId: $session, targetAgentId: $value, content: "hello" }) {
        message { ${message} } session { ${session} } task { ${task} } } }`,
    own: ({ ids }) => ({ session: ids['Session'] }),
  },
  'Mutation.decideApproval(id)': {
    takes: 'Approval',
    document: `mutation ($value: ID!) { decideApproval(id: $value, decision: APPROVED, remember: true) { approval { ${approval} } } }`,
  },
  'Mutation.requestAgain(id)': {
    takes: 'Approval',
    document: `mutation ($value: ID!) { requestAgain(id: $value) { approval { ${approval} } } }`,
  },
  'Mutation.withdrawApprovalGrant(id)': {
    takes: 'ApprovalGrant',
    document: 'mutation ($value: ID!) { withdrawApprovalGrant(id: $value) { withdrawnApprovalGrantId } }',
  },
  'Mutation.cancelPlan(id)': {
    takes: 'Plan',
    document: `mutation ($value: ID!) { cancelPlan(id: $value) { plan { ${plan} } } }`,
  },
  'Mutation.retryPlan(id)': {
    takes: 'Plan',
    document: `mutation ($value: ID!) { cancelPlan(id: $value) { plan { id } } retryPlan(id: $value) { plan { ${plan} } } }`,
  },
  'Mutation.cancelTask(id)': {
    takes: 'Task',
    document: `mutation ($value: ID!) { cancelTask(id: $value) { task { ${task} } } }`,
  },
  'Mutation.cancelSessionTasks(sessionId)': {
    takes: 'Session',
    document: 'mutation ($value: ID!) { cancelSessionTasks(sessionId: $value) { count } }',
  },
  'Mutation.cancelAgentTasks(agentId)': {
    takes: 'Agent',
    document: 'mutation ($value: ID!) { cancelAgentTasks(agentId: $value) { count } }',
  },
};

/** Places of subscriptions, which events.test.ts tries while their owners work. */
export const streamPlaces = ['Subscription.events(after)', 'Subscription.events(sessionId)'];
