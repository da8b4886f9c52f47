-- Orchestrated mode: plans as graphs of tasks, some of which wait for the end of others whatever came of them; the lanes of
-- orchestrators; and the cache of plans.
-- Up Migration

ALTER TYPE plan_state ADD VALUE 'EXPIRED';
ALTER TABLE plans
  ADD COLUMN fallback_message text,
  ADD COLUMN started_at timestamptz(3);
ALTER TABLE orchestrators
  ADD COLUMN max_unapproved_tasks integer NOT NULL DEFAULT 5 CHECK (max_unapproved_tasks BETWEEN 0 AND 100);

-- Orchestrators get a place in the engine, as agents have. Their owner would see none of them by force.
ALTER TABLE orchestrators NO FORCE ROW LEVEL SECURITY;
ALTER TABLE lanes NO FORCE ROW LEVEL SECURITY;
INSERT INTO lanes (user_id, id, kind, orchestrator_id, max_running)
  SELECT user_id, id, 'ORCHESTRATOR', id, 10 FROM orchestrators;
ALTER TABLE lanes FORCE ROW LEVEL SECURITY;
ALTER TABLE orchestrators FORCE ROW LEVEL SECURITY;

-- Plans that a model made, by a hash of everything it was told. Of one user each, and only for a time.
CREATE TABLE plan_cache (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  key text NOT NULL,
  tasks jsonb NOT NULL,
  expires_at timestamptz(3) NOT NULL,
  PRIMARY KEY (user_id, key)
);
SELECT app.isolate('plan_cache');
GRANT SELECT, INSERT, UPDATE, DELETE ON plan_cache TO app_user;

-- A link waits for its parent's success, or only for its end.
ALTER TABLE task_dependencies ADD COLUMN needs_success boolean NOT NULL DEFAULT true;

DROP FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz);
DROP FUNCTION queue.cancel(uuid[], uuid, uuid);
DROP FUNCTION queue.skip(uuid[]);
DROP FUNCTION queue.lock_for_end(uuid[], uuid, uuid);

-- Locks all that the end of tasks may change, in the one order that all use: the lanes of the tasks, of their dependants
-- and of tasks whose turn in the session may come, and more lanes where the caller is about to add tasks, then the
-- sessions. Beside given tasks it takes all that an agent, a session or a plan has open. From then on nobody adds a dependant to them, or a task to that agent or session. What was added
-- while this waited for a lock may stand in a lane that it has not locked: then the caller begins anew, to keep the order.
CREATE FUNCTION queue.lock_for_end(
  given_tasks uuid[], whole_agent uuid, whole_session uuid, whole_plan uuid, more_lanes uuid[], OUT ending uuid[], OUT dependants uuid[]
)
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  caller uuid := app.user_id();
  locked uuid[];
  needed uuid[];
BEGIN
  LOOP
    ending := given_tasks;
    IF whole_agent IS NOT NULL OR whole_session IS NOT NULL OR whole_plan IS NOT NULL THEN
      ending := ending || ARRAY (
        SELECT tasks.id FROM tasks
        WHERE tasks.user_id = caller AND (tasks.agent_id = whole_agent OR tasks.session_id = whole_session OR tasks.plan_id = whole_plan)
          AND tasks.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
      );
    END IF;
    dependants := ARRAY (
      WITH RECURSIVE below AS (
        SELECT link.task_id FROM task_dependencies AS link WHERE link.user_id = caller AND link.parent_id = ANY (ending)
        UNION
        SELECT link.task_id FROM below
        JOIN task_dependencies AS link ON link.user_id = caller AND link.parent_id = below.task_id
      )
      SELECT below.task_id FROM below
    );
    needed := ARRAY (
      SELECT tasks.lane_id FROM tasks
      WHERE tasks.user_id = caller AND tasks.id = ANY (ending || dependants) AND tasks.lane_id IS NOT NULL
      UNION
      SELECT next.lane_id FROM tasks
      JOIN tasks AS next ON next.user_id = caller AND next.session_id = tasks.session_id
        AND next.session_order > tasks.session_order AND next.state = 'QUEUED'
      WHERE tasks.user_id = caller AND tasks.id = ANY (ending) AND next.lane_id IS NOT NULL
      UNION
      SELECT lanes.id FROM lanes WHERE lanes.user_id = caller AND (lanes.agent_id = whole_agent OR lanes.id = ANY (more_lanes))
    );
    EXIT WHEN locked @> needed;
    IF locked IS NOT NULL THEN
      RAISE EXCEPTION 'a task was added to those that are about to end' USING ERRCODE = 'serialization_failure';
    END IF;
    PERFORM FROM lanes WHERE lanes.user_id = caller AND lanes.id = ANY (needed) ORDER BY lanes.id FOR NO KEY UPDATE;
    PERFORM FROM sessions
    WHERE sessions.user_id = caller AND sessions.id IN (
      SELECT tasks.session_id FROM tasks WHERE tasks.user_id = caller AND tasks.id = ANY (ending)
      UNION
      SELECT whole_session
    )
    ORDER BY sessions.id
    FOR NO KEY UPDATE;
    locked := needed;
  END LOOP;
