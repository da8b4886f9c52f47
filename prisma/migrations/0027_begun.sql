-- A task that is given to a worker begins in the commit that adds it, so that the worker has nothing to store before it works.
-- Up Migration

-- Queues a task that was given to a worker whom nobody reaches, which its sender knows for certain. Were it wrong, the attempt
-- that is taken back could write nothing more.
CREATE OR REPLACE FUNCTION queue.take_back(given_task uuid, given_attempt integer) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
BEGIN
  PERFORM queue.lock_lanes(ARRAY[given_task]);
  UPDATE tasks SET state = 'QUEUED', worker_id = NULL
  WHERE tasks.user_id = app.user_id() AND tasks.id = given_task AND tasks.attempt = given_attempt AND tasks.state = 'RUNNING';
  RETURN FOUND;
END
$$;

-- Down Migration

CREATE OR REPLACE FUNCTION queue.take_back(given_task uuid, given_attempt integer) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
BEGIN
  PERFORM queue.lock_lanes(ARRAY[given_task]);
  UPDATE tasks SET state = 'QUEUED', worker_id = NULL
  WHERE tasks.user_id = app.user_id() AND tasks.id = given_task AND tasks.attempt = given_attempt
    AND tasks.state = 'RUNNING' AND tasks.deadline_at IS NULL;
  RETURN FOUND;
END
$$;
