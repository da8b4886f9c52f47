-- The task engine's tables: tenants and lanes (counts that are the mutex of every limit), tasks, their dependencies and steps.
-- Up Migration

CREATE TYPE lane_kind AS ENUM ('AGENT', 'ORCHESTRATOR', 'MEMORY');
CREATE TYPE task_state AS ENUM
  ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING', 'COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED');
CREATE TYPE task_step_kind AS ENUM ('MODEL', 'TOOL');

-- One row per user of the engine: whose turn it is, and how much of the user's work is queued and running.
CREATE TABLE tenants (
  user_id uuid PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
  queued integer NOT NULL DEFAULT 0,
  running integer NOT NULL DEFAULT 0,
  ready_lanes integer NOT NULL DEFAULT 0,
  max_running integer NOT NULL DEFAULT 20 CHECK (max_running >= 0),
  served_at timestamptz NOT NULL DEFAULT now()
);
-- Only users with something to claim stand in it, so a claim's cost does not grow with the number of users.
CREATE INDEX tenants_ready_idx ON tenants (served_at, user_id) WHERE ready_lanes > 0 AND running < max_running;
SELECT app.isolate('tenants');
GRANT SELECT ON tenants TO app_user;

-- One row per agent (or other worker of the user): its limits and counts.
CREATE TABLE lanes (
  user_id uuid NOT NULL REFERENCES tenants (user_id) ON DELETE CASCADE,
  id uuid NOT NULL DEFAULT uuidv7(),
  kind lane_kind NOT NULL,
  agent_id uuid,
  orchestrator_id uuid,
  blocked integer NOT NULL DEFAULT 0,
  queued integer NOT NULL DEFAULT 0,
  retrying integer NOT NULL DEFAULT 0,
  running integer NOT NULL DEFAULT 0,
  max_running integer NOT NULL DEFAULT 3 CHECK (max_running >= 0),
  max_waiting integer NOT NULL DEFAULT 100 CHECK (max_waiting >= 0),
  -- Set by a claim that found none but tasks that wait for an earlier one of their session; cleared when that may have
  -- changed. Without it claims would look into such lanes again and again, and never behind many of them.
  waits_for_turn boolean NOT NULL DEFAULT false,
  served_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id),
  -- Counts that went wrong shall fail loudly, not let too many tasks run.
  CHECK (blocked >= 0 AND queued >= 0 AND retrying >= 0 AND running >= 0),
  UNIQUE (user_id, agent_id, kind),
  UNIQUE (user_id, orchestrator_id, kind),
  FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, orchestrator_id) REFERENCES orchestrators (user_id, id) ON DELETE CASCADE
);
CREATE INDEX lanes_ready_idx ON lanes (user_id, served_at, id)
  WHERE queued > 0 AND running < max_running AND NOT waits_for_turn;
SELECT app.isolate('lanes');
GRANT SELECT, INSERT (user_id, id, kind, agent_id, orchestrator_id, max_running, max_waiting), UPDATE (max_running, max_waiting), DELETE
  ON lanes TO app_user;

