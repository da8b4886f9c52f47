-- Claims and ends of jobs that cost the same whatever the planner knows of the tables, and that take more at a time.
-- Plans are made once for a connection. On tables that were empty then, reading all of them looked cheapest and all indexes
-- alike: a claim then walked all tasks for each lane that it looked into. The functions below may not read whole tables, nor
-- sort where an index has the order: so each look for a next task asks for the order that only one index has.
-- Up Migration

-- A claimed row is changed where the claim found and locked it.
GRANT SELECT (ctid) ON tasks TO app_queue;

-- Hands due tasks to a worker: the least recently served user first, then that user's least recently served lane with
-- a free slot, then age. Each round takes users whose turn it is; when they are fewer than slots, each gets an equal
-- share of them, from as many lanes as that needs. What the division leaves over is for the next round. Rows that another
-- transaction holds are passed over, so a claim never waits and never deadlocks.
CREATE OR REPLACE FUNCTION queue.claim(claiming_worker uuid, free_slots integer, kinds text[] DEFAULT NULL)
  RETURNS TABLE (user_id uuid, task_id uuid, attempt integer, kind text)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_sort = off
  AS $$
DECLARE
  slots integer := free_slots;
  share integer;
  ready bigint;
  turn_users uuid[];
  turn_lanes uuid[];
  more_users uuid[];
  more_lanes uuid[];
  passed_over uuid[] := '{}';
  claimed record;
  claimed_users uuid[];
  claimed_lanes uuid[];
