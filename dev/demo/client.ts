import { createClient } from 'graphql-sse';

/** A signed-in user as the demo plays one: plain HTTP for queries and mutations, `graphql-sse` for events. */
export interface DemoUser {
  name: string;
  ask(query: string, variables?: Record<string, unknown>): Promise<Answer>;
  /** Hands every event to the listener until the returned function is called. Resolves when the stream has begun. */
  follow(onEvent: (event: DemoEvent) => void): Promise<() => void>;
}

// The demo reads what it asked for; a wrong shape shows as a failed demo.
// biome-ignore lint/suspicious/noExplicitAny: see above
export type Data = any;

export interface Answer {
  data: Data;
  errors: { message: string; extensions: { code?: string } }[];
}

export interface DemoEvent {
  __typename: string;
  cursor: string;
  text?: string;
  offset?: number;
  messageId?: string;
  status?: string;
  agent?: { name: string } | null;
  message?: { role: string; content: string } | null;
  task?: { id: string; state: string } | null;
  plan?: { state: string } | null;
  approval?: { id: string } | null;
  toolName?: string | null;
  resolved?: string;
  note?: string;
}

const eventsDocument = `subscription {
  events {
    __typename cursor
    ... on MessageDelta { messageId offset text }
    ... on MessageCreated { message { role content } }
    ... on AgentStatusChanged { status agent { name } }
    ... on TaskStarted { task { id state } }
    ... on TaskCompleted { task { id state } }
    ... on TaskFailed { task { id state } }
    ... on PlanningStarted { plan { state } }
    ... on PlanRequest { plan { state } approval { id } }
    ... on TaskPlanCreated { plan { state } }
    ... on PlanEnded { plan { state } }
    ... on TaskProgress { note }
    ... on ToolRequest { toolName }
    ... on ApprovalResolved { resolved: state }
  }
}`;

const deadline = 20_000;

/** @throws Error from `ask` when the service does not answer in time. */
export function createDemoUser(url: string, name: string, token: string): DemoUser {
  const headers = { authorization: `Bearer ${token}` };
  return {
    name,
    ask: async (query, variables = {}) => {
      const response = await fetch(url, {
        method: 'POST',
        headers: { ...headers, 'content-type': 'application/json' },
        body: JSON.stringify({ query, variables }),
        signal: AbortSignal.timeout(deadline),
      });
      const body = (await response.json()) as Partial<Answer>;
      return { data: body.data ?? null, errors: body.errors ?? [] };
    },
    follow: async (onEvent) => {
      const client = createClient({ url, headers, retryAttempts: 0 });
      const { promise: begun, resolve, reject } = Promise.withResolvers<void>();
      client.subscribe<{ events: DemoEvent }>(
        { query: eventsDocument },
        {
          next: ({ data, errors }) => {
            resolve();
            if (errors !== undefined) {
              reject(errors[0]);
            } else if (data) {
              onEvent(data.events);
            }
          },
          error: reject,
          complete: () => undefined,
        },
      );
      await begun;
      return () => client.dispose();
    },
  };
}
