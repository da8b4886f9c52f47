import { v7 as uuidv7 } from 'uuid';
import type { Stack } from '../../dev/stack.ts';
import { createDatabase } from '../../src/adapters/postgres.ts';
import { claimTasks } from '../../src/queue/claim.ts';
import { createBenchDatabase } from '../database.ts';
import { median } from '../harness.ts';

/** How many lanes with something to claim there are while a claim is measured. */
export const laneCounts = [1_000, 10_000, 50_000] as const;

const lanesPerUser = 10;
const tasksPerLane = 2;
const claimSize = 20;

/** Measures what a claim costs with many ready lanes. @returns for each of `laneCounts` the medians of the rounds in ms */
export async function measureClaims(stack: Stack, rounds: number): Promise<Map<number, number[]>> {
  const bench = await createBenchDatabase(stack, 'queue_claim');
  const database = createDatabase({
    url: bench.workerUrl,
    poolSize: 1,
    connectionTimeout: 10_000,
    statementTimeout: 60_000,
    applicationName: 'bench',
    onError: () => undefined,
  });
  const claim = async (): Promise<number> => {
    const before = performance.now();
    const claims = await claimTasks(database, uuidv7(), claimSize, ['NOOP']);
    if (claims.length !== claimSize) {
      throw new Error(`a claim of ${claimSize} took ${claims.length}`);
    }
    return performance.now() - before;
  };
  const costs = new Map<number, number[]>();
  try {
    for (const lanes of laneCounts) {
      await bench.owner('TRUNCATE users CASCADE');
      for (const sql of seed(lanes)) {
        await bench.owner(sql);
      }
      await bench.owner('VACUUM (ANALYZE)');
      // With two tasks a lane, every lane stays ready however many claims there are.
      const claimsPerRound = Math.floor(lanes / claimSize / (rounds + 1));
      const measured: number[] = [];
      for (let round = 0; round <= rounds; round += 1) {
        const times: number[] = [];
        for (let place = 0; place < Math.min(claimsPerRound, 40); place += 1) {
          times.push(await claim());
        }
        if (round > 0) {
          measured.push(median(times));
        }
      }
      costs.set(lanes, measured);
    }
  } finally {
    await database.close();
    await bench.close();
  }
  return costs;
}

/** Fills the tables past the triggers that keep the counts: row by row they would take minutes for so many. */
function seed(lanes: number): string[] {
  const users = lanes / lanesPerUser;
  return [
    `DO $$ BEGIN
       SET LOCAL session_replication_role = replica;
       INSERT INTO users (issuer, subject) SELECT 'bench', n::text FROM generate_series(1, ${users}) AS n;
       INSERT INTO tenants (user_id, queued, ready_lanes, served_at)
         SELECT id, ${lanesPerUser * tasksPerLane}, ${lanesPerUser}, now() - random() * interval '1 hour' FROM users;
       INSERT INTO lanes (user_id, kind, queued, served_at)
         SELECT id, 'AGENT', ${tasksPerLane}, now() - random() * interval '1 hour'
         FROM users, generate_series(1, ${lanesPerUser});
       INSERT INTO tasks (user_id, kind, lane_id)
         SELECT user_id, 'NOOP', id FROM lanes, generate_series(1, ${tasksPerLane});
     END $$`,
  ];
}