BEGIN
  -- Each round claims something or passes lanes over, so the rounds come to an end. Lanes in which all wait for their
  -- turn are marked, so that the next claim goes on behind them. A claim for no slot has one round: it changes nothing, and
  -- makes the plans for those to come.
  LOOP
    SELECT array_agg(turn.user_id), array_agg(turn.lane_id), sum(turn.ready_lanes) INTO turn_users, turn_lanes, ready
    FROM (
      SELECT free.user_id, free.lane_id, tenants.ready_lanes
      FROM tenants
      CROSS JOIN LATERAL (
        SELECT lanes.user_id, lanes.id AS lane_id FROM lanes
        WHERE lanes.user_id = tenants.user_id
          AND lanes.queued > 0 AND lanes.running < lanes.max_running AND NOT lanes.waits_for_turn
          AND lanes.id <> ALL (passed_over)
          AND (kinds IS NULL OR (
            SELECT true FROM tasks
            WHERE tasks.user_id = lanes.user_id AND tasks.lane_id = lanes.id AND tasks.state = 'QUEUED'
              AND tasks.kind = ANY (kinds)
            ORDER BY tasks.due_at, tasks.id LIMIT 1
          ))
        ORDER BY lanes.served_at, lanes.id
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
      ) AS free
      WHERE tenants.ready_lanes > 0 AND tenants.running < tenants.max_running
      ORDER BY tenants.served_at, tenants.user_id
      LIMIT slots
      FOR NO KEY UPDATE OF tenants SKIP LOCKED
    ) AS turn;
    EXIT WHEN turn_users IS NULL AND slots > 0;
    share := slots / greatest(1, cardinality(turn_users));
    IF share > 1 AND ready > cardinality(turn_lanes) THEN
      SELECT array_agg(more.user_id ORDER BY more.served_at, more.id), array_agg(more.id ORDER BY more.served_at, more.id)
      INTO more_users, more_lanes
      FROM unnest(turn_users, turn_lanes) AS turn (user_id, lane_id)
      CROSS JOIN LATERAL (
        SELECT lanes.user_id, lanes.id, lanes.served_at FROM lanes
        WHERE lanes.user_id = turn.user_id
          AND lanes.queued > 0 AND lanes.running < lanes.max_running AND NOT lanes.waits_for_turn
          AND lanes.id <> turn.lane_id AND lanes.id <> ALL (passed_over)
          AND (kinds IS NULL OR (
            SELECT true FROM tasks
            WHERE tasks.user_id = lanes.user_id AND tasks.lane_id = lanes.id AND tasks.state = 'QUEUED'
              AND tasks.kind = ANY (kinds)
            ORDER BY tasks.due_at, tasks.id LIMIT 1
          ))
        ORDER BY lanes.served_at, lanes.id
        LIMIT share - 1
        FOR NO KEY UPDATE SKIP LOCKED
      ) AS more;
      turn_users := turn_users || more_users;
      turn_lanes := turn_lanes || more_lanes;
    END IF;

    -- A fresh statement sees lanes and tenants as they are now that their locks are held. The choice is materialised:
    -- chosen again while the update is under way, it would pass over rows already updated and take more than the limit.
    claimed_users := '{}';
    claimed_lanes := '{}';
    FOR claimed IN
      WITH next AS MATERIALIZED (
        SELECT ranked.row_place FROM (
          SELECT chosen.row_place, tenant.free AS most,
            row_number() OVER (PARTITION BY turn.user_id ORDER BY turn.place, chosen.due_at, chosen.id) AS place
          FROM unnest(turn_users, turn_lanes) WITH ORDINALITY AS turn (user_id, lane_id, place)
          CROSS JOIN LATERAL (
            SELECT least(share, tenants.max_running - tenants.running) AS free FROM tenants
            WHERE tenants.user_id = turn.user_id LIMIT 1
          ) AS tenant
          CROSS JOIN LATERAL (
            SELECT lanes.max_running - lanes.running AS free FROM lanes
            WHERE lanes.user_id = turn.user_id AND lanes.id = turn.lane_id LIMIT 1
          ) AS lane
          CROSS JOIN LATERAL (
            SELECT due.ctid AS row_place, due.due_at, due.id FROM tasks AS due
            WHERE due.user_id = turn.user_id AND due.lane_id = turn.lane_id AND due.state = 'QUEUED'
              AND (kinds IS NULL OR due.kind = ANY (kinds))
              AND (due.session_order IS NULL OR (
                SELECT true FROM tasks AS earlier
                WHERE earlier.user_id = due.user_id AND earlier.session_id = due.session_id
                  AND earlier.session_order < due.session_order
                  AND earlier.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
                ORDER BY earlier.session_order LIMIT 1
              ) IS NULL)
            ORDER BY due.due_at, due.id
            LIMIT greatest(0, least(lane.free, tenant.free))
            FOR NO KEY UPDATE SKIP LOCKED
          ) AS chosen
        ) AS ranked
        WHERE ranked.place <= ranked.most
      )
      UPDATE tasks SET state = 'RUNNING', attempt = tasks.attempt + 1, worker_id = claiming_worker,
        started_at = coalesce(tasks.started_at, clock_timestamp())
      FROM next
      WHERE tasks.ctid = next.row_place
      RETURNING tasks.user_id, tasks.id, tasks.attempt, tasks.kind, tasks.lane_id
    LOOP
      slots := slots - 1;
      claimed_users := claimed_users || claimed.user_id;
      claimed_lanes := claimed_lanes || claimed.lane_id;
      user_id := claimed.user_id;
      task_id := claimed.id;
      attempt := claimed.attempt;
      kind := claimed.kind;
      RETURN NEXT;
    END LOOP;

    EXIT WHEN slots <= 0;
    -- Most claims find all there is at once, and need not look again.
    EXIT WHEN share > 1 AND cardinality(claimed_lanes) < share AND cardinality(turn_lanes) = ready
      AND claimed_lanes @> turn_lanes;
    -- Of users who got their share, lanes may be left in which there is something.
    turn_lanes := ARRAY (
      SELECT turn.lane_id FROM unnest(turn_users, turn_lanes) AS turn (user_id, lane_id)
      WHERE turn.lane_id <> ALL (claimed_lanes)
        AND (SELECT count(*) FROM unnest(claimed_users) AS got (user_id) WHERE got.user_id = turn.user_id) < share
    );
    IF cardinality(turn_lanes) > 0 THEN
      passed_over := passed_over || turn_lanes;
      UPDATE lanes SET waits_for_turn = true
      WHERE lanes.user_id = ANY (turn_users) AND lanes.id = ANY (turn_lanes)
        AND (
          SELECT true FROM tasks AS due
          WHERE due.user_id = lanes.user_id AND due.lane_id = lanes.id AND due.state = 'QUEUED'
            AND (due.session_order IS NULL OR (
              SELECT true FROM tasks AS earlier
              WHERE earlier.user_id = due.user_id AND earlier.session_id = due.session_id
                AND earlier.session_order < due.session_order
                AND earlier.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
              ORDER BY earlier.session_order LIMIT 1
            ) IS NULL)
          ORDER BY due.due_at, due.id LIMIT 1
        ) IS NULL;
    END IF;
    EXIT WHEN cardinality(passed_over) >= 1000;
  END LOOP;
