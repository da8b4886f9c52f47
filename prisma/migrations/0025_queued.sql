-- The end of an attempt tells how much its user has queued: where that is nothing, its worker need not look for more.
-- Up Migration

DROP FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz);

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

-- Down Migration

DROP FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz);

-- Ends an attempt: COMPLETED frees the tasks that waited for it, FAILED skips those that need its success and frees the
-- others, RETRYING and WAITING leave them.
-- No row when the attempt is no longer the newest; nothing has changed then.
CREATE FUNCTION queue.end_attempt(
  ended_task uuid, ended_attempt integer, outcome task_state, failure_code text, failure_message text, retry_at timestamptz
) RETURNS TABLE (agent_id uuid, session_id uuid, plan_id uuid, answer_id uuid, running integer, released uuid[], skipped uuid[])
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
  SELECT lanes.running INTO end_attempt.running FROM lanes WHERE lanes.user_id = caller AND lanes.id = lane;
  RETURN NEXT;
END
$$;
REVOKE ALL ON FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.end_attempt(uuid, integer, task_state, text, text, timestamptz) TO app_user;
