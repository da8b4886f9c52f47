-- The task engine's tables: tenants and lanes (counts that are the mutex of every limit), tasks, their dependencies and steps.
-- Up Migration

CREATE TYPE lane_kind AS ENUM ('AGENT', 'ORCHESTRATOR', 'MEMORY');
CREATE TYPE task_kind AS ENUM ('AGENT_RUN');
CREATE TYPE task_state AS ENUM
  ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING', 'COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED');
CREATE TYPE task_step_kind AS ENUM ('MODEL', 'TOOL');

-- One row per user of the engine: whose turn it is, and how much of the user's work is queued and running.
CREATE TABLE tenants (
  user_id uuid PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
  queued integer NOT NULL DEFAULT 0,
  running integer NOT NULL DEFAULT 0,
  max_running integer NOT NULL DEFAULT 20 CHECK (max_running >= 0),
  served_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tenants_ready_idx ON tenants (served_at, user_id) WHERE queued > 0 AND running < max_running;
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
  served_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id),
  UNIQUE (user_id, agent_id, kind),
  UNIQUE (user_id, orchestrator_id, kind),
  FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, orchestrator_id) REFERENCES orchestrators (user_id, id) ON DELETE CASCADE
);
CREATE INDEX lanes_ready_idx ON lanes (user_id, served_at, id) WHERE queued > 0 AND running < max_running;
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
  kind task_kind NOT NULL,
  lane_id uuid,
  agent_id uuid,
  session_id uuid,
  plan_id uuid,
  message_id uuid,
  answer_id uuid NOT NULL DEFAULT uuidv7(),
  state task_state NOT NULL DEFAULT 'QUEUED',
  session_order integer,
  attempt integer NOT NULL DEFAULT 0,
  max_attempts integer NOT NULL DEFAULT 5 CHECK (max_attempts > 0),
  worker_id uuid,
  progress double precision NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
  progress_note text,
  error_code text,
  error_message text,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  due_at timestamptz(3) NOT NULL DEFAULT now(),
  started_at timestamptz(3),
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
GRANT SELECT (user_id, id, kind, lane_id, agent_id, session_id, state, session_order, attempt, max_attempts, worker_id, due_at, created_at, started_at),
  UPDATE (state, attempt, worker_id, due_at, started_at) ON tasks TO app_queue;
GRANT SELECT, INSERT, UPDATE, DELETE ON workers TO app_queue;

