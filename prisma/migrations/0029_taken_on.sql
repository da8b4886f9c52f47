-- What the end of an attempt frees begins in the commit of that end, with the worker whose slot is free again: nobody has to
-- claim it, and its worker has to store nothing before it works.
-- Up Migration

DROP FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz);
DROP FUNCTION queue.release(uuid[]);

-- Frees tasks that waited for none but these. A worker that has slots goes on at once with those that a claim would find: they
-- begin here, deadline and agents included, as a task does that is given to a worker. What else the user has queued might be
-- before them in the fair order, so that all are queued then. The limits of lane and user are as exact as in a claim: the lanes
-- are locked, and so is the tenant of whoever has just ended an attempt.
CREATE FUNCTION queue.release(
  ended_tasks uuid[], taking_worker uuid DEFAULT NULL, slots integer DEFAULT 0, kinds text[] DEFAULT '{}', life interval DEFAULT NULL,
  OUT released uuid[], OUT begun jsonb
)
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
  AS $$
DECLARE
  caller uuid := app.user_id();
  starting uuid[] := '{}';
  free integer;
BEGIN
  begun := '[]';
  released := ARRAY (
    SELECT tasks.id FROM tasks
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
  );
  IF cardinality(released) = 0 THEN
    RETURN;
  END IF;
  IF slots > 0 THEN
    SELECT least(slots, tenants.max_running - tenants.running) INTO free FROM tenants
    WHERE tenants.user_id = caller AND tenants.queued = 0;
  END IF;
  IF free > 0 THEN
    starting := ARRAY (
      SELECT ranked.id FROM (
        SELECT due.id, lanes.max_running - lanes.running AS lane_free,
          row_number() OVER (ORDER BY due.id) AS place,
          row_number() OVER (PARTITION BY due.lane_id ORDER BY due.id) AS lane_place
        FROM tasks AS due
        JOIN lanes ON lanes.user_id = caller AND lanes.id = due.lane_id
        WHERE due.user_id = caller AND due.id = ANY (released) AND due.kind = ANY (kinds)
          AND (due.session_order IS NULL OR NOT EXISTS (
            SELECT FROM tasks AS earlier
            WHERE earlier.user_id = caller AND earlier.session_id = due.session_id
              AND earlier.session_order < due.session_order
              AND earlier.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
          ))
      ) AS ranked
      WHERE ranked.place <= free AND ranked.lane_place <= ranked.lane_free
    );
  END IF;
  IF cardinality(starting) = 0 THEN
    UPDATE tasks SET state = 'QUEUED', due_at = clock_timestamp()
    WHERE tasks.user_id = caller AND tasks.id = ANY (released);
    RETURN;
  END IF;
  WITH freed AS (
    UPDATE tasks SET due_at = clock_timestamp(),
      state = (CASE WHEN tasks.id = ANY (starting) THEN 'RUNNING' ELSE 'QUEUED' END)::task_state,
      attempt = tasks.attempt + (tasks.id = ANY (starting))::integer,
      worker_id = CASE WHEN tasks.id = ANY (starting) THEN taking_worker END,
      started_at = CASE WHEN tasks.id = ANY (starting) THEN coalesce(tasks.started_at, clock_timestamp()) ELSE tasks.started_at END,
      deadline_at = CASE
        WHEN tasks.id = ANY (starting) THEN coalesce(tasks.deadline_at, coalesce(tasks.started_at, clock_timestamp()) + life)
        ELSE tasks.deadline_at
      END
    WHERE tasks.user_id = caller AND tasks.id = ANY (released)
    RETURNING tasks.id, tasks.state, tasks.attempt, tasks.kind, tasks.agent_id, tasks.session_id, tasks.request_id,
      tasks.traceparent
  ), occupied AS (
    UPDATE agents SET status = 'BUSY' FROM freed
    WHERE freed.state = 'RUNNING' AND agents.user_id = caller AND agents.id = freed.agent_id AND agents.status <> 'BUSY'
    RETURNING agents.id
  )
  SELECT jsonb_agg(jsonb_build_object(
    'id', freed.id, 'attempt', freed.attempt, 'kind', freed.kind, 'agentId', freed.agent_id, 'sessionId', freed.session_id,
    'requestId', freed.request_id, 'traceparent', freed.traceparent,
    'agentBecameBusy', EXISTS (SELECT FROM occupied WHERE occupied.id = freed.agent_id)
  ) ORDER BY freed.id) INTO begun FROM freed WHERE freed.state = 'RUNNING';
