-- Counts of one task cost less: nearly all changes are of one, and need no sums over the tables of what a statement changed.
-- Up Migration

CREATE OR REPLACE FUNCTION queue.count_tasks_after_insert() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  one record;
BEGIN
  -- Nearly always it is one task. None goes both ways, and makes their plans.
  SELECT (SELECT count(*) FROM new_rows) AS tasks, new_rows.user_id, new_rows.lane_id, new_rows.state
  INTO one FROM new_rows LIMIT 1;
  IF one.tasks IS NULL OR one.tasks = 1 THEN
    IF one.tasks IS NULL OR one.state IN ('BLOCKED', 'QUEUED', 'RETRYING', 'RUNNING') THEN
      UPDATE lanes SET
        blocked = lanes.blocked + (one.state = 'BLOCKED')::integer,
        queued = lanes.queued + (one.state = 'QUEUED')::integer,
        retrying = lanes.retrying + (one.state = 'RETRYING')::integer,
        running = lanes.running + (one.state = 'RUNNING')::integer,
        waits_for_turn = false,
        served_at = CASE WHEN one.state = 'RUNNING' THEN clock_timestamp() ELSE lanes.served_at END
      WHERE lanes.user_id = one.user_id AND lanes.id = one.lane_id;
    END IF;
    IF one.tasks = 1 THEN
      RETURN NULL;
    END IF;
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
      sum((change.state = 'BLOCKED')::integer) AS blocked,
      sum((change.state = 'QUEUED')::integer) AS queued,
      sum((change.state = 'RETRYING')::integer) AS retrying,
      sum((change.state = 'RUNNING')::integer) AS running
    FROM new_rows AS change
    GROUP BY change.user_id, change.lane_id
  ) AS moved
  WHERE lanes.user_id = moved.user_id AND lanes.id = moved.lane_id
    AND (moved.blocked <> 0 OR moved.queued <> 0 OR moved.retrying <> 0 OR moved.running <> 0);
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION queue.count_tasks_after_update() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  one record;
BEGIN
  -- Nearly all changes are of one task. A change of none goes both ways, and makes their plans.
  SELECT (SELECT count(*) FROM new_rows) AS tasks, new_rows.user_id, new_rows.lane_id, new_rows.session_id,
    new_rows.session_order, new_rows.state, old_rows.state AS was, old_rows.lane_id IS DISTINCT FROM new_rows.lane_id AS is_moved
  INTO one FROM new_rows, old_rows LIMIT 1;
  IF one.tasks IS NULL OR (one.tasks = 1 AND NOT one.is_moved) THEN
    -- Most changes of a running task, such as its progress, move nothing between the counts.
    IF one.state = one.was THEN
      RETURN NULL;
    END IF;
    IF one.tasks IS NULL OR one.was IN ('BLOCKED', 'QUEUED', 'RETRYING', 'RUNNING')
      OR one.state IN ('BLOCKED', 'QUEUED', 'RETRYING', 'RUNNING')
    THEN
      UPDATE lanes SET
        blocked = lanes.blocked + (one.state = 'BLOCKED')::integer - (one.was = 'BLOCKED')::integer,
        queued = lanes.queued + (one.state = 'QUEUED')::integer - (one.was = 'QUEUED')::integer,
        retrying = lanes.retrying + (one.state = 'RETRYING')::integer - (one.was = 'RETRYING')::integer,
        running = lanes.running + (one.state = 'RUNNING')::integer - (one.was = 'RUNNING')::integer,
        waits_for_turn = false,
        served_at = CASE WHEN one.state = 'RUNNING' THEN clock_timestamp() ELSE lanes.served_at END
      WHERE lanes.user_id = one.user_id AND lanes.id = one.lane_id;
    END IF;
    -- Where a task of a session ended, the turn of another may have come: claims shall look into its lane again.
    IF one.session_order IS NOT NULL AND one.state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED') THEN
      PERFORM FROM tasks AS next
      WHERE next.user_id = one.user_id AND next.session_id = one.session_id
        AND next.session_order > one.session_order AND next.state = 'QUEUED'
      ORDER BY next.session_order LIMIT 1;
      IF FOUND THEN
        UPDATE lanes SET waits_for_turn = false
        FROM tasks AS next
        WHERE next.user_id = one.user_id AND next.session_id = one.session_id
          AND next.session_order > one.session_order AND next.state = 'QUEUED'
          AND lanes.user_id = next.user_id AND lanes.id = next.lane_id AND lanes.waits_for_turn;
      END IF;
    END IF;
    IF one.tasks = 1 THEN
      RETURN NULL;
    END IF;
  ELSIF NOT EXISTS (
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
DECLARE
  one record;
BEGIN
  -- Nearly all changes are of one lane. A change of none goes both ways, and makes their plans.
  SELECT (SELECT count(*) FROM new_rows) AS lanes, new_rows.user_id,
    new_rows.queued - old_rows.queued AS queued, new_rows.running - old_rows.running AS running,
    (new_rows.queued > 0 AND new_rows.running < new_rows.max_running AND NOT new_rows.waits_for_turn)::integer
      - (old_rows.queued > 0 AND old_rows.running < old_rows.max_running AND NOT old_rows.waits_for_turn)::integer AS ready
  INTO one FROM new_rows, old_rows LIMIT 1;
  IF one.lanes IS NULL OR one.lanes = 1 THEN
    IF one.lanes IS NULL OR one.queued <> 0 OR one.running <> 0 OR one.ready <> 0 THEN
      UPDATE tenants SET
        queued = tenants.queued + one.queued,
        running = tenants.running + one.running,
        ready_lanes = tenants.ready_lanes + one.ready,
        served_at = CASE WHEN one.running > 0 THEN clock_timestamp() ELSE tenants.served_at END
      WHERE tenants.user_id = one.user_id;
    END IF;
    IF one.lanes = 1 THEN
      RETURN NULL;
    END IF;
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

-- Down Migration

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

CREATE OR REPLACE FUNCTION queue.count_tasks_after_insert() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET plan_cache_mode = force_generic_plan
        AS $$
      BEGIN
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
          FROM (SELECT 1 AS step, * FROM new_rows) AS change
          GROUP BY change.user_id, change.lane_id
        ) AS moved
        WHERE lanes.user_id = moved.user_id AND lanes.id = moved.lane_id
          AND (moved.blocked <> 0 OR moved.queued <> 0 OR moved.retrying <> 0 OR moved.running <> 0);
        -- Where a task of a session ended, the turn of another may have come: claims shall look into its lane again.
        IF TG_OP = 'UPDATE' THEN
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
        END IF;
        RETURN NULL;
      END
      $$;
