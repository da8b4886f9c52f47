import pg from 'pg';
import { developmentAudience, developmentIssuer } from '../../dev/identity.ts';
import { listen } from '../../dev/listen.ts';
import { systemClock } from '../../src/adapters/clock.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createMetrics } from '../../src/adapters/metrics.ts';
import { createOutgoing } from '../../src/adapters/outgoing.ts';
import type { Database, Transaction } from '../../src/adapters/postgres.ts';
import { createRateLimits } from '../../src/adapters/rate-limit.ts';
import { createChannel } from '../../src/adapters/redis.ts';
import { createTracing } from '../../src/adapters/trace.ts';
import { createAuthenticator } from '../../src/auth.ts';
import { createHttpServer } from '../../src/http.ts';
import { createOperation } from '../../src/operation.ts';
import { createSchema } from '../../src/resolvers/schema.ts';
import { EventFeeds } from '../../src/services/event-feeds.ts';
import { createToolResources } from '../../src/services/tool-resources.ts';
import { StreamHub } from '../../src/streams/hub.ts';
import { runChild } from '../child.ts';
import { poolSize, type ServerReady, type ServerSettings } from './settings.ts';

/** The one user whom this server can serve. */
export interface OneUserSettings extends ServerSettings {
  readonly userId: string;
}

// The service without what makes it safe for many users: its connections belong to one user from their start, so that
// no request needs a transaction or has to say whose it is. It shows what those cost and is of no other use.
runChild<OneUserSettings, ServerReady>(async (settings) => {
  const log = createLog({ level: 'warn' });
  const database = createOneUserDatabase(settings);
  const channel = createChannel({ url: null, log });
  const stopping = new AbortController();
  const openOperation = (userId: string) => createOperation({ database, channel, clock: systemClock() }, userId);
  const feeds = new EventFeeds({ database, channel, openOperation });
  const outgoing = createOutgoing({ allowedOrigins: [] });
  const server = createHttpServer({
    schema: createSchema(),
    authenticate: createAuthenticator({
      issuer: developmentIssuer,
      audience: developmentAudience,
      keys: { publicKey: settings.publicKey },
      signIn: async () => settings.userId,
    }),
    openOperation,
    feeds,
    streams: new StreamHub({
      feeds,
      heartbeatInterval: 15_000,
      pollInterval: 15_000,
      limits: { perUser: 1, perNode: 1, differentPerUser: 1, bytes: 1, events: 1 },
      describeFault: String,
    }),
    tools: createToolResources(outgoing, []),
    memory: { vectors: null, embeddingModel: 'none', embedTimeout: 1 },
    modelFor: () => ({ chat: refuse, embed: refuse }),
    log,
    metrics: createMetrics(),
    tracing: createTracing(null),
    trustProxy: false,
    limits: {
      rates: createRateLimits(
        { REQUESTS: 1_000_000, STREAMS: 1_000_000, SEND: 1, INGEST: 1, SEARCH: 1, COSTLY: 1 },
        null,
      ),
      documents: { tokens: 2_000, depth: 15, aliases: 50, cost: 20_000 },
      introspection: false,
      manifest: null,
      slowAfter: 1_000_000,
    },
    fieldSuggestions: false,
    graphiql: null,
    health: async () => ({ status: 'ready', dependencies: {} }),
    stopping: stopping.signal,
  });
  const { origin } = await listen(server);
  return {
    ready: { url: `${origin}/graphql` },
    commands: {},
    stop: async () => {
      server.close();
      stopping.abort();
      server.closeAllConnections();
      await outgoing.close();
      await channel.close();
      await database.close();
    },
  };
});

/** The service's settings of the pool and of types, without BEGIN, set_config and COMMIT. */
function createOneUserDatabase(settings: OneUserSettings): Database {
  const pool = new pg.Pool({
    connectionString: settings.databaseUrl,
    max: poolSize,
    pipeline: true,
    // Policies still ask who is acting: the connection answers once for all.
    options: `-c app.user_id=${settings.userId}`,
    types: {
      getTypeParser: (type: number, format?: 'text' | 'binary') =>
        type === 20 ? (value: string) => BigInt(value) : pg.types.getTypeParser(type, format),
    } as pg.CustomTypesConfig,
  });
  const withoutTransaction = (client: pg.PoolClient): Transaction => {
    let ended = false;
    const end = async (): Promise<void> => {
      if (!ended) {
        ended = true;
        client.release();
      }
    };
    return {
      query: async ({ name, text }, values = []) => (await client.query({ name, text, values })).rows,
      prisma: () => Promise.reject(new Error('what is measured here does not use Prisma')),
      commit: end,
      rollback: end,
    };
  };
  const query: Database['query'] = async ({ name, text }, values = []) =>
    (await pool.query({ name, text, values })).rows;
  return {
    begin: async () => withoutTransaction(await pool.connect()),
    query,
    reserve: () => ({ query, close: () => undefined }),
    usage: () => ({ total: pool.totalCount, idle: pool.idleCount, waiting: pool.waitingCount }),
    close: () => pool.end(),
  };
}

async function refuse(): Promise<never> {
  throw new Error('there is no model to ask');
}
