import { randomBytes } from 'node:crypto';
import { access, chown, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client } from 'pg';
import { type PostgresPlace, preparePostgresPlace } from './postgres-binaries.ts';
import {
  findProcessesIn,
  identifyProcess,
  type ProcessIdentity,
  readLogEnd,
  type ServerProcess,
  type StopStep,
  startOnFreePort,
  startServer,
  stopProcess,
  waitUntil,
  waitUntilReady,
} from './process.ts';

// SIGINT is Postgres' fast stop, SIGQUIT its immediate one (recovery at the next start).
export const POSTGRES_STOP_STEPS: readonly StopStep[] = [
  ['SIGINT', 15_000],
  ['SIGQUIT', 5_000],
];
const INITDB_DEADLINE_MS = 60_000;
const READY_DEADLINE_MS = 60_000;
const OWNER = 'retinue';
const DATABASE = 'retinue';
const MAJOR_VERSION = '18';

export interface PostgresServer {
  readonly process: ServerProcess;
  readonly port: number;
  readonly ownerPassword: string;
  readonly passwordFile: string;
  readonly notice: string | null;
}

/**
 * Starts Postgres on the folder's data, which is created at the first start together with the database `retinue` and
 * its superuser of the same name.
 *
 * @throws Error when it won't start, with the end of its log.
 */
export async function startPostgres(options: {
  readonly dataFolder: string;
  readonly logFile: string;
  readonly preferredPort: number | null;
  readonly settings: Readonly<Record<string, string>>;
  readonly onSpawn: (identity: ProcessIdentity) => void;
}): Promise<PostgresServer> {
  const place = await preparePostgresPlace(options.dataFolder);
  const data = join(place.folder, 'data');
  const passwordFile = join(place.folder, 'owner-password');
  await clearEarlierRun(place.folder, data);
  if (!(await exists(join(data, 'PG_VERSION')))) await createCluster(place, data, passwordFile, options);
  const version = (await readFile(join(data, 'PG_VERSION'), 'utf8')).trim();
  if (version !== MAJOR_VERSION) {
    throw new Error(`${data} was written by Postgres ${version}, this is ${MAJOR_VERSION}: move the folder away.`);
  }
  const ownerPassword = (await readFile(passwordFile, 'utf8')).trim();
  return startOnFreePort(options.preferredPort, async (port) => {
    const settings: Readonly<Record<string, string>> = {
      listen_addresses: '127.0.0.1',
      port: String(port),
      unix_socket_directories: '',
      max_connections: '300',
      ...options.settings,
    };
    const server = await startServer({
      name: 'Postgres',
      command: join(place.binaries, 'bin', 'postgres'),
      args: ['-D', data, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
      folder: data,
      logFile: options.logFile,
      user: place.user,
      stopSteps: POSTGRES_STOP_STEPS,
      onSpawn: options.onSpawn,
    });
    try {
      // The password proves that it's this cluster that answers and not another one that took the port first.
      const isReady = (): Promise<boolean> => isPostgresReady(ownerUrl(port, ownerPassword, 'postgres'));
      await waitUntilReady(server, isReady, READY_DEADLINE_MS);
      await createDatabase(ownerUrl(port, ownerPassword, 'postgres'));
    } catch (error) {
      await server.stop();
      throw error;
    }
    return { process: server, port, ownerPassword, passwordFile, notice: place.notice };
  });
}

/** The address of the superuser's connection. */
export function ownerUrl(port: number, password: string, database: string = DATABASE): string {
  return `postgresql://${OWNER}:${password}@127.0.0.1:${port}/${database}`;
}

/** Whether Postgres at this address accepts the user and answers. */
export async function isPostgresReady(url: string): Promise<boolean> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 2_000, query_timeout: 5_000 });
  // Without a listener a connection that ends meanwhile would end this process.
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query('SELECT 1');
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function createDatabase(url: string): Promise<void> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 10_000, query_timeout: 30_000 });
  client.on('error', () => undefined);
  await client.connect();
  try {
    const found = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [DATABASE]);
    if (found.rowCount === 0) await client.query(`CREATE DATABASE ${DATABASE}`);
  } finally {
    await client.end();
  }
}

async function createCluster(
  place: PostgresPlace,
  data: string,
  passwordFile: string,
  options: Parameters<typeof startPostgres>[0],
): Promise<void> {
  // Built beside and renamed when finished, so that a kill in the middle leaves nothing that looks like a cluster.
  const unfinished = `${data}.unfinished`;
  await rm(unfinished, { recursive: true, force: true });
  await rm(data, { recursive: true, force: true });
  await mkdir(unfinished, { mode: 0o700 });
  await writeFile(passwordFile, `${randomBytes(24).toString('base64url')}\n`, { mode: 0o600 });
  if (place.user) {
    await chown(unfinished, place.user.uid, place.user.gid);
    await chown(passwordFile, place.user.uid, place.user.gid);
  }
  const initdb = await startServer({
    name: 'initdb',
    command: join(place.binaries, 'bin', 'initdb'),
    args: [
      `--pgdata=${unfinished}`,
      `--username=${OWNER}`,
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      // The built-in provider sorts and classifies Unicode alike everywhere, without the system's locales.
      '--locale=C',
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
      ...(options.settings['fsync'] === 'off' ? ['--no-sync'] : []),
    ],
    folder: place.folder,
    logFile: options.logFile,
    user: place.user,
    stopSteps: [['SIGTERM', 5_000]],
    onSpawn: options.onSpawn,
  });
  const ended = await waitUntil(initdb.hasExited, INITDB_DEADLINE_MS, 25);
  await initdb.stop();
  if (!ended || !(await exists(join(unfinished, 'global', 'pg_control'))) || initdb.exitCode() !== 0) {
    throw new Error(`initdb failed. The end of its log:\n${readLogEnd(options.logFile)}`);
  }
  await rename(unfinished, data);
}

/** Ends what a killed run left in the folder: the server itself, its orphaned children, and a lock that names neither. */
async function clearEarlierRun(folder: string, data: string): Promise<void> {
  const lockFile = join(data, 'postmaster.pid');
  const lock = await readFile(lockFile, 'utf8').catch(() => null);
  const pid = Number.parseInt(lock?.split('\n')[0] ?? '', 10);
  const processes = findProcessesIn(folder, /postgres|initdb/);
  const server = processes.find((identity) => identity.pid === pid);
  if (server) await stopProcess(server, POSTGRES_STOP_STEPS);
  // Orphaned children hold the shared memory; starting over them is what corrupts a cluster.
  for (const orphan of processes) await stopProcess(orphan, [['SIGQUIT', 2_000]]);
  // Postgres clears a lock whose process is gone by itself, but not one whose id now belongs to somebody else.
  // Only where processes can be told by folder is it certain that the id isn't a server's that still runs here.
  if (process.platform === 'linux' && lock !== null && identifyProcess(pid)) await rm(lockFile, { force: true });
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}
