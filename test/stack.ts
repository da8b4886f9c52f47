import { mkdir } from 'node:fs/promises';
import type { TestProject } from 'vitest/node';
import { findOrInstallChromium } from '../dev/chromium.ts';
import { roleUrls } from '../dev/local.ts';
import { startStack } from '../dev/stack.ts';
import { allowLogin, migrate } from '../prisma/migrate.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    /** Superuser URL of a database that holds the migrated schema and no data: copy it, never write to it. */
    templateUrl: string;
    ownerPassword: string;
    redisUrl: string | null;
    /** Program to run Chromium, or the reason why there is none. */
    chromium: { path: string } | { missing: string };
  }
}

/** Starts real Postgres and Redis once for all test files, and makes the database that each file copies. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const dataFolder = '.retinue/test';
  await mkdir(dataFolder, { recursive: true });
  const stack = await startStack({
    dataFolder,
    qdrant: false,
    redisUrl: process.env['REDIS_URL'],
    // Tests prove behaviour over killed processes, not over a lost power supply.
    postgresSettings: { fsync: 'off', max_connections: '400' },
  });
  const { ownerUrl, ownerPassword } = stack.postgres;
  const { default: pg } = await import('pg');
  const client = new pg.Client({ connectionString: ownerUrl });
  await client.connect();
  await client.query('DROP DATABASE IF EXISTS retinue_template WITH (FORCE)');
  await client.query('CREATE DATABASE retinue_template');
  // Databases that an interrupted run left behind.
  const left = await client.query(`SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%'`);
  for (const { datname } of left.rows) {
    await client.query(`DROP DATABASE ${client.escapeIdentifier(datname)} WITH (FORCE)`);
  }
  await client.end();
  const template = new URL(ownerUrl);
  template.pathname = '/retinue_template';
  await migrate({ ownerUrl: template.href, direction: 'up' });
  const urls = roleUrls(template.href, ownerPassword);
  await allowLogin(template.href, urls.app);
  await allowLogin(template.href, urls.worker);
  project.provide('templateUrl', template.href);
  project.provide('ownerPassword', ownerPassword);
  project.provide('redisUrl', stack.redisUrl);
  project.provide('chromium', await findChromium(dataFolder));
  return () => stack.stop();
}

async function findChromium(dataFolder: string): Promise<{ path: string } | { missing: string }> {
  const say = (line: string): void => void process.stderr.write(`${line}\n`);
  try {
    return { path: await findOrInstallChromium(dataFolder, say) };
  } catch (error) {
    const missing = error instanceof Error ? error.message : String(error);
    say(`Tests in a browser can't run: ${missing}.`);
    return { missing };
  }
}
