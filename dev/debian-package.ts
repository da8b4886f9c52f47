import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access, rm, stat, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

const POLICY_FILE = '/usr/sbin/policy-rc.d';
const run = promisify(execFile);

export interface PackageInstallation {
  readonly name: string;
  /** Says why the package is wanted, at the head of every message. */
  readonly missing: string;
  /** A file that remembers a failure, so that it isn't repeated at every start. */
  readonly failureFile: string;
  /** How long one installation may take, in milliseconds. */
  readonly timeoutMs: number;
  readonly log: (line: string) => void;
}

/** The first of these programs on the PATH or in the usual folders, or null. */
export async function findProgram(names: readonly string[]): Promise<string | null> {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/local/bin', '/usr/bin', '/opt/homebrew/bin'];
  for (const name of names) {
    for (const folder of folders.filter((path) => path !== '')) {
      const file = join(folder, name);
      if (await isExecutable(file)) return file;
    }
  }
  return null;
}

/** Whether this file is a program. */
export async function isExecutable(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return (await stat(file)).isFile();
  } catch {
    return false;
  }
}

/**
 * Installs a package of Debian as root, without starting a service of it.
 *
 * @throws Error when this isn't Debian with root's rights, when it fails, or when it failed before.
 */
export async function installPackage(wanted: PackageInstallation): Promise<void> {
  const { name, missing, failureFile } = wanted;
  if (process.getuid?.() !== 0 || !(await isExecutable('/usr/bin/apt-get'))) throw new Error(missing);
  if (await exists(failureFile)) {
    throw new Error(`${missing}, and installing it failed before (remove ${failureFile} to try again)`);
  }
  wanted.log(`${missing}: installing the ${name} package of this system (once).`);
  // Debian starts a service as soon as its package is installed; this file, where there is none, forbids it.
  const forbidsService = !(await exists(POLICY_FILE));
  if (forbidsService) await writeFile(POLICY_FILE, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    await runInstallation(name, wanted.timeoutMs);
  } catch (error) {
    await writeFile(failureFile, String(error));
    throw new Error(`${missing}, and installing it failed: ${String(error).split('\n').slice(-3).join(' ')}`);
  } finally {
    if (forbidsService) await rm(POLICY_FILE, { force: true });
  }
}

async function runInstallation(name: string, timeoutMs: number): Promise<void> {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' };
  const lock = ['-o', 'DPkg::Lock::Timeout=60'];
  const install = ['install', '-y', '--no-install-recommends', ...lock, name];
  try {
    await run('apt-get', install, { env, timeout: timeoutMs });
  } catch {
    // The package list may be missing or old.
    await run('apt-get', ['update', ...lock], { env, timeout: 60_000 });
    await run('apt-get', install, { env, timeout: timeoutMs });
  }
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}
