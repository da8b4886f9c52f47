-- A worker begins with a claim and an end of nothing, so that the plans are made before the first task comes: the counts
-- take part in that again.
-- Up Migration

CREATE OR REPLACE FUNCTION queue.count_tasks_after_update() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
BEGIN
  -- Most changes of a running task, such as its progress, move nothing between the counts. A change of nothing goes on.
  IF EXISTS (SELECT FROM new_rows) AND NOT EXISTS (
    SELECT FROM new_rows JOIN old_rows USING (user_id, id)
    WHERE new_rows.state <> old_rows.state OR new_rows.lane_id IS DISTINCT FROM old_rows.lane_id
  ) THEN
    RETURN NULL;
  END IF;
  UPDATE lanes SET
    blocked = lanes.blocked + moved.blocked,
    queued = lanes.queued + moved.queued,
    retrying = lanes.retrying + moved.retrying,
    running = lanes.running + moved.running,
    waits_for_turn = false,
    served_at = CASE WHEN moved.running > 0 THEN clock_timestamp() ELSE lanes.served_at END
  FROM (
    SELECT change.user_id, change.lane_id,
      sum(step * (change.state = 'BLOCKED')::integer) AS blocked,
      sum(step * (change.state = 'QUEUED')::integer) AS queued,
      sum(step * (change.state = 'RETRYING')::integer) AS retrying,
      sum(step * (change.state = 'RUNNING')::integer) AS running
    FROM (SELECT 1 AS step, * FROM new_rows UNION ALL SELECT -1, * FROM old_rows) AS change
    GROUP BY change.user_id, change.lane_id
  ) AS moved
  WHERE lanes.user_id = moved.user_id AND lanes.id = moved.lane_id
    AND (moved.blocked <> 0 OR moved.queued <> 0 OR moved.retrying <> 0 OR moved.running <> 0);
  -- Where a task of a session ended, the turn of another may have come: claims shall look into its lane again.
  IF EXISTS (
    SELECT FROM new_rows
    WHERE session_order IS NOT NULL AND state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')
  ) THEN
    UPDATE lanes SET waits_for_turn = false
    FROM new_rows AS ended
    JOIN tasks AS next ON next.user_id = ended.user_id AND next.session_id = ended.session_id
      AND next.session_order > ended.session_order AND next.state = 'QUEUED'
    WHERE lanes.user_id = next.user_id AND lanes.id = next.lane_id AND lanes.waits_for_turn;
  END IF;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION queue.count_lanes_after_update() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
BEGIN
  UPDATE tenants SET
    queued = tenants.queued + moved.queued,
    running = tenants.running + moved.running,
    ready_lanes = tenants.ready_lanes + moved.ready,
    served_at = CASE WHEN moved.running > 0 THEN clock_timestamp() ELSE tenants.served_at END
  FROM (
    SELECT change.user_id, sum(step * change.queued) AS queued, sum(step * change.running) AS running,
      sum(step * (change.queued > 0 AND change.running < change.max_running AND NOT change.waits_for_turn)::integer)
        AS ready
    FROM (SELECT 1 AS step, * FROM new_rows UNION ALL SELECT -1, * FROM old_rows) AS change
    GROUP BY change.user_id
  ) AS moved
  WHERE tenants.user_id = moved.user_id AND (moved.queued <> 0 OR moved.running <> 0 OR moved.ready <> 0);
  RETURN NULL;
END
$$;

-- Down Migration

CREATE OR REPLACE FUNCTION queue.count_tasks_after_update() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
BEGIN
  -- Most changes of a running task, such as its progress, move nothing between the counts.
  IF NOT EXISTS (
    SELECT FROM new_rows JOIN old_rows USING (user_id, id)
    WHERE new_rows.state <> old_rows.state OR new_rows.lane_id IS DISTINCT FROM old_rows.lane_id
  ) THEN
    RETURN NULL;
  END IF;
  UPDATE lanes SET
    blocked = lanes.blocked + moved.blocked,
    queued = lanes.queued + moved.queued,
    retrying = lanes.retrying + moved.retrying,
    running = lanes.running + moved.running,
    waits_for_turn = false,
    served_at = CASE WHEN moved.running > 0 THEN clock_timestamp() ELSE lanes.served_at END
  FROM (
    SELECT change.user_id, change.lane_id,
      sum(step * (change.state = 'BLOCKED')::integer) AS blocked,
      sum(step * (change.state = 'QUEUED')::integer) AS queued,
      sum(step * (change.state = 'RETRYING')::integer) AS retrying,
      sum(step * (change.state = 'RUNNING')::integer) AS running
    FROM (SELECT 1 AS step, * FROM new_rows UNION ALL SELECT -1, * FROM old_rows) AS change
    GROUP BY change.user_id, change.lane_id
  ) AS moved
  WHERE lanes.user_id = moved.user_id AND lanes.id = moved.lane_id
    AND (moved.blocked <> 0 OR moved.queued <> 0 OR moved.retrying <> 0 OR moved.running <> 0);
  -- Where a task of a session ended, the turn of another may have come: claims shall look into its lane again.
  IF EXISTS (
    SELECT FROM new_rows
    WHERE session_order IS NOT NULL AND state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')
  ) THEN
    UPDATE lanes SET waits_for_turn = false
    FROM new_rows AS ended
    JOIN tasks AS next ON next.user_id = ended.user_id AND next.session_id = ended.session_id
      AND next.session_order > ended.session_order AND next.state = 'QUEUED'
    WHERE lanes.user_id = next.user_id AND lanes.id = next.lane_id AND lanes.waits_for_turn;
  END IF;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION queue.count_lanes_after_update() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
BEGIN
  -- The trigger is also called for an update that found no row.
  IF NOT EXISTS (SELECT FROM new_rows) THEN
    RETURN NULL;
  END IF;
  UPDATE tenants SET
    queued = tenants.queued + moved.queued,
    running = tenants.running + moved.running,
    ready_lanes = tenants.ready_lanes + moved.ready,
    served_at = CASE WHEN moved.running > 0 THEN clock_timestamp() ELSE tenants.served_at END
  FROM (
    SELECT change.user_id, sum(step * change.queued) AS queued, sum(step * change.running) AS running,
      sum(step * (change.queued > 0 AND change.running < change.max_running AND NOT change.waits_for_turn)::integer)
        AS ready
    FROM (SELECT 1 AS step, * FROM new_rows UNION ALL SELECT -1, * FROM old_rows) AS change
    GROUP BY change.user_id
  ) AS moved
  WHERE tenants.user_id = moved.user_id AND (moved.queued <> 0 OR moved.running <> 0 OR moved.ready <> 0);
  RETURN NULL;
END
$$;
