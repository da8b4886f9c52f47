-- Fewer changes of indexes: each change of a task's state changed eleven, some of them for columns that are mostly null, and
-- each event changed four of its user's row.
-- Up Migration

-- A reference that most rows don't have costs nothing in an index without them.
DROP INDEX tasks_user_id_session_id_idx, tasks_user_id_plan_id_idx, tasks_user_id_message_id_idx;
CREATE INDEX tasks_user_id_session_id_idx ON tasks (user_id, session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX tasks_user_id_plan_id_idx ON tasks (user_id, plan_id) WHERE plan_id IS NOT NULL;
CREATE INDEX tasks_user_id_message_id_idx ON tasks (user_id, message_id) WHERE message_id IS NOT NULL;
DROP INDEX messages_user_id_agent_id_idx, messages_user_id_plan_id_idx, messages_user_id_task_id_idx;
CREATE INDEX messages_user_id_agent_id_idx ON messages (user_id, agent_id) WHERE agent_id IS NOT NULL;
CREATE INDEX messages_user_id_plan_id_idx ON messages (user_id, plan_id) WHERE plan_id IS NOT NULL;
CREATE INDEX messages_user_id_task_id_idx ON messages (user_id, task_id) WHERE task_id IS NOT NULL;
DROP INDEX sessions_user_id_orchestrator_id_idx;
CREATE INDEX sessions_user_id_orchestrator_id_idx ON sessions (user_id, orchestrator_id) WHERE orchestrator_id IS NOT NULL;
ALTER TABLE lanes DROP CONSTRAINT lanes_user_id_orchestrator_id_kind_key;
CREATE UNIQUE INDEX lanes_user_id_orchestrator_id_kind_key ON lanes (user_id, orchestrator_id, kind)
  WHERE orchestrator_id IS NOT NULL;

-- Room in each page for what changes no index, such as progress: such a change then stays in its page and touches none.
ALTER TABLE tasks SET (fillfactor = 80);
ALTER TABLE users SET (fillfactor = 70);

-- An index over the number of an event changed with each of them. This one changes once in 500.
DROP INDEX users_events_unchecked_idx;
ALTER TABLE users ADD COLUMN has_many_events boolean NOT NULL
  GENERATED ALWAYS AS (event_sequence - events_checked_sequence >= 500) STORED;
CREATE INDEX users_has_many_events_idx ON users (id) WHERE has_many_events;
GRANT SELECT (has_many_events) ON users TO app_queue;
CREATE OR REPLACE FUNCTION queue.users_to_trim(event_life interval, batch integer) RETURNS TABLE (user_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  (SELECT users.id FROM users WHERE users.has_many_events LIMIT batch)
  UNION
  (
    SELECT users.id FROM users
    WHERE users.events_checked_at < now() - least(event_life / 20, interval '1 day')
    ORDER BY users.events_checked_at LIMIT batch
  )
  LIMIT batch
$$;

-- Down Migration

DROP INDEX users_has_many_events_idx;
CREATE OR REPLACE FUNCTION queue.users_to_trim(event_life interval, batch integer) RETURNS TABLE (user_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  (SELECT users.id FROM users WHERE users.event_sequence - users.events_checked_sequence >= 500 LIMIT batch)
  UNION
  (
    SELECT users.id FROM users
    WHERE users.events_checked_at < now() - least(event_life / 20, interval '1 day')
    ORDER BY users.events_checked_at LIMIT batch
  )
  LIMIT batch
$$;
ALTER TABLE users DROP COLUMN has_many_events;
CREATE INDEX users_events_unchecked_idx ON users ((event_sequence - events_checked_sequence))
  WHERE event_sequence - events_checked_sequence >= 500;

ALTER TABLE users RESET (fillfactor);
ALTER TABLE tasks RESET (fillfactor);

DROP INDEX lanes_user_id_orchestrator_id_kind_key;
ALTER TABLE lanes ADD UNIQUE (user_id, orchestrator_id, kind);
DROP INDEX sessions_user_id_orchestrator_id_idx;
CREATE INDEX sessions_user_id_orchestrator_id_idx ON sessions (user_id, orchestrator_id);
DROP INDEX messages_user_id_agent_id_idx, messages_user_id_plan_id_idx, messages_user_id_task_id_idx;
CREATE INDEX messages_user_id_agent_id_idx ON messages (user_id, agent_id);
CREATE INDEX messages_user_id_plan_id_idx ON messages (user_id, plan_id);
CREATE INDEX messages_user_id_task_id_idx ON messages (user_id, task_id);
DROP INDEX tasks_user_id_session_id_idx, tasks_user_id_plan_id_idx, tasks_user_id_message_id_idx;
CREATE INDEX tasks_user_id_session_id_idx ON tasks (user_id, session_id, id);
CREATE INDEX tasks_user_id_plan_id_idx ON tasks (user_id, plan_id);
CREATE INDEX tasks_user_id_message_id_idx ON tasks (user_id, message_id);
