import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, isPassingFault, statement } from '../../src/adapters/postgres.ts';
import { scrape } from '../monitor/scrape.ts';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';

const poolSize = 10;
const poolTimeout = 500;
let service: TestService;
let alice: TestUser;

beforeAll(async () => {
  service = await startTestService({
    worker: false,
    environment: {
      POOL_SIZE: String(poolSize),
      POOL_TIMEOUT: String(poolTimeout),
      STATEMENT_TIMEOUT: '4000',
      METRICS_PORT: '0',
    },
  });
  alice = await service.user('alice');
  await alice.ask('{ viewer { id } }');
});
afterAll(() => service.stop());

/** Keeps everybody else from the agents until the work is done. */
async function whileAgentsAreLocked<Result>(work: (release: () => Promise<void>) => Promise<Result>): Promise<Result> {
  const holder = new pg.Client({ connectionString: service.database.ownerUrl });
  await holder.connect();
  try {
    await holder.query('BEGIN; LOCK TABLE agents IN ACCESS EXCLUSIVE MODE');
    return await work(async () => void (await holder.query('COMMIT')));
  } finally {
    await holder.end();
  }
}

const metric = async (series: string): Promise<number> =>
  (await scrape(service.api.monitorUrl)).get(`${series}{pool="api"}`) ?? 0;
const askAgents = () => alice.ask('{ agents(first: 1) { edges { node { id } } } }');

describe('an API whose connections are all taken', () => {
  it('refuses what waited too long, stays healthy, and recovers by itself', async () => {
    await whileAgentsAreLocked(async (release) => {
      const taken = Array.from({ length: poolSize }, askAgents);
      await waitFor('all connections to be taken', async () => {
        const values = await scrape(service.api.monitorUrl);
        return values.get('retinue_database_connections{pool="api",state="used"}') === poolSize;
      });

      const sent = performance.now();
      const [refused, ...others] = await Promise.all([
        askAgents(),
        alice.ask('mutation { createSession { session { id } } }'),
        // A user whom this process does not know yet needs the database already to sign in.
        service.user('bob').then((bob) => bob.ask('{ viewer { id } }')),
      ]);
      expect(performance.now() - sent).toBeGreaterThanOrEqual(poolTimeout - 10);
      for (const answer of [refused, ...others]) {
        expect(answer.status).toBe(503);
        expect(answer.headers.get('retry-after')).toBe('1');
        expect(answer.errors[0]?.extensions).toMatchObject({ code: 'SERVICE_BUSY', retryAfter: 1 });
      }
      expect(await metric('retinue_database_refused_total')).toBe(3);

      const health = await fetch(new URL('/health/ready', service.api.url));
      expect([health.status, await health.json()]).toEqual([200, expect.objectContaining({ status: 'ready' })]);

      await release();
      for (const answer of await Promise.all(taken)) {
        expect(answer.errors).toEqual([]);
      }
    });
    expect((await askAgents()).errors).toEqual([]);
    expect(await metric('retinue_database_waiting')).toBe(0);
  });

  it('gives up a statement that runs too long, and its connection serves the next one', async () => {
    await whileAgentsAreLocked(async () => {
      const answer = await askAgents();
      expect(answer.status).toBe(503);
      expect(answer.errors[0]?.extensions['code']).toBe('SERVICE_BUSY');
    });
    expect((await askAgents()).errors).toEqual([]);
  });
});

describe('a transaction that does nothing', () => {
  it('is ended by the server, and its connection is replaced', async () => {
    const database = createDatabase({
      url: service.database.appUrl,
      poolSize: 1,
      connectionTimeout: 2_000,
      statementTimeout: 100,
      applicationName: 'idle test',
      onError: () => undefined,
    });
    try {
      const idle = await database.begin('write', null);
      await idle.query(statement('SELECT 1'));
      await waitFor('the server to end it', async () => {
        const [row] = await service.database.owner(
          `SELECT count(*)::int AS left FROM pg_stat_activity WHERE application_name = 'idle test'`,
        );
        return row?.['left'] === 0;
      });
      const fault: unknown = await idle.commit().catch((error: unknown) => error);
      expect(isPassingFault(fault)).toBe(true);
      expect(await database.query(statement('SELECT 1 AS one'))).toEqual([{ one: 1 }]);
    } finally {
      await database.close();
    }
  });
});