END
$$;

-- Completes attempts of one worker: of many users in one statement that waits for no lock and leaves what someone holds,
-- or of one user alone, which may wait. What others wait for is left in both cases. What is left is named in the result;
-- an attempt that is no longer the newest is neither changed nor named.
DROP FUNCTION queue.complete(uuid, uuid[], integer[]);
CREATE FUNCTION queue.complete(holding_worker uuid, given_tasks uuid[], given_attempts integer[], waiting_user uuid)
  RETURNS TABLE (task_id uuid)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_sort = off
  AS $$
DECLARE
  owners uuid[];
  held uuid[];
BEGIN
  IF waiting_user IS NULL THEN
    SELECT array_agg(mine.user_id), array_agg(mine.id) INTO owners, held FROM (
      SELECT tasks.user_id, tasks.id
      FROM unnest(given_tasks, given_attempts) AS given (id, attempt)
      JOIN tasks ON tasks.id = given.id AND tasks.attempt = given.attempt
      JOIN lanes ON lanes.user_id = tasks.user_id AND lanes.id = tasks.lane_id
      JOIN tenants ON tenants.user_id = tasks.user_id
      WHERE tasks.worker_id = holding_worker AND tasks.state = 'RUNNING' AND tasks.session_order IS NULL
      FOR NO KEY UPDATE OF lanes, tenants SKIP LOCKED
    ) AS mine;
  ELSE
    PERFORM FROM lanes
    WHERE lanes.user_id = waiting_user
      AND lanes.id IN (
        SELECT tasks.lane_id FROM tasks
        WHERE tasks.worker_id = holding_worker AND tasks.state = 'RUNNING'
          AND tasks.user_id = waiting_user AND tasks.id = ANY (given_tasks)
      )
    ORDER BY lanes.id
    FOR NO KEY UPDATE;
    SELECT array_agg(tasks.user_id), array_agg(tasks.id) INTO owners, held FROM tasks
    WHERE tasks.worker_id = holding_worker AND tasks.state = 'RUNNING' AND tasks.session_order IS NULL
      AND tasks.user_id = waiting_user AND tasks.id = ANY (given_tasks) AND tasks.lane_id IS NOT NULL;
  END IF;
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
ALTER FUNCTION queue.complete(uuid, uuid[], integer[], uuid) OWNER TO app_queue;
REVOKE ALL ON FUNCTION queue.complete(uuid, uuid[], integer[], uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.complete(uuid, uuid[], integer[], uuid) TO app_worker;

-- Down Migration

DROP FUNCTION queue.complete(uuid, uuid[], integer[], uuid);

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

-- Hands due tasks to a worker: the least recently served user first, then that user's least recently served lane with
-- a free slot, then age. Each round takes one lane of each user whose turn it is. Rows that another transaction holds
-- are passed over, so a claim never waits and never deadlocks.
CREATE OR REPLACE FUNCTION queue.claim(claiming_worker uuid, free_slots integer, kinds text[] DEFAULT NULL)
  RETURNS TABLE (user_id uuid, task_id uuid, attempt integer, kind text)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  slots integer := free_slots;
  turn_users uuid[];
  turn_lanes uuid[];
  passed_over uuid[] := '{}';
  claimed record;
  claimed_lanes uuid[];
BEGIN
  -- Each round claims something or passes lanes over, so the rounds come to an end. Lanes in which all wait for their
  -- turn are marked, so that the next claim goes on behind them.
  WHILE slots > 0 AND cardinality(passed_over) < 1000 LOOP
    SELECT array_agg(turn.user_id), array_agg(turn.lane_id) INTO turn_users, turn_lanes
    FROM (
      SELECT ready.user_id, ready.lane_id
      FROM tenants
      CROSS JOIN LATERAL (
        SELECT lanes.user_id, lanes.id AS lane_id FROM lanes
        WHERE lanes.user_id = tenants.user_id
          AND lanes.queued > 0 AND lanes.running < lanes.max_running AND NOT lanes.waits_for_turn
          AND lanes.id <> ALL (passed_over)
          AND (kinds IS NULL OR EXISTS (
            SELECT FROM tasks
            WHERE tasks.user_id = lanes.user_id AND tasks.lane_id = lanes.id AND tasks.state = 'QUEUED'
              AND tasks.kind = ANY (kinds)
          ))
        ORDER BY lanes.served_at, lanes.id
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
      ) AS ready
      WHERE tenants.ready_lanes > 0 AND tenants.running < tenants.max_running
      ORDER BY tenants.served_at, tenants.user_id
      LIMIT slots
      FOR NO KEY UPDATE OF tenants SKIP LOCKED
    ) AS turn;
    EXIT WHEN turn_users IS NULL;

    -- A fresh statement sees lanes and tenants as they are now that their locks are held. When there are fewer users
    -- than slots, each lane may fill several at once; what the division leaves over is for the next round. The choice is
    -- materialised: chosen again while the update is under way, it would pass over rows already updated and take more
    -- than the limit.
    claimed_lanes := '{}';
    FOR claimed IN
      WITH next AS MATERIALIZED (
        SELECT turn.user_id, chosen.id
        FROM unnest(turn_users, turn_lanes) AS turn (user_id, lane_id)
        JOIN lanes ON lanes.user_id = turn.user_id AND lanes.id = turn.lane_id
        JOIN tenants ON tenants.user_id = turn.user_id
        CROSS JOIN LATERAL (
          SELECT due.id FROM tasks AS due
          WHERE due.user_id = turn.user_id AND due.lane_id = turn.lane_id AND due.state = 'QUEUED'
            AND (kinds IS NULL OR due.kind = ANY (kinds))
            AND NOT EXISTS (
              SELECT FROM tasks AS earlier
              WHERE earlier.user_id = due.user_id AND earlier.session_id = due.session_id
                AND earlier.session_order < due.session_order
                AND earlier.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
            )
          ORDER BY due.due_at, due.id
          LIMIT greatest(0, least(
            lanes.max_running - lanes.running,
            tenants.max_running - tenants.running,
            slots / cardinality(turn_users)
          ))
          FOR NO KEY UPDATE SKIP LOCKED
        ) AS chosen
      )
      UPDATE tasks SET state = 'RUNNING', attempt = tasks.attempt + 1, worker_id = claiming_worker,
        started_at = coalesce(tasks.started_at, clock_timestamp())
      FROM next
      WHERE tasks.user_id = next.user_id AND tasks.id = next.id
      RETURNING tasks.user_id, tasks.id, tasks.attempt, tasks.kind, tasks.lane_id
    LOOP
      slots := slots - 1;
      claimed_lanes := claimed_lanes || claimed.lane_id;
      user_id := claimed.user_id;
      task_id := claimed.id;
      attempt := claimed.attempt;
      kind := claimed.kind;
      RETURN NEXT;
    END LOOP;

    turn_lanes := ARRAY (SELECT turn.lane_id FROM unnest(turn_lanes) AS turn (lane_id) WHERE turn.lane_id <> ALL (claimed_lanes));
    IF cardinality(turn_lanes) > 0 THEN
      passed_over := passed_over || turn_lanes;
      UPDATE lanes SET waits_for_turn = true
      WHERE lanes.user_id = ANY (turn_users) AND lanes.id = ANY (turn_lanes)
        AND NOT EXISTS (
          SELECT FROM tasks AS due
          WHERE due.user_id = lanes.user_id AND due.lane_id = lanes.id AND due.state = 'QUEUED'
            AND NOT EXISTS (
              SELECT FROM tasks AS earlier
              WHERE earlier.user_id = due.user_id AND earlier.session_id = due.session_id
                AND earlier.session_order < due.session_order
                AND earlier.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
            )
        );
    END IF;
  END LOOP;
END
$$;

REVOKE SELECT (ctid) ON tasks FROM app_queue;