END
$$;
REVOKE ALL ON FUNCTION queue.release(uuid[], uuid, integer, text[], interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.release(uuid[], uuid, integer, text[], interval) TO app_user;

-- Ends an attempt: COMPLETED frees the tasks that waited for it, FAILED skips those that need its success and frees the
-- others, RETRYING and WAITING leave them.
-- The worker goes on with as many of those as it has slots for.
-- No row when the attempt is no longer the newest; nothing has changed then.
-- What is told to be queued is all that the user has in the queue when the end is stored. That is exact: the end has changed the
-- user's counts, so nothing of the user is queued before its commit, and who queues something after it wakes the workers.
CREATE FUNCTION queue.end_attempt(
  ended_task uuid, ended_attempt integer, outcome task_state, failure_code text, failure_message text, retry_at timestamptz,
  taking_worker uuid DEFAULT NULL, slots integer DEFAULT 0, kinds text[] DEFAULT '{}', life interval DEFAULT NULL
) RETURNS TABLE (
  agent_id uuid, session_id uuid, plan_id uuid, answer_id uuid, running integer, queued integer, released uuid[], skipped uuid[],
  begun jsonb
)
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
  AS $$
DECLARE
  caller uuid := app.user_id();
  is_end boolean := outcome IN ('COMPLETED', 'FAILED');
  is_alone boolean;
  below uuid[] := '{}';
  lane uuid;
  room uuid;
BEGIN
  -- Alone is a task that no other waits for, neither for its end nor for its turn in another lane.
  SELECT tasks.lane_id, tasks.session_id, NOT EXISTS (
      SELECT FROM task_dependencies AS link WHERE link.user_id = caller AND link.parent_id = ended_task
    ) AND NOT EXISTS (
      SELECT FROM tasks AS next
      WHERE next.user_id = caller AND next.session_id = tasks.session_id AND next.session_order > tasks.session_order
        AND next.state = 'QUEUED' AND next.lane_id IS NOT NULL AND next.lane_id IS DISTINCT FROM tasks.lane_id
    )
  INTO lane, room, is_alone
  FROM tasks WHERE tasks.user_id = caller AND tasks.id = ended_task;
  IF is_end AND NOT is_alone THEN
    SELECT dependants INTO below FROM queue.lock_for_end(ARRAY[ended_task], NULL, NULL, NULL, NULL);
  ELSE
    PERFORM FROM lanes WHERE lanes.user_id = caller AND lanes.id = lane FOR NO KEY UPDATE;
    IF is_end THEN
      PERFORM FROM sessions WHERE sessions.user_id = caller AND sessions.id = room FOR NO KEY UPDATE;
    END IF;
  END IF;
  UPDATE tasks SET state = outcome, worker_id = NULL, error_code = failure_code, error_message = failure_message,
    failures = tasks.failures + (outcome IN ('FAILED', 'RETRYING'))::integer,
    due_at = coalesce(retry_at, tasks.due_at),
    progress = CASE WHEN outcome = 'COMPLETED' THEN 1 ELSE tasks.progress END,
    waiting_since = CASE WHEN outcome = 'WAITING' THEN clock_timestamp() END,
    finished_at = CASE WHEN is_end THEN clock_timestamp() END
  WHERE tasks.user_id = caller AND tasks.id = ended_task AND tasks.attempt = ended_attempt AND tasks.state = 'RUNNING'
    -- What was added while this waited for a lock stands in a lane that it has not locked.
    AND (NOT is_end OR NOT is_alone OR (
      NOT EXISTS (SELECT FROM task_dependencies AS link WHERE link.user_id = caller AND link.parent_id = ended_task)
      AND NOT EXISTS (
        SELECT FROM tasks AS next
        WHERE next.user_id = caller AND next.session_id = room AND next.session_order > tasks.session_order
          AND next.state = 'QUEUED' AND next.lane_id IS NOT NULL AND next.lane_id IS DISTINCT FROM lane
      )
    ))
  RETURNING tasks.agent_id, tasks.session_id, tasks.plan_id, tasks.answer_id
  INTO end_attempt.agent_id, end_attempt.session_id, end_attempt.plan_id, end_attempt.answer_id;
  IF NOT FOUND THEN
    IF EXISTS (
      SELECT FROM tasks
      WHERE tasks.user_id = caller AND tasks.id = ended_task AND tasks.attempt = ended_attempt AND tasks.state = 'RUNNING'
    ) THEN
      RAISE EXCEPTION 'a task was added to those that are about to end' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN;
  END IF;
  released := '{}';
  skipped := '{}';
  begun := '[]';
  IF is_end AND cardinality(below) > 0 THEN
    IF outcome = 'FAILED' THEN
      skipped := queue.skip(ARRAY[ended_task]);
    END IF;
    SELECT freed.released, freed.begun INTO end_attempt.released, end_attempt.begun
    FROM queue.release(ended_task || skipped, taking_worker, slots, kinds, life) AS freed;
  END IF;
  SELECT lanes.running, tenants.queued INTO end_attempt.running, end_attempt.queued
  FROM lanes JOIN tenants ON tenants.user_id = caller
  WHERE lanes.user_id = caller AND lanes.id = lane;
  RETURN NEXT;
END
$$;
REVOKE ALL ON FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz, uuid, integer, text[], interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz, uuid, integer, text[], interval) TO app_user;