-- Worker processes by heartbeat. They belong to no user, so no user may see them.
CREATE TABLE workers (
  id uuid PRIMARY KEY,
  heartbeat_at timestamptz NOT NULL DEFAULT now(),
  started_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE workers ENABLE ROW LEVEL SECURITY;
ALTER TABLE workers FORCE ROW LEVEL SECURITY;

CREATE TABLE tasks (
  user_id uuid NOT NULL REFERENCES tenants (user_id) ON DELETE CASCADE,
  id uuid NOT NULL DEFAULT uuidv7(),
  kind text NOT NULL,
  input jsonb NOT NULL DEFAULT '{}',
  lane_id uuid,
  agent_id uuid,
  session_id uuid,
  plan_id uuid,
  message_id uuid,
  answer_id uuid NOT NULL DEFAULT uuidv7(),
  state task_state NOT NULL DEFAULT 'QUEUED',
  session_order integer,
  attempt integer NOT NULL DEFAULT 0,
  failures integer NOT NULL DEFAULT 0,
  crashes integer NOT NULL DEFAULT 0,
  worker_id uuid,
  progress double precision NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
  progress_note text,
  error_code text,
  error_message text,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  due_at timestamptz(3) NOT NULL DEFAULT now(),
  started_at timestamptz(3),
  deadline_at timestamptz(3),
  waiting_since timestamptz(3),
  finished_at timestamptz(3),
  PRIMARY KEY (user_id, id),
  CHECK ((state = 'RUNNING') = (worker_id IS NOT NULL)),
  FOREIGN KEY (user_id, lane_id) REFERENCES lanes (user_id, id) ON DELETE SET NULL (lane_id),
  FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE SET NULL (agent_id),
  FOREIGN KEY (user_id, session_id) REFERENCES sessions (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, plan_id) REFERENCES plans (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, message_id) REFERENCES messages (user_id, id) ON DELETE CASCADE
);
CREATE INDEX tasks_claim_idx ON tasks (user_id, lane_id, due_at, id) WHERE state = 'QUEUED';
CREATE INDEX tasks_session_order_idx ON tasks (user_id, session_id, session_order)
  WHERE session_order IS NOT NULL AND state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING');
CREATE INDEX tasks_worker_id_idx ON tasks (worker_id) WHERE state = 'RUNNING';
CREATE INDEX tasks_retry_due_idx ON tasks (due_at) WHERE state = 'RETRYING';
CREATE INDEX tasks_user_id_session_id_idx ON tasks (user_id, session_id, id);
CREATE INDEX tasks_user_id_agent_id_idx ON tasks (user_id, agent_id, id);
CREATE INDEX tasks_user_id_lane_id_idx ON tasks (user_id, lane_id);
CREATE INDEX tasks_user_id_plan_id_idx ON tasks (user_id, plan_id);
CREATE INDEX tasks_user_id_message_id_idx ON tasks (user_id, message_id);
SELECT app.isolate('tasks');
GRANT SELECT, INSERT, UPDATE, DELETE ON tasks TO app_user;

ALTER TABLE messages ADD COLUMN task_id uuid;
ALTER TABLE messages ADD FOREIGN KEY (user_id, task_id) REFERENCES tasks (user_id, id) ON DELETE SET NULL (task_id);
CREATE INDEX messages_user_id_task_id_idx ON messages (user_id, task_id);

CREATE TABLE task_dependencies (
  user_id uuid NOT NULL,
  task_id uuid NOT NULL,
  parent_id uuid NOT NULL,
  PRIMARY KEY (user_id, task_id, parent_id),
  CHECK (task_id <> parent_id),
  FOREIGN KEY (user_id, task_id) REFERENCES tasks (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, parent_id) REFERENCES tasks (user_id, id) ON DELETE CASCADE
);
CREATE INDEX task_dependencies_user_id_parent_id_idx ON task_dependencies (user_id, parent_id);
SELECT app.isolate('task_dependencies');
GRANT SELECT, INSERT, UPDATE, DELETE ON task_dependencies TO app_user;

-- What a task has done so far: a crashed task continues after its last step.
CREATE TABLE task_steps (
  user_id uuid NOT NULL,
  task_id uuid NOT NULL,
  position integer NOT NULL,
  kind task_step_kind NOT NULL,
  attempt integer NOT NULL,
  output jsonb NOT NULL,
  started_at timestamptz(3) NOT NULL,
  finished_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, task_id, position),
  FOREIGN KEY (user_id, task_id) REFERENCES tasks (user_id, id) ON DELETE CASCADE
);
SELECT app.isolate('task_steps');
GRANT SELECT, INSERT, UPDATE, DELETE ON task_steps TO app_user;

-- The engine's own role: it sees the queue of all users and nothing else of them.
CREATE SCHEMA queue;
GRANT USAGE ON SCHEMA queue TO app_user, app_queue;
GRANT CREATE ON SCHEMA queue TO app_queue;
CREATE POLICY engine ON tenants FOR ALL TO app_queue USING (true) WITH CHECK (true);
CREATE POLICY engine ON lanes FOR ALL TO app_queue USING (true) WITH CHECK (true);
CREATE POLICY engine ON tasks FOR ALL TO app_queue USING (true) WITH CHECK (true);
CREATE POLICY engine ON workers FOR ALL TO app_queue USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON tenants TO app_queue;
GRANT SELECT, UPDATE ON lanes TO app_queue;
GRANT SELECT (user_id, id, kind, lane_id, session_id, state, session_order, attempt, crashes, worker_id, due_at, started_at),
  UPDATE (state, attempt, crashes, worker_id, due_at, started_at) ON tasks TO app_queue;
GRANT SELECT, INSERT, UPDATE, DELETE ON workers TO app_queue;

