-- A worker that goes on with what an end frees is told enough of it to read all that its run needs at once.
-- Up Migration

CREATE OR REPLACE FUNCTION queue.release(
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
    RETURNING tasks.*
  ), occupied AS (
    UPDATE agents SET status = 'BUSY' FROM freed
    WHERE freed.state = 'RUNNING' AND agents.user_id = caller AND agents.id = freed.agent_id AND agents.status <> 'BUSY'
    RETURNING agents.id
  )
  SELECT jsonb_agg(jsonb_build_object(
    'id', freed.id, 'attempt', freed.attempt, 'kind', freed.kind, 'input', freed.input, 'laneId', freed.lane_id,
    'agentId', freed.agent_id, 'sessionId', freed.session_id, 'planId', freed.plan_id, 'messageId', freed.message_id,
    'answerId', freed.answer_id, 'sessionOrder', freed.session_order, 'requestId', freed.request_id,
    'traceparent', freed.traceparent,
    'agentBecameBusy', EXISTS (SELECT FROM occupied WHERE occupied.id = freed.agent_id)
  ) ORDER BY freed.id) INTO begun FROM freed WHERE freed.state = 'RUNNING';
END
$$;

-- Down Migration

CREATE OR REPLACE FUNCTION queue.release(
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
