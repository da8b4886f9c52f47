import { randomBytes } from 'node:crypto';
import { type GraphQLSchema, graphql } from 'graphql';
import { systemClock } from '../../src/adapters/clock.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createOutgoing } from '../../src/adapters/outgoing.ts';
import { createDatabase, type Database, statement, type Transaction } from '../../src/adapters/postgres.ts';
import { createRateLimits } from '../../src/adapters/rate-limit.ts';
import { createChannel } from '../../src/adapters/redis.ts';
import { toClientError } from '../../src/graphql-errors.ts';
import { createOperation } from '../../src/operation.ts';
import type { Context } from '../../src/schema/builder.ts';
import { once } from '../../src/services/idempotency.ts';
import { createToolResources } from '../../src/services/tool-resources.ts';
import type { Ask } from './world.ts';

const log = createLog({ level: 'silent' });
const tools = createToolResources(createOutgoing({ allowedOrigins: [] }), [{ id: 'test', key: randomBytes(32) }]);

/** The service's own pool, as its API opens it. */
export function openDatabase(url: string, poolSize = 4): Database {
  return createDatabase({
    url,
    poolSize,
    connectionTimeout: 10_000,
    statementTimeout: 10_000,
    applicationName: 'isolation test',
    onError: () => undefined,
  });
}

/** Asks a schema as a user, without HTTP: so that schema and database can be broken on purpose. */
export function createLocalAsk(schema: GraphQLSchema, database: Database, userId: string): Ask {
  const channel = createChannel({ url: null, log });
  const rates = createRateLimits(
    { REQUESTS: 1_000, STREAMS: 1_000, SEND: 1_000, INGEST: 1_000, SEARCH: 1_000, COSTLY: 1_000 },
    null,
  );
  return async (source, variableValues = {}) => {
    const operation = createOperation({ database, channel, clock: systemClock() }, userId);
    const contextValue: Context = {
      principal: { userId, expiresAt: Number.POSITIVE_INFINITY },
      operation,
      clientAddress: null,
      signal: new AbortController().signal,
      readEvents: () => Promise.reject(new Error('events are read over HTTP only')),
      rates,
      takeCostly: async () => undefined,
      tools,
      memory: { vectors: null, embeddingModel: 'none', embedTimeout: 1 },
      modelFor: () => ({ chat: refuse, embed: refuse }),
      mutate: (field, work) => operation.write((write) => once(write, { key: null, ...field }, () => work(write))),
    };
    try {
      const { data = null, errors = [] } = await graphql({ schema, source, variableValues, contextValue });
      const told = errors.map((error) => toClientError(error, () => log, 'none').toJSON());
      return {
        status: 200,
        data,
        errors: told.map(({ message, path, extensions = {} }) => ({ message, path: [...(path ?? [])], extensions })),
      };
    } finally {
      await operation.close();
    }
  };
}

/**
 * The same database for services that forgot whose rows they want: every condition on the user is taken out of their
 * SQL. What Prisma and functions of the database ask keeps its own conditions.
 */
export function withoutUserFilter(database: Database): Database {
  const forget = (transaction: Transaction): Transaction => ({
    ...transaction,
    query: (prepared, values) => {
      const { name, text } = statement(prepared.text.replace(/(\w+\.)?user_id = \$1\b/g, () => '$1::uuid IS NOT NULL'));
      return transaction.query({ ...prepared, name, text }, values);
    },
  });
  return { ...database, begin: async (mode, userId) => forget(await database.begin(mode, userId)) };
}

async function refuse(): Promise<never> {
  throw new Error('there is no model to ask');
}