-- Users and agents from before the engine get their places in it. Their owner would see none of them by force.
ALTER TABLE users NO FORCE ROW LEVEL SECURITY;
ALTER TABLE agents NO FORCE ROW LEVEL SECURITY;
INSERT INTO tenants (user_id) SELECT id FROM users;
INSERT INTO lanes (user_id, id, kind, agent_id, max_running)
  SELECT user_id, id, 'AGENT', id, max_concurrent_tasks FROM agents;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
ALTER TABLE agents FORCE ROW LEVEL SECURITY;

-- Functions that run statements fix the plans: planning one anew for each call costs several times what running it does.

-- A user of the engine exists from the first sight of the user.
CREATE FUNCTION queue.add_tenant() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
BEGIN
  INSERT INTO tenants (user_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
  RETURN NULL;
END
$$;
ALTER FUNCTION queue.add_tenant() OWNER TO app_queue;
CREATE TRIGGER add_tenant AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION queue.add_tenant();

-- Counts change in the transaction that changes a task's state, so that limits read from them are exact: tasks are
-- counted in their lane, lanes in their tenant, all that a statement changed at once. Lock order everywhere: lanes by id,
-- sessions by id, tasks, the tenant, the agent, the user. Who works for several users either waits for no lock at all, or
-- takes all of one user before those of the next, by id. The triggers of a table differ in nothing but which rows came
-- and which went.
DO $make$
DECLARE
  event record;
BEGIN
  FOR event IN
    SELECT * FROM (VALUES
      ('insert', 'NEW TABLE AS new_rows', 'SELECT 1 AS step, * FROM new_rows'),
      ('delete', 'OLD TABLE AS old_rows', 'SELECT -1 AS step, * FROM old_rows'),
      ('update', 'OLD TABLE AS old_rows NEW TABLE AS new_rows',
        'SELECT 1 AS step, * FROM new_rows UNION ALL SELECT -1, * FROM old_rows')
    ) AS event (name, tables, changes)
  LOOP
    EXECUTE format($function$
      CREATE FUNCTION queue.count_tasks_after_%1$s() RETURNS trigger
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
          FROM (%2$s) AS change
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
      ALTER FUNCTION queue.count_tasks_after_%1$s() OWNER TO app_queue;
      CREATE TRIGGER count_tasks_after_%1$s AFTER %1$s ON tasks REFERENCING %3$s
        FOR EACH STATEMENT EXECUTE FUNCTION queue.count_tasks_after_%1$s();

      CREATE FUNCTION queue.count_lanes_after_%1$s() RETURNS trigger
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
          FROM (%2$s) AS change
          GROUP BY change.user_id
        ) AS moved
        WHERE tenants.user_id = moved.user_id AND (moved.queued <> 0 OR moved.running <> 0 OR moved.ready <> 0);
        RETURN NULL;
      END
      $$;
      ALTER FUNCTION queue.count_lanes_after_%1$s() OWNER TO app_queue;
      CREATE TRIGGER count_lanes_after_%1$s AFTER %1$s ON lanes REFERENCING %3$s
        FOR EACH STATEMENT EXECUTE FUNCTION queue.count_lanes_after_%1$s();
    $function$, event.name, event.changes, event.tables);
  END LOOP;
END
$make$;

-- Hands due tasks to a worker: the least recently served user first, then that user's least recently served lane with
-- a free slot, then age. Each round takes one lane of each user whose turn it is. Rows that another transaction holds
-- are passed over, so a claim never waits and never deadlocks.
CREATE FUNCTION queue.claim(claiming_worker uuid, free_slots integer, kinds text[] DEFAULT NULL)
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

-- Shows that a worker is alive, and tells where its memory and the table differ: attempts that it runs but that are no
-- longer its own, and tasks that stand as running with it although it does not run them.
CREATE FUNCTION queue.heartbeat(beating_worker uuid, running_tasks uuid[], running_attempts integer[])
  RETURNS TABLE (task_id uuid, attempt integer, is_lost boolean)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
BEGIN
  INSERT INTO workers (id) VALUES (beating_worker)
  ON CONFLICT (id) DO UPDATE SET heartbeat_at = clock_timestamp();
  RETURN QUERY
    SELECT coalesce(run.task_id, held.id), coalesce(run.attempt, held.attempt), held.id IS NULL
    FROM unnest(running_tasks, running_attempts) AS run (task_id, attempt)
    FULL JOIN (
      SELECT tasks.id, tasks.attempt FROM tasks WHERE tasks.worker_id = beating_worker AND tasks.state = 'RUNNING'
    ) AS held ON held.id = run.task_id AND held.attempt = run.attempt
    WHERE run.task_id IS NULL OR held.id IS NULL;
