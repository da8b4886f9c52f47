import { setImmediate as nextTurn } from 'node:timers/promises';
import { type TestDatabase, waitFor } from '../service.ts';

/** Ends the connections of that name as the server does when it goes away, and returns when this process has heard of it. */
export async function loseConnections(database: TestDatabase, applicationName: string): Promise<void> {
  const ended = await database.owner(
    `SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = $1 AND datname = current_database()`,
    [applicationName],
  );
  const pids = ended.map((row) => row['pid']);
  await waitFor('the connections to end', async () => {
    const left = await database.owner('SELECT FROM pg_stat_activity WHERE pid = ANY ($1::int[])', [pids]);
    return left.length === 0;
  });
  // What the others were told arrived before that answer; behind this turn of the loop it is heard.
  await nextTurn();
}
