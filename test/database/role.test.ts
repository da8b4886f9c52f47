import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDevelopmentKey, developmentIssuer } from '../../dev/identity.ts';
import { createLog } from '../../src/adapters/log.ts';
import { startApi, startTaskWorker } from '../../src/app.ts';
import { type Config, readConfig } from '../../src/config.ts';
import { createTestDatabase, type TestDatabase } from '../service.ts';

/** Roles belong to the whole cluster, so that each run names its own. */
const suffix = randomBytes(4).toString('hex');
const password = randomBytes(12).toString('hex');
const stranger = `stranger_${suffix}`;
const log = createLog({ level: 'silent' });

let database: TestDatabase;
let owner: pg.Client;
let publicKey: string;

beforeAll(async () => {
  database = await createTestDatabase();
  owner = new pg.Client({ connectionString: database.ownerUrl });
  await owner.connect();
  publicKey = JSON.stringify((await createDevelopmentKey()).publicKey);
});
afterAll(async () => {
  await owner?.end();
  await database?.drop();
});

function configFor(url: string): Config {
  return readConfig({
    DATABASE_URL: url,
    WORKER_DATABASE_URL: url,
    MODEL_BASE_URL: 'http://127.0.0.1:1/v1',
    MODEL_API_KEY: 'none',
    MODEL_NAME: 'none',
    TOKEN_ISSUER: developmentIssuer,
    TOKEN_PUBLIC_KEY: publicKey,
    PORT: '0',
  });
}

function urlOf(role: string): string {
  const url = new URL(database.ownerUrl);
  url.username = role;
  url.password = password;
  return url.href;
}

/** Makes roles, lets work use them, and takes them away again with all they were given. */
async function withRoles(sql: string, roles: string[], work: () => Promise<void>): Promise<void> {
  try {
    await owner.query(sql);
    await work();
  } finally {
    for (const role of roles) {
      await owner.query(`REASSIGN OWNED BY ${role} TO CURRENT_USER; DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  }
}

describe('a process of the service', () => {
  it.each([
    ['API', startApi, () => database.appUrl],
    ['worker', startTaskWorker, () => database.workerUrl],
  ])('starts as the role that is meant for it: %s', async (_name, start, url) => {
    const running = await start(configFor(url()), log);
    await running.stop();
  });

  it.each<[what: string, sql: string, more: string[], reason: RegExp]>([
    ['is a superuser', `CREATE ROLE ${stranger} LOGIN SUPERUSER`, [], /"stranger_\w+" is a superuser/],
    ['has BYPASSRLS', `CREATE ROLE ${stranger} LOGIN BYPASSRLS`, [], /"stranger_\w+" has BYPASSRLS/],
    [
      'owns a table',
      `CREATE ROLE ${stranger} LOGIN IN ROLE app_worker; ALTER TABLE messages OWNER TO ${stranger}`,
      [],
      /"stranger_\w+" owns tables \(messages\)/,
    ],
    [
      'is a member of a role that has BYPASSRLS',
      `CREATE ROLE strong_${suffix} BYPASSRLS; CREATE ROLE ${stranger} LOGIN IN ROLE strong_${suffix}`,
      [`strong_${suffix}`],
      /"strong_\w+" has BYPASSRLS/,
    ],
    [
      'may turn into a superuser, though it inherits nothing',
      `CREATE ROLE strong_${suffix} SUPERUSER; CREATE ROLE ${stranger} LOGIN;
        GRANT strong_${suffix} TO ${stranger} WITH INHERIT FALSE, SET TRUE`,
      [`strong_${suffix}`],
      /"strong_\w+" is a superuser/,
    ],
    [
      'is a member of the role that owns the tables, two steps away',
      `CREATE ROLE strong_${suffix}; ALTER TABLE agents OWNER TO strong_${suffix};
        CREATE ROLE between_${suffix} IN ROLE strong_${suffix}; CREATE ROLE ${stranger} LOGIN IN ROLE between_${suffix}`,
      [`strong_${suffix}`, `between_${suffix}`],
      /"strong_\w+" owns tables \(agents\)/,
    ],
    [
      'is a member of the engine, which sees the lanes of all users',
      `CREATE ROLE ${stranger} LOGIN IN ROLE app_user, app_queue`,
      [],
      /"app_queue" sees the rows of all users \(\w+(, \w+)*\)/,
    ],
    [
      'is a member of the role that looks up identities',
      `CREATE ROLE ${stranger} LOGIN IN ROLE app_user, app_identity`,
      [],
      /"app_identity" sees the rows of all users \(users\)/,
    ],
  ])('refuses a role that %s', async (_what, sql, more, reason) => {
    await withRoles(sql, [stranger, ...more], async () => {
      await owner.query(`ALTER ROLE ${stranger} PASSWORD '${password}'`);
      for (const start of [startApi, startTaskWorker]) {
        await expect(start(configFor(urlOf(stranger)), log)).rejects.toThrow(reason);
      }
    });
  });

  it('refuses the role that made the tables', async () => {
    await expect(startApi(configFor(database.ownerUrl), log)).rejects.toThrow(/Refusing to start: .* is a superuser/);
  });
});
