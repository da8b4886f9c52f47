import { renderGraphiQL } from '@graphql-yoga/render-graphiql';
import type { GraphiQLOptions } from 'graphql-yoga';

/**
 * How GraphiQL starts: with ready examples, and signed in when there is a token. The token goes beside the headers that
 * a user types: those outlive the page in the browser's storage, and an old token there would shut out the next one.
 */
export function graphiqlOptions(token: string | null, url: URL): GraphiQLOptions {
  const tabs = exampleTabs();
  const [first] = tabs;
  return {
    title: 'Retinue',
    subscriptionsProtocol: 'SSE',
    shouldPersistHeaders: false,
    defaultTabs: tabs,
    // Without a query GraphiQL would open an empty tab each time that the page is loaded again.
    ...(first === undefined || url.searchParams.has('query') ? {} : { query: first.query }),
    ...(token === null ? {} : { additionalHeaders: { Authorization: `Bearer ${token}` } }),
  };
}

/** The page. All that it needs is in it, so that it works without a way to the internet. */
export function renderGraphiqlPage(options?: GraphiQLOptions): string {
  return renderGraphiQL(options).replace('</head>', `<style>${tabStyle}</style></head>`);
}

/** On a first visit GraphiQL moves a tab away from under the pointer that presses it, so that the click is lost. */
const tabStyle = '.graphiql-tab { transform: none !important; }';

/** In the order in which a newcomer needs them. */
function exampleTabs(): { query: string; variables?: string }[] {
  return [
    {
      query: `# 1. Your team and your sessions: press play.
query Team {
  agents(first: 10) {
    edges {
      node { id name description status }
    }
  }
  sessions(first: 5) {
    edges {
      node {
        id
        title
        messages(last: 3) {
          edges { node { role content } }
        }
      }
    }
  }
}
`,
    },
    {
      query: `# 2. A new member for your team.
mutation CreateAgent {
  createAgent(input: {
    name: "Gardener"
    description: "Knows plants"
    instructions: "You are Gardener. Answer questions about plants briefly."
  }) {
    agent { id name status }
  }
}
`,
    },
    {
      query: `# 3. Leave this running,
# then send a message from the next two tabs.
subscription Events {
  events {
    __typename
    cursor
    ... on MessageDelta { offset text }
    ... on MessageCreated {
      message { role content agent { name } }
    }
    ... on AgentStatusChanged { agent { name } status }
    ... on TaskPlanCreated {
      plan { tasks { agentName instruction dependsOn } }
    }
    ... on TaskFailed { code willRetry }
  }
}
`,
    },
    {
      query: `# 4. A session to write in.
mutation CreateSession {
  createSession(input: { title: "First steps" }) {
    session { id title }
  }
}
`,
    },
    {
      query: `# 5. Copy ids from tabs 1 and 4
# into the variables below.
mutation SendMessage($input: SendMessageInput!) {
  sendMessage(input: $input) {
    message { id position }
    task { id state }
  }
}
`,
      variables: JSON.stringify(
        { input: { sessionId: '', targetAgentId: '', content: 'Hello! Who are you?' } },
        null,
        2,
      ),
    },
    {
      query: `# 6. Without a target the whole team answers:
# watch the plan in tab 3.
mutation AskTeam($sessionId: ID!) {
  sendMessage(input: {
    sessionId: $sessionId
    content: "Research shade plants, then write a short list."
  }) {
    message { plan { id state } }
  }
}
`,
      variables: JSON.stringify({ sessionId: '' }, null, 2),
    },
    {
      query: `# 7. What waits for your decision.
query WaitingForYou {
  approvals(states: [PENDING]) {
    edges {
      node { id kind toolName arguments expiresAt }
    }
  }
}
`,
    },
  ];
}
