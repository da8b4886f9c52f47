-- A task that can run at once is given to a worker in the commit that adds it: nobody has to claim it, which takes a commit
-- and a way to the worker more.
-- Up Migration

ALTER TABLE workers
  -- How many tasks it takes unasked: what it said last, less those that it was given since.
  ADD COLUMN open_slots integer NOT NULL DEFAULT 0,
  ADD COLUMN kinds text[] NOT NULL DEFAULT '{}',
  -- Whose live messages reach it: those who say the same of themselves.
  ADD COLUMN reach text;
ALTER TABLE workers SET (fillfactor = 50);

-- Says how many tasks of which kinds a worker takes unasked: as many as it has slots for which no task stands as its own.
-- A row that someone is just taking a slot from is left as it is, so that a worker never waits here. An offer that is lost
-- with the server is made again by the next claim.
CREATE FUNCTION queue.offer(offering_worker uuid, slots integer, offered_kinds text[], offered_reach text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
  AS $$
DECLARE
  free integer := greatest(0, slots - (
    SELECT count(*) FROM tasks WHERE tasks.worker_id = offering_worker AND tasks.state = 'RUNNING'
  )::integer);
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  UPDATE workers SET open_slots = free, kinds = offered_kinds, reach = offered_reach
  WHERE workers.id = (
    SELECT workers.id FROM workers
    WHERE workers.id = offering_worker
      AND (workers.open_slots <> free OR workers.kinds <> offered_kinds OR workers.reach IS DISTINCT FROM offered_reach)
    FOR NO KEY UPDATE SKIP LOCKED
  );
END
$$;

-- Takes a slot of a worker for a new task of the caller's, whose lane the caller has locked: where a claim would find the task
-- at once. The limits of lane and user hold as they do for a claim: both are locked until the commit. A claim passes over the
-- user meanwhile, so that a user who has something queued gets no worker here: the commit then wakes all of them.
-- Null leaves the task to the queue.
CREATE FUNCTION queue.take_worker(taken_lane uuid, taken_kind text, taken_reach text) RETURNS uuid
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
  AS $$
DECLARE
  caller uuid := app.user_id();
  taken uuid;
BEGIN
  PERFORM FROM lanes
  WHERE lanes.user_id = caller AND lanes.id = taken_lane AND lanes.running < lanes.max_running;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  PERFORM FROM tenants
  WHERE tenants.user_id = caller AND tenants.queued = 0 AND tenants.running < tenants.max_running
  FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  UPDATE workers SET open_slots = workers.open_slots - 1
  WHERE workers.id = (
    SELECT workers.id FROM workers
    WHERE workers.open_slots > 0 AND workers.reach = taken_reach AND taken_kind = ANY (workers.kinds)
      AND workers.heartbeat_at > clock_timestamp() - interval '10 seconds'
    ORDER BY workers.open_slots DESC, workers.id
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
  )
  RETURNING workers.id INTO taken;
  RETURN taken;
END
$$;

-- Queues a task that was given to a worker whom the news did not reach. An attempt that has begun stays where it is.
CREATE FUNCTION queue.take_back(given_task uuid, given_attempt integer) RETURNS boolean
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

ALTER FUNCTION queue.offer(uuid, integer, text[], text) OWNER TO app_queue;
ALTER FUNCTION queue.take_worker(uuid, text, text) OWNER TO app_queue;
REVOKE ALL ON FUNCTION queue.offer(uuid, integer, text[], text), queue.take_worker(uuid, text, text),
  queue.take_back(uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.offer(uuid, integer, text[], text) TO app_worker;
GRANT EXECUTE ON FUNCTION queue.take_worker(uuid, text, text), queue.take_back(uuid, integer) TO app_user;

-- Down Migration

DROP FUNCTION queue.take_back(uuid, integer);
DROP FUNCTION queue.take_worker(uuid, text, text);
DROP FUNCTION queue.offer(uuid, integer, text[], text);
ALTER TABLE workers RESET (fillfactor);
ALTER TABLE workers DROP COLUMN reach, DROP COLUMN kinds, DROP COLUMN open_slots;
