-- The end of many attempts at once, for work that no user watches.
-- Up Migration

CREATE POLICY engine ON task_dependencies FOR SELECT TO app_queue USING (true);
GRANT SELECT (user_id, parent_id) ON task_dependencies TO app_queue;
GRANT UPDATE (progress, finished_at) ON tasks TO app_queue;

-- Completes attempts of one worker, of many users in one statement. It works for several users, so it waits for no lock:
-- what someone holds is left, as is what others wait for, and named in the result for the worker to end one by one.
-- An attempt that is no longer the newest is neither changed nor named.
CREATE FUNCTION queue.complete(holding_worker uuid, given_tasks uuid[], given_attempts integer[])
  RETURNS TABLE (task_id uuid)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  owners uuid[];
  held uuid[];
BEGIN
  SELECT array_agg(mine.user_id), array_agg(mine.id) INTO owners, held FROM (
    SELECT tasks.user_id, tasks.id
    FROM unnest(given_tasks, given_attempts) AS given (id, attempt)
    JOIN tasks ON tasks.id = given.id AND tasks.attempt = given.attempt
    JOIN lanes ON lanes.user_id = tasks.user_id AND lanes.id = tasks.lane_id
    JOIN tenants ON tenants.user_id = tasks.user_id
    WHERE tasks.worker_id = holding_worker AND tasks.state = 'RUNNING' AND tasks.session_order IS NULL
    FOR NO KEY UPDATE OF lanes, tenants SKIP LOCKED
  ) AS mine;
  -- A fresh statement sees the tasks as they are now that their lanes are held.
  UPDATE tasks SET state = 'COMPLETED', worker_id = NULL, progress = 1, finished_at = clock_timestamp()
  FROM unnest(owners, held) AS mine (user_id, id), unnest(given_tasks, given_attempts) AS given (id, attempt)
  WHERE tasks.user_id = mine.user_id AND tasks.id = mine.id AND given.id = mine.id AND tasks.attempt = given.attempt
    AND tasks.worker_id = holding_worker AND tasks.state = 'RUNNING'
    AND NOT EXISTS (
      SELECT FROM task_dependencies AS link WHERE link.user_id = tasks.user_id AND link.parent_id = tasks.id
    );
  RETURN QUERY
    SELECT tasks.id FROM tasks
    JOIN unnest(given_tasks, given_attempts) AS given (id, attempt) ON given.id = tasks.id AND given.attempt = tasks.attempt
    WHERE tasks.worker_id = holding_worker AND tasks.state = 'RUNNING';
END
$$;
ALTER FUNCTION queue.complete(uuid, uuid[], integer[]) OWNER TO app_queue;
REVOKE ALL ON FUNCTION queue.complete(uuid, uuid[], integer[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.complete(uuid, uuid[], integer[]) TO app_worker;

-- Down Migration

DROP FUNCTION queue.complete(uuid, uuid[], integer[]);
REVOKE UPDATE (progress, finished_at) ON tasks FROM app_queue;
REVOKE SELECT (user_id, parent_id) ON task_dependencies FROM app_queue;
DROP POLICY engine ON task_dependencies;