END
$$;

-- Ends an attempt: COMPLETED frees the tasks that waited for it, FAILED skips those that need its success and frees the
-- others, RETRYING and WAITING leave them.
-- No row when the attempt is no longer the newest; nothing has changed then.
CREATE FUNCTION queue.end_attempt(
  ended_task uuid, ended_attempt integer, outcome task_state, failure_code text, failure_message text, retry_at timestamptz
) RETURNS TABLE (agent_id uuid, session_id uuid, plan_id uuid, answer_id uuid, running integer, released uuid[], skipped uuid[])
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  caller uuid := app.user_id();
  is_end boolean := outcome IN ('COMPLETED', 'FAILED');
  below uuid[] := '{}';
  lane uuid;
BEGIN
  IF is_end THEN
    SELECT dependants INTO below FROM queue.lock_for_end(ARRAY[ended_task], NULL, NULL, NULL, NULL);
  ELSE
    PERFORM queue.lock_lanes(ARRAY[ended_task]);
  END IF;
  UPDATE tasks SET state = outcome, worker_id = NULL, error_code = failure_code, error_message = failure_message,
    failures = tasks.failures + (outcome IN ('FAILED', 'RETRYING'))::integer,
    due_at = coalesce(retry_at, tasks.due_at),
    progress = CASE WHEN outcome = 'COMPLETED' THEN 1 ELSE tasks.progress END,
    waiting_since = CASE WHEN outcome = 'WAITING' THEN clock_timestamp() END,
    finished_at = CASE WHEN is_end THEN clock_timestamp() END
  WHERE tasks.user_id = caller AND tasks.id = ended_task AND tasks.attempt = ended_attempt AND tasks.state = 'RUNNING'
  RETURNING tasks.agent_id, tasks.session_id, tasks.plan_id, tasks.answer_id, tasks.lane_id
  INTO end_attempt.agent_id, end_attempt.session_id, end_attempt.plan_id, end_attempt.answer_id, lane;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  released := '{}';
  skipped := '{}';
  IF is_end AND cardinality(below) > 0 THEN
    IF outcome = 'FAILED' THEN
      skipped := queue.skip(ARRAY[ended_task]);
    END IF;
    released := queue.release(ended_task || skipped);
  END IF;
  SELECT lanes.running INTO end_attempt.running FROM lanes WHERE lanes.user_id = caller AND lanes.id = lane;
  RETURN NEXT;
END
$$;

-- Skips what is blocked and needs the success of tasks that ended without it, and all that needs the success of those.
CREATE FUNCTION queue.skip(ended_tasks uuid[]) RETURNS uuid[]
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  caller uuid := app.user_id();
  result uuid[] := '{}';
BEGIN
  IF cardinality(ended_tasks) > 0 THEN
    WITH RECURSIVE hopeless AS (
      SELECT link.task_id FROM task_dependencies AS link
      WHERE link.user_id = caller AND link.parent_id = ANY (ended_tasks) AND link.needs_success
      UNION
      SELECT link.task_id FROM hopeless
      JOIN task_dependencies AS link ON link.user_id = caller AND link.parent_id = hopeless.task_id AND link.needs_success
    ), skipped AS (
      UPDATE tasks SET state = 'SKIPPED', finished_at = clock_timestamp()
      FROM hopeless
      WHERE tasks.user_id = caller AND tasks.id = hopeless.task_id AND tasks.state = 'BLOCKED'
      RETURNING tasks.id
    )
    SELECT coalesce(array_agg(skipped.id), '{}') INTO result FROM skipped;
  END IF;
  RETURN result;
END
$$;

