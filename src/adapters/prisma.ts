import { AsyncLocalStorage } from 'node:async_hooks';
import { createHash } from 'node:crypto';
import { PrismaPg } from '@prisma/adapter-pg';
import pg from 'pg';
import { type Prisma, PrismaClient } from '../generated/prisma/client.ts';

export type PrismaTransaction = Prisma.TransactionClient;

export interface PrismaBinding {
  /** Puts Prisma's client over a connection whose transaction is already open and stays ours to end. */
  bind(client: pg.PoolClient): Promise<{ transaction: PrismaTransaction; finish: () => Promise<void> }>;
  close(): Promise<void>;
}

/** Longer than any transaction may live by the server's own limits, in milliseconds. */
const longestTransaction = 600_000;
const transactionCommands = new Set(['BEGIN', 'COMMIT', 'ROLLBACK']);

/**
 * Prisma opens its own transactions on its own connections. Ours carry the user's id from their first statement on, so
 * Prisma is handed the connection of the transaction under way and its BEGIN and COMMIT are swallowed.
 */
export function createPrismaBinding(pool: pg.Pool): PrismaBinding {
  const borrowed = new AsyncLocalStorage<pg.PoolClient>();

  class BorrowedPool extends pg.Pool {
    // The declared overloads include a callback form, which Prisma's adapter does not use.
    override connect(): Promise<pg.PoolClient>;
    override connect(): never;
    override connect(): Promise<pg.PoolClient> {
      const client = borrowed.getStore();
      return client === undefined
        ? Promise.reject(new Error('Prisma may be used inside a transaction of ours only'))
        : Promise.resolve(withoutTransactionCommands(client));
    }
  }

  const client = new PrismaClient({
    adapter: new PrismaPg(new BorrowedPool(pool.options), { statementNameGenerator: ({ sql }) => statementName(sql) }),
    errorFormat: 'minimal',
  });

  return {
    bind: (connection) =>
      borrowed.run(connection, () => {
        const { promise: finished, resolve: finish } = Promise.withResolvers<void>();
        return new Promise((resolve, reject) => {
          const done = client.$transaction(
            async (transaction) => {
              resolve({
                transaction,
                finish: async () => {
                  finish();
                  await done;
                },
              });
              await finished;
            },
            { timeout: longestTransaction },
          );
          done.catch(reject);
        });
      }),
    close: () => client.$disconnect(),
  };
}

function statementName(sql: string): string {
  return createHash('sha256').update(sql).digest('base64url').slice(0, 24);
}

function withoutTransactionCommands(client: pg.PoolClient): pg.PoolClient {
  const nothing = { rows: [], fields: [], rowCount: 0 };
  return new Proxy(client, {
    get: (target, property) => {
      if (property === 'release') {
        return () => undefined;
      }
      if (property === 'query') {
        return (query: pg.QueryConfig) =>
          transactionCommands.has(query.text) ? Promise.resolve(nothing) : target.query(query);
      }
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

/** The data model's names are the columns' names in camel case; a test holds the two together. */
export function columnName(field: string): string {
  return field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** SQL for columns under the names of the data model. */
export function columnsOf(fields: Readonly<Record<string, string>>): string {
  return Object.keys(fields)
    .map((field) => `${columnName(field)} AS "${field}"`)
    .join(', ');
}
