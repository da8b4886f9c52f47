import { setTimeout as delay } from 'node:timers/promises';
import type { TestDatabase } from '../service.ts';

/**
 * Compares the counts of lanes and tenants with the tasks as they are, and with the limits, in one snapshot: so it holds
 * at any moment, also while others work. @returns a line for each count that is wrong and each limit that is passed
 */
export async function auditCounts(database: Pick<TestDatabase, 'owner'>): Promise<string[]> {
  const rows = await database.owner(`
    WITH real_lanes AS (
      SELECT lanes.user_id, lanes.id,
        count(*) FILTER (WHERE tasks.state = 'BLOCKED') AS blocked,
        count(*) FILTER (WHERE tasks.state = 'QUEUED') AS queued,
        count(*) FILTER (WHERE tasks.state = 'RETRYING') AS retrying,
        count(*) FILTER (WHERE tasks.state = 'RUNNING') AS running
      FROM lanes LEFT JOIN tasks ON tasks.user_id = lanes.user_id AND tasks.lane_id = lanes.id
      GROUP BY lanes.user_id, lanes.id
    ), real_tenants AS (
      SELECT tenants.user_id,
        coalesce(sum(real_lanes.queued), 0) AS queued,
        coalesce(sum(real_lanes.running), 0) AS running,
        count(*) FILTER (
          WHERE real_lanes.queued > 0 AND real_lanes.running < lanes.max_running AND NOT lanes.waits_for_turn
        ) AS ready_lanes
      FROM tenants
      LEFT JOIN real_lanes ON real_lanes.user_id = tenants.user_id
      LEFT JOIN lanes ON lanes.user_id = real_lanes.user_id AND lanes.id = real_lanes.id
      GROUP BY tenants.user_id
    )
    SELECT format('lane %s counts %s/%s/%s/%s blocked/queued/retrying/running, there are %s/%s/%s/%s', lanes.id,
      lanes.blocked, lanes.queued, lanes.retrying, lanes.running, real.blocked, real.queued, real.retrying, real.running) AS line
    FROM lanes JOIN real_lanes AS real ON real.user_id = lanes.user_id AND real.id = lanes.id
    WHERE (lanes.blocked, lanes.queued, lanes.retrying, lanes.running)
      IS DISTINCT FROM (real.blocked, real.queued, real.retrying, real.running)
    UNION ALL
    SELECT format('tenant %s counts %s/%s/%s queued/running/ready lanes, there are %s/%s/%s', tenants.user_id,
      tenants.queued, tenants.running, tenants.ready_lanes, real.queued, real.running, real.ready_lanes)
    FROM tenants JOIN real_tenants AS real ON real.user_id = tenants.user_id
    WHERE (tenants.queued, tenants.running, tenants.ready_lanes)
      IS DISTINCT FROM (real.queued, real.running, real.ready_lanes)
    UNION ALL
    SELECT format('lane %s runs %s of at most %s', lanes.id, real.running, lanes.max_running)
    FROM lanes JOIN real_lanes AS real ON real.user_id = lanes.user_id AND real.id = lanes.id
    WHERE real.running > lanes.max_running
    UNION ALL
    SELECT format('tenant %s runs %s of at most %s', tenants.user_id, real.running, tenants.max_running)
    FROM tenants JOIN real_tenants AS real ON real.user_id = tenants.user_id
    WHERE real.running > tenants.max_running
    UNION ALL
    SELECT format('lane %s is passed over although it is the turn of task %s', lanes.id, tasks.id)
    FROM lanes JOIN tasks ON tasks.user_id = lanes.user_id AND tasks.lane_id = lanes.id AND tasks.state = 'QUEUED'
    WHERE lanes.waits_for_turn AND NOT EXISTS (
      SELECT FROM tasks AS earlier
      WHERE earlier.user_id = tasks.user_id AND earlier.session_id = tasks.session_id
        AND earlier.session_order < tasks.session_order
        AND earlier.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
    )
    UNION ALL
    SELECT format('task %s is %s without a lane', id, state) FROM tasks
    WHERE lane_id IS NULL AND state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')`);
  return rows.map((row) => String(row['line']));
}

/**
 * Looks at the counts again and again, with a pause in between (milliseconds), until told to stop.
 * @returns a function that ends it and gives what was wrong
 */
export function auditContinuously(
  database: Pick<TestDatabase, 'owner'>,
  pause = 0,
): () => Promise<{ looks: number; wrong: string[] }> {
  const wrong = new Set<string>();
  const stop = new AbortController();
  let looks = 0;
  const looking = (async () => {
    while (!stop.signal.aborted) {
      for (const line of await auditCounts(database)) {
        wrong.add(line);
      }
      looks += 1;
      await delay(pause, undefined, { signal: stop.signal }).catch(() => undefined);
    }
  })();
  return async () => {
    stop.abort();
    await looking;
    return { looks, wrong: [...wrong] };
  };
}
