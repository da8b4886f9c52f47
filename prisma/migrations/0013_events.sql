-- How far many users' logs go, in one round trip, for a process that watches them on behalf of their readers.
-- Up Migration

-- With the caller's rights: each position is read as its user, under the same policies as any other read.
CREATE FUNCTION app.event_positions(users_to_read uuid[])
  RETURNS TABLE (user_id uuid, last bigint, trimmed_through bigint)
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  AS $$
DECLARE
  reader uuid;
BEGIN
  FOREACH reader IN ARRAY users_to_read LOOP
    PERFORM set_config('app.user_id', reader::text, true);
    RETURN QUERY SELECT u.id, u.event_sequence, u.events_trimmed_through FROM users u WHERE u.id = reader;
  END LOOP;
  PERFORM set_config('app.user_id', '', true);
END
$$;
REVOKE ALL ON FUNCTION app.event_positions(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.event_positions(uuid[]) TO app_user;

-- Down Migration

DROP FUNCTION app.event_positions(uuid[]);
