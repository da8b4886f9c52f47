import { createHash } from 'node:crypto';
import type { Dirent } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join, posix } from 'node:path';
import ignore, { type Ignore } from 'ignore';

/** A text file of a folder. */
export interface SyncedFile {
  /** Relative to the folder, with slashes. */
  path: string;
  /** SHA-256 of its bytes, in hexadecimal digits. */
  hash: string;
  bytes: number;
}

/** Larger files are left out: they are seldom written by hand, and one must fit into a request. */
export const largestFile = 500_000;

/** Rules of one .gitignore, which hold below its folder. */
interface Rules {
  below: string;
  rules: Ignore;
}

/**
 * All text files of a folder in the order of their paths' bytes, but for what .gitignore files leave out, files that are
 * too large, binary or not UTF-8, and links: a link may lead out of the folder.
 */
export async function readFolder(
  folder: string,
  signal: AbortSignal,
): Promise<{ files: SyncedFile[]; skipped: number }> {
  const files: SyncedFile[] = [];
  let skipped = 0;
  const walk = async (below: string, inherited: readonly Rules[]): Promise<void> => {
    signal.throwIfAborted();
    const own = await readRules(folder, below);
    const rules = own === null ? inherited : [...inherited, own];
    for (const entry of await readdir(join(folder, below), { withFileTypes: true })) {
      const path = posix.join(below, entry.name);
      if (isIgnored(rules, path, entry)) {
        continue;
      }
      if (entry.isDirectory()) {
        await walk(path, rules);
      } else if (entry.isFile()) {
        const file = await describeFile(folder, path);
        skipped += file === null ? 1 : 0;
        files.push(...(file === null ? [] : [file]));
      }
    }
  };
  await walk('', []);
  files.sort((one, other) => Buffer.compare(Buffer.from(one.path), Buffer.from(other.path)));
  return { files, skipped };
}

/** The text of a file; null when it is not the kind of text that can be remembered. */
export async function readText(folder: string, path: string): Promise<string | null> {
  const file = join(folder, path);
  if ((await stat(file)).size > largestFile) {
    return null;
  }
  const bytes = await readFile(file);
  if (bytes.includes(0)) {
    return null;
  }
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

async function describeFile(folder: string, path: string): Promise<SyncedFile | null> {
  // A file may be gone or forbidden by the time it is read: the next run sees it as it is then.
  const text = await readText(folder, path).catch(() => null);
  if (text === null || /\p{Cc}/u.test(path) || path.length > 1_000) {
    return null;
  }
  return { path, hash: createHash('sha256').update(text).digest('hex'), bytes: Buffer.byteLength(text) };
}

async function readRules(folder: string, below: string): Promise<Rules | null> {
  try {
    const rules = ignore().add(await readFile(join(folder, below, '.gitignore'), 'utf8'));
    return { below, rules };
  } catch {
    return null;
  }
}

function isIgnored(rules: readonly Rules[], path: string, entry: Dirent): boolean {
  if (entry.name === '.git') {
    return true;
  }
  let ignored = false;
  for (const { below, rules: own } of rules) {
    const relative = posix.relative(below, path);
    const verdict = own.test(entry.isDirectory() ? `${relative}/` : relative);
    // A rule further down has the last word.
    ignored = verdict.ignored || (ignored && !verdict.unignored);
  }
  return ignored;
}
