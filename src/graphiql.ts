/** Ready examples, in the order in which a newcomer needs them. */
export function graphiqlTabs(): { query: string; variables?: string }[] {
  return [
    {
      query: `# 1. Your team and your sessions. Press the play button.
query Team {
  viewer { id createdAt }
  agents(first: 10) {
    edges { node { id name description status } }
  }
  sessions(first: 5) {
    edges { node { id title lastAccessedAt messages(last: 3) { edges { node { role content } } } } }
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
      query: `# 3. Leave this running in its tab, then send a message from the next two.
subscription Events {
  events {
    __typename
    cursor
    ... on MessageDelta { offset text }
    ... on MessageCreated { message { role content agent { name } } }
    ... on AgentStatusChanged { agent { name } status }
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
      query: `# 5. Copy ids from tabs 1 and 4 into the variables below.
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
  ];
}
