-- What the upkeep may see of all users: whose sessions and events are due for removal. The removal acts as each user.
-- Up Migration

ALTER TABLE users ADD COLUMN events_checked_sequence bigint NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN events_checked_at timestamptz(3) NOT NULL DEFAULT now();
CREATE INDEX users_events_checked_at_idx ON users (events_checked_at);
CREATE INDEX users_events_unchecked_idx ON users ((event_sequence - events_checked_sequence))
  WHERE event_sequence - events_checked_sequence >= 500;
CREATE INDEX sessions_expires_at_idx ON sessions (expires_at);
GRANT UPDATE (events_trimmed_through, events_checked_sequence, events_checked_at) ON users TO app_user;

CREATE POLICY engine ON users FOR SELECT TO app_queue USING (true);
CREATE POLICY engine ON sessions FOR SELECT TO app_queue USING (true);
GRANT SELECT (id, event_sequence, events_checked_sequence, events_checked_at) ON users TO app_queue;
GRANT SELECT (user_id, id, expires_at) ON sessions TO app_queue;
CREATE POLICY engine ON approvals FOR SELECT TO app_queue USING (true);
GRANT SELECT (user_id, id, state, expires_at) ON approvals TO app_queue;

-- By the database's clock, so that approvals also expire that were pending while every process was down.
CREATE FUNCTION queue.expired_approvals(batch integer) RETURNS TABLE (user_id uuid, approval_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  SELECT approvals.user_id, approvals.id FROM approvals
  WHERE approvals.state = 'PENDING' AND approvals.expires_at <= now() ORDER BY approvals.expires_at LIMIT batch
$$;

CREATE FUNCTION queue.expired_sessions(kept_for interval, batch integer) RETURNS TABLE (user_id uuid, session_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  SELECT sessions.user_id, sessions.id FROM sessions
  WHERE sessions.expires_at < now() - kept_for ORDER BY sessions.expires_at LIMIT batch
$$;

-- Users with many events since the last look, and those whose last look is long ago: a twentieth of an event's life,
-- or a day.
CREATE FUNCTION queue.users_to_trim(event_life interval, batch integer) RETURNS TABLE (user_id uuid)
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

-- Takes old events out of the caller's own log. Deleting locks no row that a writer needs, but for the caller's own row
-- at the end, as every event does.
CREATE FUNCTION queue.trim_events(event_life interval, kept_per_session integer) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  AS $$
DECLARE
  caller uuid := app.user_id();
  seen bigint := (SELECT event_sequence FROM users WHERE id = caller);
  trimmed bigint;
BEGIN
  WITH crowded AS (
    SELECT recent.session_id, (
      SELECT events.sequence FROM events
      WHERE events.user_id = caller AND events.session_id = recent.session_id
      ORDER BY events.sequence DESC OFFSET kept_per_session LIMIT 1
    ) AS newest_surplus
    FROM (
      SELECT DISTINCT events.session_id FROM events
      WHERE events.user_id = caller AND events.session_id IS NOT NULL
        AND events.sequence > (SELECT events_checked_sequence FROM users WHERE id = caller)
    ) AS recent
  ), surplus AS (
    DELETE FROM events USING crowded
    WHERE events.user_id = caller AND events.session_id = crowded.session_id AND events.sequence <= crowded.newest_surplus
    RETURNING events.sequence
  ), outdated AS (
    DELETE FROM events
    WHERE events.user_id = caller AND events.created_at < now() - event_life
    RETURNING events.sequence
  )
  SELECT max(gone.sequence) INTO trimmed
  FROM (SELECT sequence FROM surplus UNION ALL SELECT sequence FROM outdated) AS gone;
  UPDATE users SET
    events_trimmed_through = greatest(events_trimmed_through, coalesce(trimmed, 0)),
    events_checked_sequence = seen,
    events_checked_at = now()
  WHERE id = caller;
END
$$;

ALTER FUNCTION queue.expired_approvals(integer) OWNER TO app_queue;
ALTER FUNCTION queue.expired_sessions(interval, integer) OWNER TO app_queue;
ALTER FUNCTION queue.users_to_trim(interval, integer) OWNER TO app_queue;
REVOKE ALL ON FUNCTION queue.expired_approvals(integer), queue.expired_sessions(interval, integer), queue.users_to_trim(interval, integer),
  queue.trim_events(interval, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.expired_approvals(integer), queue.expired_sessions(interval, integer), queue.users_to_trim(interval, integer) TO app_worker;
GRANT EXECUTE ON FUNCTION queue.trim_events(interval, integer) TO app_user;

-- Down Migration

DROP FUNCTION queue.trim_events(interval, integer);
DROP FUNCTION queue.users_to_trim(interval, integer);
DROP FUNCTION queue.expired_sessions(interval, integer);
DROP FUNCTION queue.expired_approvals(integer);
DROP POLICY engine ON approvals;
DROP POLICY engine ON sessions;
DROP POLICY engine ON users;
REVOKE SELECT (id, event_sequence, events_checked_sequence, events_checked_at) ON users FROM app_queue;
REVOKE SELECT (user_id, id, expires_at) ON sessions FROM app_queue;
REVOKE SELECT (user_id, id, state, expires_at) ON approvals FROM app_queue;
REVOKE UPDATE (events_trimmed_through, events_checked_sequence, events_checked_at) ON users FROM app_user;
DROP INDEX sessions_expires_at_idx;
DROP INDEX users_events_unchecked_idx;
DROP INDEX users_events_checked_at_idx;
ALTER TABLE users DROP COLUMN events_checked_at;
ALTER TABLE users DROP COLUMN events_checked_sequence;