-- Queues those children of ended tasks that wait for nothing any more: parents whose success they need are completed, the
-- others have ended in any way.
CREATE FUNCTION queue.release(ended_tasks uuid[]) RETURNS uuid[]
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  caller uuid := app.user_id();
  result uuid[];
BEGIN
  WITH freed AS (
    UPDATE tasks SET state = 'QUEUED', due_at = clock_timestamp()
    WHERE tasks.user_id = caller AND tasks.state = 'BLOCKED'
      AND tasks.id IN (
        SELECT link.task_id FROM task_dependencies AS link
        WHERE link.user_id = caller AND link.parent_id = ANY (ended_tasks)
      )
      AND NOT EXISTS (
        SELECT FROM task_dependencies AS link
        JOIN tasks AS parent ON parent.user_id = caller AND parent.id = link.parent_id
        WHERE link.user_id = caller AND link.task_id = tasks.id AND parent.state <> 'COMPLETED'
          AND (link.needs_success OR parent.state NOT IN ('FAILED', 'CANCELLED', 'SKIPPED'))
      )
    RETURNING tasks.id
  )
  SELECT coalesce(array_agg(freed.id), '{}') INTO result FROM freed;
  RETURN result;
END
$$;

-- Cancels those of the given tasks that have not ended, and all that an agent, a session or a plan has open, skips what
-- needed their success and frees what only waited for their end. The agent or session gets no new task before the
-- caller's commit.
CREATE FUNCTION queue.cancel(
  given_tasks uuid[], whole_agent uuid, whole_session uuid, whole_plan uuid, more_lanes uuid[]
) RETURNS TABLE (task_id uuid, agent_id uuid, session_id uuid, plan_id uuid, became task_state)
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  caller uuid := app.user_id();
  doomed uuid[];
  below uuid[];
  skipped uuid[];
BEGIN
  SELECT ending, dependants INTO doomed, below
  FROM queue.lock_for_end(given_tasks, whole_agent, whole_session, whole_plan, more_lanes);
  RETURN QUERY
    UPDATE tasks SET state = 'CANCELLED', worker_id = NULL, waiting_since = NULL, finished_at = clock_timestamp()
    WHERE tasks.user_id = caller AND tasks.id = ANY (doomed)
      AND tasks.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
    RETURNING tasks.id, tasks.agent_id, tasks.session_id, tasks.plan_id, tasks.state;
  IF FOUND AND cardinality(below) > 0 THEN
    skipped := queue.skip(doomed);
    PERFORM queue.release(doomed || skipped);
    RETURN QUERY
      SELECT tasks.id, tasks.agent_id, tasks.session_id, tasks.plan_id, tasks.state
      FROM tasks WHERE tasks.user_id = caller AND tasks.id = ANY (skipped);
  END IF;
END
$$;

REVOKE ALL ON FUNCTION queue.lock_for_end(uuid[], uuid, uuid, uuid, uuid[]), queue.skip(uuid[]), queue.release(uuid[]),
  queue.cancel(uuid[], uuid, uuid, uuid, uuid[]),
  queue.end_attempt(uuid, integer, task_state, text, text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.lock_for_end(uuid[], uuid, uuid, uuid, uuid[]), queue.skip(uuid[]), queue.release(uuid[]),
  queue.cancel(uuid[], uuid, uuid, uuid, uuid[]),
  queue.end_attempt(uuid, integer, task_state, text, text, timestamptz) TO app_user;

-- Down Migration

DROP FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz);
DROP FUNCTION queue.cancel(uuid[], uuid, uuid, uuid, uuid[]);
DROP FUNCTION queue.release(uuid[]);
DROP FUNCTION queue.skip(uuid[]);
DROP FUNCTION queue.lock_for_end(uuid[], uuid, uuid, uuid, uuid[]);

-- Locks all that the end of tasks may change, in the one order that all use: the lanes of the tasks, of their dependants
-- and of tasks whose turn in the session may come, then the sessions. Beside given tasks it takes all that an agent or a
-- session has open. From then on nobody adds a dependant to them, or a task to that agent or session. What was added
-- while this waited for a lock may stand in a lane that it has not locked: then the caller begins anew, to keep the order.
CREATE FUNCTION queue.lock_for_end(
  given_tasks uuid[], whole_agent uuid, whole_session uuid, OUT ending uuid[], OUT dependants uuid[]
)
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  caller uuid := app.user_id();
  locked uuid[];
  needed uuid[];
