-- What a worker takes unasked stands in several rows: with one, a sender held it until its commit, and of the messages that came
-- meanwhile each was left to the queue, a quarter of them with 50 users at once.
-- Up Migration

CREATE TABLE worker_places (
  worker_id uuid NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
  place integer NOT NULL,
  -- The part of the worker's open slots that is taken here.
  open_slots integer NOT NULL DEFAULT 0,
  PRIMARY KEY (worker_id, place)
) WITH (fillfactor = 50);
ALTER TABLE worker_places ENABLE ROW LEVEL SECURITY;
ALTER TABLE worker_places FORCE ROW LEVEL SECURITY;
CREATE POLICY engine ON worker_places FOR ALL TO app_queue USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON worker_places TO app_queue;

-- Says how many tasks of which kinds a worker takes unasked: as many as it has slots for which no task stands as its own. They are
-- spread over its places. One that someone is just taking a slot from is left as it is, so that a worker never waits here. An offer
-- that is lost with the server is made again by the next claim.
CREATE OR REPLACE FUNCTION queue.offer(offering_worker uuid, slots integer, offered_kinds text[], offered_reach text) RETURNS void
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
  WHERE workers.id = offering_worker
    AND (workers.open_slots <> free OR workers.kinds <> offered_kinds OR workers.reach IS DISTINCT FROM offered_reach);
  INSERT INTO worker_places (worker_id, place)
  SELECT offering_worker, place FROM generate_series(0, 3) AS place
  WHERE EXISTS (SELECT FROM workers WHERE workers.id = offering_worker)
    AND NOT EXISTS (SELECT FROM worker_places WHERE worker_places.worker_id = offering_worker);
  UPDATE worker_places SET open_slots = (free + 3 - held.place) / 4
  FROM (
    SELECT places.worker_id, places.place FROM worker_places AS places
    WHERE places.worker_id = offering_worker AND places.open_slots <> (free + 3 - places.place) / 4
    ORDER BY places.place
    FOR NO KEY UPDATE SKIP LOCKED
  ) AS held
  WHERE worker_places.worker_id = held.worker_id AND worker_places.place = held.place;
END
$$;

-- Takes a slot of a worker for a new task of the caller's, whose lane the caller has locked: where a claim would find the task
-- at once. The limits of lane and user hold as they do for a claim: both are locked until the commit. A claim passes over the
-- user meanwhile, so that a user who has something queued gets no worker here: the commit then wakes all of them.
-- Null leaves the task to the queue.
CREATE OR REPLACE FUNCTION queue.take_worker(taken_lane uuid, taken_kind text, taken_reach text) RETURNS uuid
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
  UPDATE worker_places SET open_slots = worker_places.open_slots - 1
  WHERE (worker_places.worker_id, worker_places.place) = (
    SELECT places.worker_id, places.place FROM worker_places AS places
    JOIN workers ON workers.id = places.worker_id
    WHERE places.open_slots > 0 AND workers.reach = taken_reach AND taken_kind = ANY (workers.kinds)
      AND workers.heartbeat_at > clock_timestamp() - interval '10 seconds'
    ORDER BY places.open_slots DESC, workers.open_slots DESC, places.worker_id, places.place
    LIMIT 1
    FOR NO KEY UPDATE OF places SKIP LOCKED
  )
  RETURNING worker_places.worker_id INTO taken;
  RETURN taken;
END
$$;

-- Down Migration

DROP TABLE worker_places;

CREATE OR REPLACE FUNCTION queue.offer(offering_worker uuid, slots integer, offered_kinds text[], offered_reach text) RETURNS void
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

CREATE OR REPLACE FUNCTION queue.take_worker(taken_lane uuid, taken_kind text, taken_reach text) RETURNS uuid
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