-- A user of the engine exists from the first sight of the user.
CREATE FUNCTION queue.add_tenant() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
BEGIN
  INSERT INTO tenants (user_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
  RETURN NULL;
END
$$;
ALTER FUNCTION queue.add_tenant() OWNER TO app_queue;
CREATE TRIGGER add_tenant AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION queue.add_tenant();

-- Counts change in the transaction that changes a task's state, so that limits read from them are exact.
-- Lock order everywhere: lane, task, tenant, session, user.
CREATE FUNCTION queue.count_task() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
DECLARE
  left_state task_state := CASE WHEN TG_OP <> 'INSERT' AND OLD.lane_id IS NOT NULL THEN OLD.state END;
  entered_state task_state := CASE WHEN TG_OP <> 'DELETE' AND NEW.lane_id IS NOT NULL THEN NEW.state END;
  lane uuid := CASE WHEN TG_OP = 'INSERT' THEN NEW.lane_id ELSE OLD.lane_id END;
  owner uuid := CASE WHEN TG_OP = 'INSERT' THEN NEW.user_id ELSE OLD.user_id END;
  starts boolean := entered_state IS NOT DISTINCT FROM 'RUNNING' AND left_state IS DISTINCT FROM 'RUNNING';
BEGIN
  UPDATE lanes SET
    blocked = blocked + (entered_state IS NOT DISTINCT FROM 'BLOCKED')::int - (left_state IS NOT DISTINCT FROM 'BLOCKED')::int,
    queued = queued + (entered_state IS NOT DISTINCT FROM 'QUEUED')::int - (left_state IS NOT DISTINCT FROM 'QUEUED')::int,
    retrying = retrying + (entered_state IS NOT DISTINCT FROM 'RETRYING')::int - (left_state IS NOT DISTINCT FROM 'RETRYING')::int,
    running = running + (entered_state IS NOT DISTINCT FROM 'RUNNING')::int - (left_state IS NOT DISTINCT FROM 'RUNNING')::int,
    served_at = CASE WHEN starts THEN clock_timestamp() ELSE served_at END
  WHERE user_id = owner AND id = lane;
  UPDATE tenants SET
    queued = queued + (entered_state IS NOT DISTINCT FROM 'QUEUED')::int - (left_state IS NOT DISTINCT FROM 'QUEUED')::int,
    running = running + (entered_state IS NOT DISTINCT FROM 'RUNNING')::int - (left_state IS NOT DISTINCT FROM 'RUNNING')::int,
    served_at = CASE WHEN starts THEN clock_timestamp() ELSE served_at END
  WHERE user_id = owner;
  RETURN NULL;
END
$$;
ALTER FUNCTION queue.count_task() OWNER TO app_queue;
CREATE TRIGGER count_inserted_task AFTER INSERT ON tasks FOR EACH ROW
  WHEN (NEW.lane_id IS NOT NULL) EXECUTE FUNCTION queue.count_task();
CREATE TRIGGER count_changed_task AFTER UPDATE ON tasks FOR EACH ROW
  WHEN (OLD.lane_id IS NOT NULL AND (OLD.state <> NEW.state OR NEW.lane_id IS NULL)) EXECUTE FUNCTION queue.count_task();
CREATE TRIGGER count_deleted_task AFTER DELETE ON tasks FOR EACH ROW
  WHEN (OLD.lane_id IS NOT NULL) EXECUTE FUNCTION queue.count_task();

-- Hands due tasks to a worker: the least recently served user first, then that user's least recently served lane with
-- a free slot, then age. Rows that another transaction holds are passed over, so claims never wait and never deadlock.
CREATE FUNCTION queue.claim(claiming_worker uuid, free_slots integer)
  RETURNS TABLE (user_id uuid, task_id uuid, attempt integer)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
DECLARE
  candidate record;
  claimed record;
  passed_over uuid[] := '{}';
  claims integer := 0;
BEGIN
  WHILE claims < free_slots AND cardinality(passed_over) < 64 LOOP
    SELECT ready.user_id, ready.lane_id INTO candidate
    FROM tenants
    CROSS JOIN LATERAL (
      SELECT lanes.user_id, lanes.id AS lane_id FROM lanes
      WHERE lanes.user_id = tenants.user_id AND lanes.queued > 0 AND lanes.running < lanes.max_running
        AND lanes.id <> ALL (passed_over)
      ORDER BY lanes.served_at, lanes.id
      LIMIT 1
      FOR NO KEY UPDATE SKIP LOCKED
    ) AS ready
    WHERE tenants.queued > 0 AND tenants.running < tenants.max_running
    ORDER BY tenants.served_at, tenants.user_id
    LIMIT 1
    FOR NO KEY UPDATE OF tenants SKIP LOCKED;
    EXIT WHEN NOT FOUND;

    -- A fresh statement sees the lane as it is now that its lock is held.
    UPDATE tasks SET state = 'RUNNING', attempt = tasks.attempt + 1, worker_id = claiming_worker,
      started_at = coalesce(tasks.started_at, clock_timestamp())
    FROM (
      SELECT due.id FROM tasks AS due
      JOIN lanes ON lanes.user_id = due.user_id AND lanes.id = due.lane_id AND lanes.running < lanes.max_running
      JOIN tenants ON tenants.user_id = due.user_id AND tenants.running < tenants.max_running
      WHERE due.user_id = candidate.user_id AND due.lane_id = candidate.lane_id AND due.state = 'QUEUED'
        AND NOT EXISTS (
          SELECT FROM tasks AS earlier
          WHERE earlier.user_id = due.user_id AND earlier.session_id = due.session_id
            AND earlier.session_order < due.session_order
            AND earlier.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')
        )
      ORDER BY due.due_at, due.id
      LIMIT 1
      FOR NO KEY UPDATE OF due SKIP LOCKED
    ) AS next
    WHERE tasks.user_id = candidate.user_id AND tasks.id = next.id
    RETURNING tasks.user_id, tasks.id, tasks.attempt INTO claimed;

    IF FOUND THEN
      claims := claims + 1;
      user_id := claimed.user_id;
      task_id := claimed.id;
      attempt := claimed.attempt;
      RETURN NEXT;
    ELSE
      passed_over := passed_over || candidate.lane_id;
    END IF;
  END LOOP;
END
$$;

-- Marks the worker alive. Its tasks are its own as long as this is fresh.
CREATE FUNCTION queue.heartbeat(beating_worker uuid) RETURNS void
  LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  INSERT INTO workers (id) VALUES (beating_worker)
  ON CONFLICT (id) DO UPDATE SET heartbeat_at = clock_timestamp()
$$;

-- Puts tasks of silent workers back, and retries that are due. The attempt number makes their old runs powerless.
CREATE FUNCTION queue.rescue(lease interval, batch integer) RETURNS integer
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
DECLARE
  lost record;
  rescued integer := 0;
BEGIN
  FOR lost IN
    SELECT tasks.user_id, tasks.id, tasks.lane_id FROM tasks
    LEFT JOIN workers ON workers.id = tasks.worker_id
    WHERE tasks.state = 'RUNNING' AND (workers.id IS NULL OR workers.heartbeat_at < clock_timestamp() - lease)
    UNION ALL
    SELECT tasks.user_id, tasks.id, tasks.lane_id FROM tasks
    WHERE tasks.state = 'RETRYING' AND tasks.due_at <= clock_timestamp()
    ORDER BY lane_id, id
    LIMIT batch
  LOOP
    -- Lane before task, and a lane in use is left for the next round.
    PERFORM FROM lanes WHERE lanes.user_id = lost.user_id AND lanes.id = lost.lane_id FOR NO KEY UPDATE SKIP LOCKED;
    CONTINUE WHEN NOT FOUND;
    UPDATE tasks SET state = 'QUEUED', worker_id = NULL
    WHERE tasks.user_id = lost.user_id AND tasks.id = lost.id
      AND (
        (tasks.state = 'RUNNING' AND NOT EXISTS (
          SELECT FROM workers WHERE workers.id = tasks.worker_id AND workers.heartbeat_at >= clock_timestamp() - lease))
        OR (tasks.state = 'RETRYING' AND tasks.due_at <= clock_timestamp())
      );
    IF FOUND THEN
      rescued := rescued + 1;
    END IF;
  END LOOP;
  DELETE FROM workers WHERE workers.heartbeat_at < clock_timestamp() - lease * 10
    AND NOT EXISTS (SELECT FROM tasks WHERE tasks.worker_id = workers.id AND tasks.state = 'RUNNING');
  RETURN rescued;
END
$$;

-- Takes the worker off the list at once, so that what it still held is rescued without waiting for its lease.
CREATE FUNCTION queue.retire(retiring_worker uuid) RETURNS void
  LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$ DELETE FROM workers WHERE id = retiring_worker $$;

ALTER FUNCTION queue.claim(uuid, integer) OWNER TO app_queue;
ALTER FUNCTION queue.heartbeat(uuid) OWNER TO app_queue;
ALTER FUNCTION queue.rescue(interval, integer) OWNER TO app_queue;
ALTER FUNCTION queue.retire(uuid) OWNER TO app_queue;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA queue FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.claim(uuid, integer), queue.heartbeat(uuid), queue.rescue(interval, integer), queue.retire(uuid) TO app_worker;

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
DROP TYPE task_kind;
DROP TYPE lane_kind;