-- Down Migration

DROP FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz, uuid, integer, text[], interval);
DROP FUNCTION queue.release(uuid[], uuid, integer, text[], interval);

CREATE FUNCTION queue.release(ended_tasks uuid[]) RETURNS uuid[]
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
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
REVOKE ALL ON FUNCTION queue.release(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.release(uuid[]) TO app_user;

-- Ends an attempt: COMPLETED frees the tasks that waited for it, FAILED skips those that need its success and frees the
-- others, RETRYING and WAITING leave them.
-- No row when the attempt is no longer the newest; nothing has changed then.
-- What is told to be queued is all that the user has in the queue when the end is stored. That is exact: the end has changed the
-- user's counts, so nothing of the user is queued before its commit, and who queues something after it wakes the workers.
CREATE FUNCTION queue.end_attempt(
  ended_task uuid, ended_attempt integer, outcome task_state, failure_code text, failure_message text, retry_at timestamptz
) RETURNS TABLE (
  agent_id uuid, session_id uuid, plan_id uuid, answer_id uuid, running integer, queued integer, released uuid[], skipped uuid[]
)
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
  AS $$
DECLARE
  caller uuid := app.user_id();
  is_end boolean := outcome IN ('COMPLETED', 'FAILED');
  is_alone boolean;
  below uuid[] := '{}';
  lane uuid;
  room uuid;
BEGIN
  -- Alone is a task that no other waits for, neither for its end nor for its turn in another lane.
  SELECT tasks.lane_id, tasks.session_id, NOT EXISTS (
      SELECT FROM task_dependencies AS link WHERE link.user_id = caller AND link.parent_id = ended_task
    ) AND NOT EXISTS (
      SELECT FROM tasks AS next
      WHERE next.user_id = caller AND next.session_id = tasks.session_id AND next.session_order > tasks.session_order
        AND next.state = 'QUEUED' AND next.lane_id IS NOT NULL AND next.lane_id IS DISTINCT FROM tasks.lane_id
    )
  INTO lane, room, is_alone
  FROM tasks WHERE tasks.user_id = caller AND tasks.id = ended_task;
  IF is_end AND NOT is_alone THEN
    SELECT dependants INTO below FROM queue.lock_for_end(ARRAY[ended_task], NULL, NULL, NULL, NULL);
  ELSE
    PERFORM FROM lanes WHERE lanes.user_id = caller AND lanes.id = lane FOR NO KEY UPDATE;
    IF is_end THEN
      PERFORM FROM sessions WHERE sessions.user_id = caller AND sessions.id = room FOR NO KEY UPDATE;
    END IF;
  END IF;
  UPDATE tasks SET state = outcome, worker_id = NULL, error_code = failure_code, error_message = failure_message,
    failures = tasks.failures + (outcome IN ('FAILED', 'RETRYING'))::integer,
    due_at = coalesce(retry_at, tasks.due_at),
    progress = CASE WHEN outcome = 'COMPLETED' THEN 1 ELSE tasks.progress END,
    waiting_since = CASE WHEN outcome = 'WAITING' THEN clock_timestamp() END,
    finished_at = CASE WHEN is_end THEN clock_timestamp() END
  WHERE tasks.user_id = caller AND tasks.id = ended_task AND tasks.attempt = ended_attempt AND tasks.state = 'RUNNING'
    -- What was added while this waited for a lock stands in a lane that it has not locked.
    AND (NOT is_end OR NOT is_alone OR (
      NOT EXISTS (SELECT FROM task_dependencies AS link WHERE link.user_id = caller AND link.parent_id = ended_task)
      AND NOT EXISTS (
        SELECT FROM tasks AS next
        WHERE next.user_id = caller AND next.session_id = room AND next.session_order > tasks.session_order
          AND next.state = 'QUEUED' AND next.lane_id IS NOT NULL AND next.lane_id IS DISTINCT FROM lane
      )
    ))
  RETURNING tasks.agent_id, tasks.session_id, tasks.plan_id, tasks.answer_id
  INTO end_attempt.agent_id, end_attempt.session_id, end_attempt.plan_id, end_attempt.answer_id;
  IF NOT FOUND THEN
    IF EXISTS (
      SELECT FROM tasks
      WHERE tasks.user_id = caller AND tasks.id = ended_task AND tasks.attempt = ended_attempt AND tasks.state = 'RUNNING'
    ) THEN
      RAISE EXCEPTION 'a task was added to those that are about to end' USING ERRCODE = 'serialization_failure';
    END IF;
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
  SELECT lanes.running, tenants.queued INTO end_attempt.running, end_attempt.queued
  FROM lanes JOIN tenants ON tenants.user_id = caller
  WHERE lanes.user_id = caller AND lanes.id = lane;
  RETURN NEXT;
END
$$;
REVOKE ALL ON FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz) TO app_user;
