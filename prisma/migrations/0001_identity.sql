-- Roles, the caller's identity and the users table.
-- Up Migration

-- Roles belong to the whole cluster, so a second database of the same cluster finds them already there.
DO $$
DECLARE
  role_name text;
BEGIN
  FOREACH role_name IN ARRAY ARRAY['app_user', 'app_worker', 'app_queue', 'app_identity'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE', role_name);
    END IF;
  END LOOP;
END
$$;

-- A worker acts as one user after its claim: it inherits what app_user may do, under the same policies.
GRANT app_user TO app_worker WITH INHERIT TRUE, SET TRUE;
-- The migrating role must be able to hand functions over to the roles that own them.
GRANT app_queue, app_identity TO CURRENT_USER WITH INHERIT TRUE, SET TRUE;

CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO app_user, app_queue, app_identity;
GRANT CREATE ON SCHEMA app TO app_identity;

CREATE FUNCTION app.user_id() RETURNS uuid
  LANGUAGE sql STABLE PARALLEL SAFE
  AS $$ SELECT nullif(current_setting('app.user_id', true), '')::uuid $$;

-- One policy text for every table, so that an audit reads one line and a new table can't get its own variant.
CREATE FUNCTION app.isolate(target regclass, owner_column name DEFAULT 'user_id') RETURNS void
  LANGUAGE plpgsql
  AS $$
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
  EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
  EXECUTE format(
    'CREATE POLICY own_rows ON %s FOR ALL TO app_user USING (%I = (SELECT app.user_id())) WITH CHECK (%I = (SELECT app.user_id()))',
    target, owner_column, owner_column
  );
END
$$;

CREATE TABLE users (
  id uuid PRIMARY KEY DEFAULT uuidv7(),
  issuer text NOT NULL,
  subject text NOT NULL,
  event_sequence bigint NOT NULL DEFAULT 0,
  events_trimmed_through bigint NOT NULL DEFAULT 0,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  UNIQUE (issuer, subject)
);
SELECT app.isolate('users', 'id');
GRANT SELECT, UPDATE (event_sequence) ON users TO app_user;

-- The only place that may look a user up by token: it sees identities, nothing else of anyone.
CREATE POLICY sign_in ON users FOR ALL TO app_identity USING (true) WITH CHECK (true);
GRANT SELECT (id, issuer, subject), INSERT (issuer, subject) ON users TO app_identity;

CREATE FUNCTION app.sign_in(token_issuer text, token_subject text) RETURNS TABLE (user_id uuid, created boolean)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
BEGIN
  RETURN QUERY SELECT u.id, false FROM users u WHERE u.issuer = token_issuer AND u.subject = token_subject;
  IF FOUND THEN
    RETURN;
  END IF;
  RETURN QUERY INSERT INTO users AS u (issuer, subject) VALUES (token_issuer, token_subject)
    ON CONFLICT DO NOTHING RETURNING u.id, true;
  IF NOT FOUND THEN
    -- Someone else made the row between the two statements above.
    RETURN QUERY SELECT u.id, false FROM users u WHERE u.issuer = token_issuer AND u.subject = token_subject;
  END IF;
END
$$;
ALTER FUNCTION app.sign_in(text, text) OWNER TO app_identity;
REVOKE ALL ON FUNCTION app.sign_in(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.sign_in(text, text) TO app_user;

-- Down Migration

DROP FUNCTION app.sign_in(text, text);
DROP TABLE users;
DROP FUNCTION app.isolate(regclass, name);
DROP FUNCTION app.user_id();
DROP SCHEMA app;
-- The roles stay: other databases of the cluster may use them.