BEGIN
  LOOP
    ending := given_tasks;
    IF whole_agent IS NOT NULL OR whole_session IS NOT NULL THEN
      ending := ending || ARRAY (
        SELECT tasks.id FROM tasks
        WHERE tasks.user_id = caller AND (tasks.agent_id = whole_agent OR tasks.session_id = whole_session)
          AND tasks.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
      );
    END IF;
    dependants := ARRAY (
      WITH RECURSIVE below AS (
        SELECT link.task_id FROM task_dependencies AS link WHERE link.user_id = caller AND link.parent_id = ANY (ending)
        UNION
        SELECT link.task_id FROM below
        JOIN task_dependencies AS link ON link.user_id = caller AND link.parent_id = below.task_id
      )
      SELECT below.task_id FROM below
    );
    needed := ARRAY (
      SELECT tasks.lane_id FROM tasks
      WHERE tasks.user_id = caller AND tasks.id = ANY (ending || dependants) AND tasks.lane_id IS NOT NULL
      UNION
      SELECT next.lane_id FROM tasks
      JOIN tasks AS next ON next.user_id = caller AND next.session_id = tasks.session_id
        AND next.session_order > tasks.session_order AND next.state = 'QUEUED'
      WHERE tasks.user_id = caller AND tasks.id = ANY (ending) AND next.lane_id IS NOT NULL
      UNION
      SELECT lanes.id FROM lanes WHERE lanes.user_id = caller AND lanes.agent_id = whole_agent
    );
    EXIT WHEN locked @> needed;
    IF locked IS NOT NULL THEN
      RAISE EXCEPTION 'a task was added to those that are about to end' USING ERRCODE = 'serialization_failure';
    END IF;
    PERFORM FROM lanes WHERE lanes.user_id = caller AND lanes.id = ANY (needed) ORDER BY lanes.id FOR NO KEY UPDATE;
    PERFORM FROM sessions
    WHERE sessions.user_id = caller AND sessions.id IN (
      SELECT tasks.session_id FROM tasks WHERE tasks.user_id = caller AND tasks.id = ANY (ending)
      UNION
      SELECT whole_session
    )
    ORDER BY sessions.id
    FOR NO KEY UPDATE;
    locked := needed;
  END LOOP;
END
$$;

-- Ends an attempt: COMPLETED frees the tasks that waited for it, FAILED skips them, RETRYING and WAITING leave them.
-- No row when the attempt is no longer the newest; nothing has changed then.
CREATE FUNCTION queue.end_attempt(
  ended_task uuid, ended_attempt integer, outcome task_state, failure_code text, failure_message text, retry_at timestamptz
) RETURNS TABLE (agent_id uuid, session_id uuid, answer_id uuid, running integer, released uuid[], skipped uuid[])
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  caller uuid := app.user_id();
  is_end boolean := outcome IN ('COMPLETED', 'FAILED');
  below uuid[] := '{}';
  lane uuid;
BEGIN
  IF is_end THEN
    SELECT dependants INTO below FROM queue.lock_for_end(ARRAY[ended_task], NULL, NULL);
  ELSE
    PERFORM queue.lock_lanes(ARRAY[ended_task]);
  END IF;
  UPDATE tasks SET state = outcome, worker_id = NULL, error_code = failure_code, error_message = failure_message,
    failures = tasks.failures + (outcome IN ('FAILED', 'RETRYING'))::integer,
    due_at = coalesce(retry_at, tasks.due_at),
    progress = CASE WHEN outcome = 'COMPLETED' THEN 1 ELSE tasks.progress END,
    waiting_since = CASE WHEN outcome = 'WAITING' THEN clock_timestamp() END,
    finished_at = CASE WHEN is_end THEN clock_timestamp() END
  WHERE tasks.user_id = caller AND tasks.id = ended_task AND tasks.attempt = ended_attempt AND tasks.state = 'RUNNING'
  RETURNING tasks.agent_id, tasks.session_id, tasks.answer_id, tasks.lane_id
  INTO end_attempt.agent_id, end_attempt.session_id, end_attempt.answer_id, lane;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  released := '{}';
  skipped := '{}';
  IF outcome = 'COMPLETED' AND cardinality(below) > 0 THEN
    WITH freed AS (
      UPDATE tasks SET state = 'QUEUED', due_at = clock_timestamp()
      WHERE tasks.user_id = caller AND tasks.id = ANY (below) AND tasks.state = 'BLOCKED'
        AND NOT EXISTS (
          SELECT FROM task_dependencies AS link
          JOIN tasks AS parent ON parent.user_id = caller AND parent.id = link.parent_id
          WHERE link.user_id = caller AND link.task_id = tasks.id AND parent.state <> 'COMPLETED'
        )
      RETURNING tasks.id
    )
    SELECT coalesce(array_agg(freed.id), '{}') INTO released FROM freed;
  ELSIF outcome = 'FAILED' THEN
    skipped := queue.skip(below);
  END IF;
  SELECT lanes.running INTO end_attempt.running FROM lanes WHERE lanes.user_id = caller AND lanes.id = lane;
  RETURN NEXT;
