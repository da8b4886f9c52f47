import { DatabaseSync } from 'node:sqlite';
import { waitUntil } from './process.ts';

/**
 * Takes the lock that lets one process at a time start or stop the stack of a folder. SQLite's file lock is the one
 * kernel lock Node offers: it ends with its process, also by SIGKILL, so there is no stale lock to judge.
 *
 * @returns a function that gives the lock back.
 * @throws Error when another process still holds it after `deadlineMs`.
 */
export async function takeStartLock(file: string, deadlineMs: number): Promise<() => void> {
  const database = new DatabaseSync(file, { timeout: 0 });
  const isTaken = (): boolean => {
    try {
      database.exec('BEGIN EXCLUSIVE');
      return true;
    } catch (error) {
      if (/locked|busy/i.test(String(error))) return false;
      throw error;
    }
  };
  try {
    if (await waitUntil(isTaken, deadlineMs, 100)) return () => database.close();
  } catch (error) {
    database.close();
    throw error;
  }
  database.close();
  throw new Error(`Another process has been starting or stopping this stack for ${deadlineMs / 1_000} s (${file}).`);
}
