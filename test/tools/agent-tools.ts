import { type TestService, type TestUser, waitFor } from '../service.ts';

/** A user of the real service, with its worker, whose agents get tools and are sent messages. */
export interface ToolUser {
  service: TestService;
  user: TestUser;
  /** Adds a tool and gives its id. */
  addTool(input: Record<string, unknown>): Promise<string>;
  /** A built-in tool that every user has from the start. */
  builtIn(name: string): Promise<string>;
  addAgent(name: string, toolIds?: string[], rest?: Record<string, unknown>): Promise<string>;
  /** Sends a message and gives the task that answers it. */
  send(agentId: string, content: string): Promise<string>;
  task(id: string): Promise<{ state: string; errorCode: string | null; answer: { content: string } | null }>;
  /** Sends a message and waits for its answer. */
  ask(agentId: string, content: string): Promise<string>;
  /** What the model was told of results, newest request last. */
  toolResults(): string[];
}

export async function createToolUser(service: TestService, name: string): Promise<ToolUser> {
  const user = await service.user(name);
  const data = async (query: string, variables: Record<string, unknown> = {}) => {
    const answer = await user.ask(query, variables);
    if (answer.errors.length > 0) {
      throw new Error(JSON.stringify(answer.errors));
    }
    return answer.data;
  };
  const session = (await data('mutation { createSession { session { id } } }')).createSession.session.id;
  const send = async (agentId: string, content: string): Promise<string> => {
    const input = { sessionId: session, targetAgentId: agentId, content };
    return (
      await data('mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }', { input })
    ).sendMessage.task.id;
  };
  const task: ToolUser['task'] = async (id) =>
    (await data('query ($id: ID!) { task(id: $id) { state errorCode answer { content } } }', { id })).task;
  return {
    service,
    user,
    addTool: async (input) =>
      (await data('mutation ($input: CreateToolInput!) { createTool(input: $input) { tool { id } } }', { input }))
        .createTool.tool.id,
    builtIn: async (toolName) => {
      const { tools } = await data('{ tools(first: 50) { edges { node { id name } } } }');
      return tools.edges.find(({ node }: { node: { name: string } }) => node.name === toolName).node.id;
    },
    addAgent: async (agentName, toolIds = [], rest = {}) => {
      const input = {
        name: agentName,
        instructions: `You are ${agentName}.`,
        toolIds,
        approvalPolicy: 'NEVER',
        ...rest,
      };
      return (
        await data('mutation ($input: CreateAgentInput!) { createAgent(input: $input) { agent { id } } }', { input })
      ).createAgent.agent.id;
    },
    send,
    task,
    ask: async (agentId, content) => {
      const id = await send(agentId, content);
      const ended = await waitFor('the answer', async () => {
        const now = await task(id);
        return ['COMPLETED', 'FAILED'].includes(now.state) && now;
      });
      if (ended.answer === null) {
        throw new Error(`there is no answer: ${JSON.stringify(ended)}`);
      }
      return ended.answer.content;
    },
    toolResults: () =>
      service.model
        .recentRequests()
        .flatMap(({ body }) => (body as { messages?: { role: string; content: string }[] }).messages ?? [])
        .filter(({ role }) => role === 'tool')
        .map(({ content }) => content),
  };
}