END
$$;

-- Puts tasks of silent workers back, and retries that are due. The attempt number makes the old runs powerless. One
-- process at a time. What someone holds is left for the next round: a process that was stopped in the middle of a
-- transaction may hold it for long, and must not hold up what others lost.
CREATE FUNCTION queue.rescue(lease interval, batch integer) RETURNS integer
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  lost record;
  rescued integer := 0;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtext('retinue.rescue')) THEN
    RETURN 0;
  END IF;
  FOR lost IN
    SELECT found.user_id, found.id, found.lane_id FROM (
      SELECT tasks.user_id, tasks.id, tasks.lane_id FROM tasks
      LEFT JOIN workers ON workers.id = tasks.worker_id
      WHERE tasks.state = 'RUNNING' AND (workers.id IS NULL OR workers.heartbeat_at < clock_timestamp() - lease)
      UNION ALL
      SELECT tasks.user_id, tasks.id, tasks.lane_id FROM tasks
      WHERE tasks.state = 'RETRYING' AND tasks.due_at <= clock_timestamp()
    ) AS found
    ORDER BY found.user_id, found.lane_id, found.id
    LIMIT batch
  LOOP
    PERFORM FROM lanes
    JOIN tasks ON tasks.user_id = lanes.user_id AND tasks.id = lost.id
    JOIN tenants ON tenants.user_id = lanes.user_id
    WHERE lanes.user_id = lost.user_id AND lanes.id = lost.lane_id
    FOR NO KEY UPDATE SKIP LOCKED;
    CONTINUE WHEN NOT FOUND;
    UPDATE tasks SET state = 'QUEUED', worker_id = NULL,
      crashes = tasks.crashes + (tasks.state = 'RUNNING')::integer
    WHERE tasks.user_id = lost.user_id AND tasks.id = lost.id
      AND (
        (tasks.state = 'RUNNING' AND NOT EXISTS (
          SELECT FROM workers WHERE workers.id = tasks.worker_id AND workers.heartbeat_at >= clock_timestamp() - lease))
        OR (tasks.state = 'RETRYING' AND tasks.due_at <= clock_timestamp())
      );
    rescued := rescued + FOUND::integer;
  END LOOP;
  DELETE FROM workers WHERE workers.heartbeat_at < clock_timestamp() - lease * 10
    AND NOT EXISTS (SELECT FROM tasks WHERE tasks.worker_id = workers.id AND tasks.state = 'RUNNING');
  RETURN rescued;
END
$$;

-- Whether the worker is the one that does what one is enough for: the longest-lived of those alive.
CREATE FUNCTION queue.leads(asking_worker uuid, lease interval) RETURNS boolean
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  SELECT coalesce((
    SELECT id = asking_worker FROM workers
    WHERE heartbeat_at >= clock_timestamp() - lease ORDER BY started_at, id LIMIT 1
  ), false)
$$;

-- Queues tasks again that stand as running with a worker: all of them, or those given with their attempts.
CREATE FUNCTION queue.put_back(holding_worker uuid, held_tasks uuid[], held_attempts integer[], is_crash boolean)
  RETURNS integer
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  owner uuid;
  held uuid[];
  put_back integer := 0;
BEGIN
  FOR owner, held IN
    SELECT tasks.user_id, array_agg(tasks.id) FROM tasks
    WHERE tasks.worker_id = holding_worker AND tasks.state = 'RUNNING'
      AND (held_tasks IS NULL OR EXISTS (
        SELECT FROM unnest(held_tasks, held_attempts) AS given (id, attempt)
        WHERE given.id = tasks.id AND given.attempt = tasks.attempt
      ))
    GROUP BY tasks.user_id ORDER BY tasks.user_id
  LOOP
    PERFORM FROM lanes
    WHERE lanes.user_id = owner
      AND lanes.id IN (SELECT tasks.lane_id FROM tasks WHERE tasks.user_id = owner AND tasks.id = ANY (held))
    ORDER BY lanes.id
    FOR NO KEY UPDATE;
    WITH changed AS (
      UPDATE tasks SET state = 'QUEUED', worker_id = NULL, crashes = tasks.crashes + is_crash::integer
      WHERE tasks.user_id = owner AND tasks.id = ANY (held) AND tasks.worker_id = holding_worker AND tasks.state = 'RUNNING'
      RETURNING tasks.id
    )
    SELECT put_back + count(*) INTO put_back FROM changed;
  END LOOP;
  RETURN put_back;
