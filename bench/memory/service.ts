import {
  createDevelopmentKey,
  developmentAudience,
  developmentIssuer,
  signDevelopmentToken,
} from '../../dev/identity.ts';
import { startOfflineModel } from '../../dev/offline-model/server.ts';
import { createGraphqlClient } from '../../dev/sync/client.ts';
import { createLog } from '../../src/adapters/log.ts';
import { startAll } from '../../src/app.ts';
import { readConfig } from '../../src/config.ts';
import { type BenchDatabase, createBenchDatabase, startBenchStack } from '../database.ts';

export const embeddingModel = 'offline-embedding-1';

/** The whole service beside a Qdrant, and one user of it. */
export interface MemoryService extends AsyncDisposable {
  readonly database: BenchDatabase;
  readonly ask: ReturnType<typeof createGraphqlClient>;
  readonly userId: string;
  readonly agentId: string;
  /** The agent's id as the API has it. */
  readonly agentGlobalId: string;
}

/** Starts the service with a database of its own. The model is the offline one: what it takes is little, and counts. */
export async function startMemoryService(dataFolder: string, qdrantUrl: string): Promise<MemoryService> {
  const started = new AsyncDisposableStack();
  try {
    const stack = await startBenchStack(dataFolder, { redis: false, qdrant: false });
    started.defer(() => stack.stop());
    const database = await createBenchDatabase(stack, 'memory');
    started.defer(() => database.close());
    const model = await startOfflineModel();
    started.defer(() => model.stop());
    const key = await createDevelopmentKey();
    const config = readConfig({
      DATABASE_URL: database.appUrl,
      WORKER_DATABASE_URL: database.workerUrl,
      QDRANT_URL: qdrantUrl,
      MODEL_BASE_URL: model.url,
      MODEL_API_KEY: model.apiKey,
      MODEL_NAME: 'offline-1',
      MODEL_EMBEDDING_NAME: embeddingModel,
      TOKEN_ISSUER: developmentIssuer,
      TOKEN_AUDIENCE: developmentAudience,
      TOKEN_PUBLIC_KEY: JSON.stringify(key.publicKey),
      PORT: '0',
      LOG_LEVEL: 'warn',
      RATE_LIMIT_REQUESTS: '1000000',
      RATE_LIMIT_INGEST: '1000000',
      RATE_LIMIT_SEARCH: '1000000',
    });
    const api = await startAll(config, createLog({ level: config.LOG_LEVEL }));
    started.defer(() => api.stop());
    const ask = createGraphqlClient(api.url, await signDevelopmentToken(key, 'bench'));
    const team = await ask<{ agents: { edges: { node: { id: string } }[] } }>(
      '{ agents(first: 1) { edges { node { id } } } }',
      {},
      AbortSignal.timeout(60_000),
    );
    const agentGlobalId = team.agents.edges[0]?.node.id ?? '';
    const agentId = Buffer.from(agentGlobalId, 'base64').toString().replace('Agent:', '');
    const [owner] = await database.owner<{ userId: string }>('SELECT user_id AS "userId" FROM agents WHERE id = $1', [
      agentId,
    ]);
    if (owner === undefined) {
      throw new Error('the user has no agent');
    }
    const { userId } = owner;
    return { database, ask, userId, agentId, agentGlobalId, [Symbol.asyncDispose]: () => started.disposeAsync() };
  } catch (error) {
    await started.disposeAsync();
    throw error;
  }
}

const searchQuery =
  'query ($id: ID!, $query: String!) { searchMemory(agentId: $id, query: $query) { degraded matches { path } } }';

/** Searches as a user does, by meaning and by words. @returns milliseconds @throws Error when only words were searched */
export async function timeSearch({ ask, agentGlobalId }: MemoryService, query: string): Promise<number> {
  const start = performance.now();
  const { searchMemory } = await ask<{ searchMemory: { degraded: boolean } }>(
    searchQuery,
    { id: agentGlobalId, query },
    AbortSignal.timeout(60_000),
  );
  if (searchMemory.degraded) {
    throw new Error('a search was answered by words alone');
  }
  return performance.now() - start;
}