END
$$;

-- Skips those of the given tasks that are still blocked.
CREATE FUNCTION queue.skip(candidates uuid[]) RETURNS uuid[]
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  result uuid[] := '{}';
BEGIN
  IF cardinality(candidates) > 0 THEN
    WITH skipped AS (
      UPDATE tasks SET state = 'SKIPPED', finished_at = clock_timestamp()
      WHERE tasks.user_id = app.user_id() AND tasks.id = ANY (candidates) AND tasks.state = 'BLOCKED'
      RETURNING tasks.id
    )
    SELECT coalesce(array_agg(skipped.id), '{}') INTO result FROM skipped;
  END IF;
  RETURN result;
END
$$;

-- Cancels those of the given tasks that have not ended, and all that an agent or a session has open, and skips what
-- depended on them. The agent or session gets no new task before the caller's commit.
CREATE FUNCTION queue.cancel(given_tasks uuid[], whole_agent uuid, whole_session uuid)
  RETURNS TABLE (task_id uuid, agent_id uuid, session_id uuid, became task_state)
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  caller uuid := app.user_id();
  doomed uuid[];
  below uuid[];
BEGIN
  SELECT ending, dependants INTO doomed, below FROM queue.lock_for_end(given_tasks, whole_agent, whole_session);
  RETURN QUERY
    UPDATE tasks SET state = 'CANCELLED', worker_id = NULL, waiting_since = NULL, finished_at = clock_timestamp()
    WHERE tasks.user_id = caller AND tasks.id = ANY (doomed)
      AND tasks.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
    RETURNING tasks.id, tasks.agent_id, tasks.session_id, tasks.state;
  IF FOUND THEN
    RETURN QUERY
      SELECT tasks.id, tasks.agent_id, tasks.session_id, tasks.state
      FROM unnest(queue.skip(below)) AS skipped (id)
      JOIN tasks ON tasks.user_id = caller AND tasks.id = skipped.id;
  END IF;
END
$$;

REVOKE ALL ON FUNCTION queue.lock_for_end(uuid[], uuid, uuid), queue.skip(uuid[]),
  queue.cancel(uuid[], uuid, uuid),
  queue.end_attempt(uuid, integer, task_state, text, text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.lock_for_end(uuid[], uuid, uuid), queue.skip(uuid[]),
  queue.cancel(uuid[], uuid, uuid),
  queue.end_attempt(uuid, integer, task_state, text, text, timestamptz) TO app_user;

ALTER TABLE task_dependencies DROP COLUMN needs_success;
DROP TABLE plan_cache;
ALTER TABLE lanes NO FORCE ROW LEVEL SECURITY;
DELETE FROM lanes WHERE kind = 'ORCHESTRATOR';
ALTER TABLE lanes FORCE ROW LEVEL SECURITY;
ALTER TABLE orchestrators DROP COLUMN max_unapproved_tasks;
ALTER TABLE plans DROP COLUMN started_at, DROP COLUMN fallback_message;

-- Postgres can't take a value out of an enum: the type is made anew.
ALTER TABLE plans ALTER COLUMN state DROP DEFAULT;
ALTER TYPE plan_state RENAME TO plan_state_with_expired;
CREATE TYPE plan_state AS ENUM ('PLANNING', 'WAITING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'REJECTED');
ALTER TABLE plans ALTER COLUMN state TYPE plan_state
  USING (CASE WHEN state::text = 'EXPIRED' THEN 'REJECTED' ELSE state::text END)::plan_state;
ALTER TABLE plans ALTER COLUMN state SET DEFAULT 'PLANNING';
DROP TYPE plan_state_with_expired;