END
$$;

-- A worker that stops in good order hands back what it could not finish; that is no crash of theirs.
CREATE FUNCTION queue.retire(retiring_worker uuid) RETURNS integer
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
DECLARE
  released integer := queue.put_back(retiring_worker, NULL, NULL, false);
BEGIN
  DELETE FROM workers WHERE workers.id = retiring_worker;
  RETURN released;
END
$$;

-- Tasks that have run or waited for a worker longer than they should, for the report of the upkeep.
CREATE FUNCTION queue.stuck(running_limit interval, queued_limit interval, batch integer)
  RETURNS TABLE (task_id uuid, state task_state, age interval)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  SELECT id, state, clock_timestamp() - CASE WHEN state = 'RUNNING' THEN started_at ELSE due_at END
  FROM tasks
  WHERE (state = 'RUNNING' AND started_at < clock_timestamp() - running_limit)
    OR (state = 'QUEUED' AND due_at < clock_timestamp() - queued_limit)
  LIMIT batch
$$;

-- From here on: what a user's own transaction does with the user's own tasks, under the policies.

-- Locks the lanes of tasks in the one order that all use.
CREATE FUNCTION queue.lock_lanes(locked_tasks uuid[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
BEGIN
  PERFORM FROM lanes
  WHERE lanes.user_id = app.user_id()
    AND lanes.id IN (SELECT tasks.lane_id FROM tasks WHERE tasks.user_id = app.user_id() AND tasks.id = ANY (locked_tasks))
  ORDER BY lanes.id
  FOR NO KEY UPDATE;
END
$$;

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

-- Puts a waiting task back into the queue: its approval was decided. The time it waited does not count as running.
CREATE FUNCTION queue.resume(resumed_task uuid) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  AS $$
BEGIN
  PERFORM queue.lock_lanes(ARRAY[resumed_task]);
  UPDATE tasks SET state = 'QUEUED', due_at = clock_timestamp(), waiting_since = NULL,
    deadline_at = tasks.deadline_at + (clock_timestamp() - tasks.waiting_since)
  WHERE tasks.user_id = app.user_id() AND tasks.id = resumed_task AND tasks.state = 'WAITING';
  RETURN FOUND;
END
$$;

ALTER FUNCTION queue.claim(uuid, integer, text[]) OWNER TO app_queue;
ALTER FUNCTION queue.heartbeat(uuid, uuid[], integer[]) OWNER TO app_queue;
ALTER FUNCTION queue.rescue(interval, integer) OWNER TO app_queue;
ALTER FUNCTION queue.leads(uuid, interval) OWNER TO app_queue;
ALTER FUNCTION queue.put_back(uuid, uuid[], integer[], boolean) OWNER TO app_queue;
ALTER FUNCTION queue.retire(uuid) OWNER TO app_queue;
ALTER FUNCTION queue.stuck(interval, interval, integer) OWNER TO app_queue;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA queue FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.claim(uuid, integer, text[]), queue.heartbeat(uuid, uuid[], integer[]),
  queue.rescue(interval, integer), queue.leads(uuid, interval), queue.retire(uuid),
  queue.put_back(uuid, uuid[], integer[], boolean), queue.stuck(interval, interval, integer) TO app_worker;
GRANT EXECUTE ON FUNCTION queue.lock_lanes(uuid[]), queue.lock_for_end(uuid[], uuid, uuid), queue.skip(uuid[]),
  queue.cancel(uuid[], uuid, uuid), queue.resume(uuid),
  queue.end_attempt(uuid, integer, task_state, text, text, timestamptz) TO app_user;

-- Down Migration

DROP TRIGGER add_tenant ON users;
ALTER TABLE messages DROP COLUMN task_id;
DROP TABLE task_steps;
DROP TABLE task_dependencies;
DROP TABLE tasks;
DROP TABLE workers;
DROP TABLE lanes;
DROP TABLE tenants;
DROP SCHEMA queue CASCADE;
DROP TYPE task_step_kind;
DROP TYPE task_state;
DROP TYPE lane_kind;
