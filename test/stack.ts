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
    qdrantUrl: string | null;
    /** Program to run Chromium, or the reason why there is none. */
    chromium: { path: string } | { missing: string };
  }
}

/** Starts real Postgres, Redis and Qdrant once for all test files, and makes the database that each file copies. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const dataFolder = '.retinue/test';
  await mkdir(dataFolder, { recursive: true });
  const stack = await startStack({
    dataFolder,
    redisUrl: process.env['REDIS_URL'],
    // Tests prove behaviour over killed processes, not over a lost power supply.
    postgresSettings: { fsync: 'off', max_connections: '400' },
  });
  const { ownerUrl, ownerPassword } = stack.postgres;
  const { default: pg } = await import('pg');
  const client = new pg.Client({ connectionString: ownerUrl });
  await client.connect();
  // Runs may share the servers, so each has names of its own; what runs that are over left behind goes.
  const left = await client.query(`SELECT datname FROM pg_database WHERE datname ~ '^test_[0-9]+_'`);
  for (const { datname } of left.rows as { datname: string }[]) {
    if (!isRunning(Number(datname.split('_')[1]))) {
      await client.query(`DROP DATABASE IF EXISTS ${client.escapeIdentifier(datname)} WITH (FORCE)`);
    }
  }
  const templateName = `test_${process.pid}_template`;
  await client.query(`DROP DATABASE IF EXISTS ${templateName} WITH (FORCE)`);
  await client.query(`CREATE DATABASE ${templateName}`);
  await client.end();
  const template = new URL(ownerUrl);
  template.pathname = `/${templateName}`;
  await migrate({ ownerUrl: template.href, direction: 'up' });
  const urls = roleUrls(template.href, ownerPassword);
  await allowLogin(template.href, urls.app);
  await allowLogin(template.href, urls.worker);
  project.provide('templateUrl', template.href);
  project.provide('ownerPassword', ownerPassword);
  project.provide('redisUrl', stack.redisUrl);
  project.provide('qdrantUrl', stack.qdrantUrl);
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

function isRunning(processId: number): boolean {
  try {
    process.kill(processId, 0);
    return true;
  } catch {
    return false;
  }
}
