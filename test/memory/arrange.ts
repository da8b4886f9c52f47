import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';

/** A service with memory, and a user with an agent. */
export interface MemoryScene {
  service: TestService;
  user: TestUser;
  agentId: string;
}

export async function startMemoryScene(options: Parameters<typeof startTestService>[0] = {}): Promise<MemoryScene> {
  const service = await startTestService({ qdrant: true, ...options });
  const user = await service.user('alice');
  return { service, user, agentId: await addAgent(user, 'Librarian') };
}

/** Adds an agent with a memory. @returns its id */
export async function addAgent(user: TestUser, name: string, memory: Record<string, unknown> = {}): Promise<string> {
  const { data, errors } = await user.ask(
    `mutation ($input: CreateAgentInput!) { createAgent(input: $input) { agent { id } } }`,
    { input: { name, instructions: `You are ${name}.`, memory } },
  );
  if (errors.length > 0) {
    throw new Error(JSON.stringify(errors));
  }
  return data.createAgent.agent.id;
}

const job = `job { kind added changed unchanged removed indexed unindexed embedded reused pending
  task { id state progress errorCode attempt } }`;

/** Sends documents. @returns the answer to the mutation */
export function send(user: TestUser, agentId: string, source: string, documents: { path: string; content: string }[]) {
  return user.ask(`mutation ($input: IngestDocumentsInput!) { ingestDocuments(input: $input) { ${job} } }`, {
    input: { agentId, source, documents },
  });
}

export interface Report {
  added: number;
  changed: number;
  unchanged: number;
  removed: number;
  indexed: number;
  unindexed: number;
  embedded: number;
  reused: number;
  pending: number;
  task: { id: string; state: string; errorCode: string | null; attempt: number };
}

/** Waits until a job's task has come to that state. @returns the job */
export function untilJob(user: TestUser, taskId: string, state = 'COMPLETED'): Promise<Report> {
  return waitFor(`the job to be ${state}`, async () => {
    const { data } = await user.ask(`query ($id: ID!) { task(id: $id) { memoryJob { ${job.slice(5, -1)} } } }`, {
      id: taskId,
    });
    const found = data.task.memoryJob as Report;
    return found.task.state === state && found;
  });
}

/** Sends documents and waits until the index knows them. @returns the report of the job */
export async function ingest(
  user: TestUser,
  agentId: string,
  source: string,
  documents: { path: string; content: string }[],
): Promise<Report> {
  const { data, errors } = await send(user, agentId, source, documents);
  if (errors.length > 0) {
    throw new Error(JSON.stringify(errors));
  }
  return untilJob(user, data.ingestDocuments.job.task.id);
}

/** Starts a job by a mutation that takes nothing but the agent. */
export async function rebuild(user: TestUser, agentId: string): Promise<Report> {
  const { data, errors } = await user.ask(`mutation ($id: ID!) { rebuildMemory(agentId: $id) { ${job} } }`, {
    id: agentId,
  });
  if (errors.length > 0) {
    throw new Error(JSON.stringify(errors));
  }
  return untilJob(user, data.rebuildMemory.job.task.id);
}

/** Searches. @returns the result, or throws with the errors */
export async function search(
  user: TestUser,
  agentId: string,
  query: string,
  more: { first?: number; filter?: Record<string, unknown> } = {},
) {
  const { data, errors } = await user.ask(
    `query ($agentId: ID!, $query: String!, $first: Int, $filter: MemorySearchFilter) {
      searchMemory(agentId: $agentId, query: $query, first: $first, filter: $filter) {
        degraded degradedReason matches {
          content heading source path kind startLine endLine score similarity updatedAt document { id path } } } }`,
    { agentId, query, ...more },
  );
  if (errors.length > 0) {
    throw new Error(JSON.stringify(errors));
  }
  return data.searchMemory as {
    degraded: boolean;
    degradedReason: string | null;
    matches: {
      content: string;
      heading: string;
      source: string;
      path: string;
      startLine: number;
      endLine: number;
      similarity: number | null;
    }[];
  };
}
