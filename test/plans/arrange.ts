import { type GraphQLAnswer, startTestService, type TestService, type TestUser, waitFor } from '../service.ts';

/** A task of a plan as tests look at it. */
export interface SeenTask {
  key: string;
  agentName: string;
  instruction: string;
  dependsOn: string[];
  result: string | null;
  task: { id: string; state: string; errorCode: string | null; attempt: number } | null;
}

export interface SeenPlan {
  id: string;
  state: string;
  request: string;
  progress: number;
  mermaid: string;
  fallbackReason: string | null;
  fallbackMessage: string | null;
  startedAt: string | null;
  finishedAt: string | null;
  tasks: SeenTask[];
  edges: { from: string; to: string }[];
  message: { id: string; content: string } | null;
  answer: { id: string; role: string; content: string; plan: { id: string } | null } | null;
  planningTask: { id: string; state: string } | null;
  composingTask: { id: string; state: string; answerId: string } | null;
}

const planFields = `id state request progress mermaid fallbackReason fallbackMessage startedAt finishedAt
  tasks { key agentName instruction dependsOn result task { id state errorCode attempt } }
  edges { from to }
  message { id content }
  answer { id role content plan { id } }
  planningTask { id state }
  composingTask { id state answerId }`;

/** What a planner writes. */
export interface WrittenTask {
  key: string;
  agent: string;
  instruction: string;
  dependsOn?: string[];
  why?: string;
}

/** A user with a session, who talks to the whole team. */
export interface Chatter {
  user: TestUser;
  sessionId: string;
  /** Sends a message without a target. @returns the id of its plan */
  send(content: string, input?: Record<string, unknown>): Promise<string>;
  /** Sends a message and gives the whole answer of the API. */
  trySend(content: string, input?: Record<string, unknown>): Promise<GraphQLAnswer>;
  plan(id: string): Promise<SeenPlan>;
  /** Waits until the plan is in one of these states; its ends by default. */
  planIn(id: string, states?: string[]): Promise<SeenPlan>;
  /** Runs a mutation that takes a plan's id and gives the plan. */
  change(field: 'cancelPlan' | 'retryPlan', id: string): Promise<GraphQLAnswer>;
  agentId(name: string): Promise<string>;
}

export const ends = ['COMPLETED', 'FAILED', 'CANCELLED', 'REJECTED', 'EXPIRED'];

const send = `mutation ($input: SendMessageInput!) {
  sendMessage(input: $input) { message { id plan { id state } } task { id } } }`;

export async function createChatter(service: TestService, name: string): Promise<Chatter> {
  const user = await service.user(name);
  const { data } = await user.ask('mutation { createSession { session { id } } }');
  const sessionId: string = data.createSession.session.id;
  const trySend: Chatter['trySend'] = (content, input = {}) =>
    user.ask(send, { input: { sessionId, content, ...input } });
  const plan: Chatter['plan'] = async (id) => {
    const answer = await user.ask(`query ($id: ID!) { plan(id: $id) { ${planFields} } }`, { id });
    if (answer.errors.length > 0) {
      throw new Error(JSON.stringify(answer.errors));
    }
    return answer.data.plan;
  };
  return {
    user,
    sessionId,
    trySend,
    send: async (content, input) => {
      const answer = await trySend(content, input);
      if (answer.errors.length > 0) {
        throw new Error(JSON.stringify(answer.errors));
      }
      return answer.data.sendMessage.message.plan.id;
    },
    plan,
    planIn: (id, states = ends) =>
      waitFor(`the plan to be ${states.join(' or ')}`, async () => {
        const seen = await plan(id);
        return states.includes(seen.state) && seen;
      }),
    change: (field, id) => user.ask(`mutation ($id: ID!) { ${field}(id: $id) { plan { ${planFields} } } }`, { id }),
    agentId: async (agent) => {
      const team = await user.ask('{ agents { edges { node { id name } } } }');
      const found = team.data.agents.edges.find((edge: { node: { name: string } }) => edge.node.name === agent);
      return found.node.id;
    },
  };
}

/** The reply of a planner that wrote these tasks, for the script of the offline model. */
export function planReply(tasks: WrittenTask[]): string {
  return JSON.stringify({ tasks: tasks.map((task) => ({ dependsOn: [], why: 'It is needed.', ...task })) });
}

/** Part of the system message by which a script tells the planner's requests from others. */
export const planner = 'Make a plan for the request';
/** The same for the request that composes the answer. */
export const composer = 'You answer the user for a team of agents';

/** Types of a user's events in their order, each with the ids that it holds. */
export async function eventsOf(
  service: TestService,
  sessionId: string,
): Promise<{ type: string; data: Record<string, unknown> }[]> {
  const id = Buffer.from(sessionId, 'base64url').toString().split(':')[1];
  const rows = await service.database.owner('SELECT type, data FROM events WHERE session_id = $1 ORDER BY sequence', [
    id,
  ]);
  return rows as { type: string; data: Record<string, unknown> }[];
}

export { startTestService, type TestService };
