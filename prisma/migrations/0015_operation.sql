-- What operators see: the request and trace that a task came from, and how much work is open over all users.
-- Up Migration

ALTER TABLE tasks ADD COLUMN request_id text CHECK (length(request_id) <= 64);
ALTER TABLE tasks ADD COLUMN traceparent text CHECK (length(traceparent) = 55);

-- Held tasks are the only open ones without an index of their own; they are few beside those that ended.
CREATE INDEX tasks_held_idx ON tasks (state) WHERE state IN ('BLOCKED', 'WAITING');

-- Counts over all users, by what is counted. It tells how many and how old, never whose.
CREATE FUNCTION queue.census(lease interval) RETURNS TABLE (noun text, state text, amount bigint, oldest_seconds double precision)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  SELECT 'task', open.state::text, count(*),
    coalesce(extract(epoch FROM clock_timestamp() - min(open.since)), 0)::float8
  FROM (
    SELECT state, due_at AS since FROM tasks WHERE state = 'QUEUED' AND due_at <= clock_timestamp()
    UNION ALL SELECT state, due_at FROM tasks WHERE state = 'RETRYING'
    UNION ALL SELECT state, coalesce(started_at, due_at) FROM tasks WHERE state = 'RUNNING'
    UNION ALL SELECT state, due_at FROM tasks WHERE state IN ('BLOCKED', 'WAITING')
  ) AS open
  GROUP BY open.state
  UNION ALL
  SELECT 'approval', 'PENDING', count(*), 0 FROM approvals WHERE approvals.state = 'PENDING'
  UNION ALL
  SELECT 'worker', 'ALIVE', count(*), 0 FROM workers WHERE workers.heartbeat_at > clock_timestamp() - lease
$$;
ALTER FUNCTION queue.census(interval) OWNER TO app_queue;
REVOKE ALL ON FUNCTION queue.census(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.census(interval) TO app_worker;

-- Down Migration

DROP FUNCTION queue.census(interval);
DROP INDEX tasks_held_idx;
ALTER TABLE tasks DROP COLUMN traceparent;
ALTER TABLE tasks DROP COLUMN request_id;
