-- Quotas of single users, what model calls cost, and totals by day.
-- Up Migration

-- Where a user's quota differs from the configuration's. Only operators write here.
CREATE TABLE quotas (
  user_id uuid PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
  agents bigint CHECK (agents >= 0),
  sessions bigint CHECK (sessions >= 0),
  stored_bytes bigint CHECK (stored_bytes >= 0),
  concurrent_tasks bigint CHECK (concurrent_tasks >= 0),
  tokens_per_day bigint CHECK (tokens_per_day >= 0),
  updated_at timestamptz(3) NOT NULL DEFAULT now()
);
SELECT app.isolate('quotas');
GRANT SELECT ON quotas TO app_user;

-- Millionths of a US dollar, by the prices at the time of the call.
ALTER TABLE model_usage ADD COLUMN cost_micros bigint NOT NULL DEFAULT 0 CHECK (cost_micros >= 0);

-- Totals of model_usage, so that a quota is one look and single calls need not be kept for ever. Days are of UTC.
CREATE TABLE usage_days (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  day date NOT NULL,
  kind model_usage_kind NOT NULL,
  model text NOT NULL,
  calls bigint NOT NULL,
  prompt_tokens bigint NOT NULL,
  completion_tokens bigint NOT NULL,
  cost_micros bigint NOT NULL,
  PRIMARY KEY (user_id, day, kind, model)
);
SELECT app.isolate('usage_days');
GRANT SELECT, INSERT, UPDATE ON usage_days TO app_user;

CREATE FUNCTION app.add_usage() RETURNS trigger
  LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  AS $$
BEGIN
  INSERT INTO usage_days AS total (user_id, day, kind, model, calls, prompt_tokens, completion_tokens, cost_micros)
  SELECT user_id, (created_at AT TIME ZONE 'UTC')::date, kind, model,
    count(*), sum(prompt_tokens), sum(completion_tokens), sum(cost_micros)
  FROM new_rows GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
  ON CONFLICT (user_id, day, kind, model) DO UPDATE SET
    calls = total.calls + excluded.calls,
    prompt_tokens = total.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = total.completion_tokens + excluded.completion_tokens,
    cost_micros = total.cost_micros + excluded.cost_micros;
  RETURN NULL;
END
$$;
CREATE TRIGGER add_usage AFTER INSERT ON model_usage REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION app.add_usage();

-- Bytes of a user's documents, counted in the transaction that changes them.
ALTER TABLE tenants ADD COLUMN stored_bytes bigint NOT NULL DEFAULT 0;
DO $make$
DECLARE
  event record;
BEGIN
  FOR event IN
    SELECT * FROM (VALUES
      ('insert', 'NEW TABLE AS new_rows', 'SELECT user_id, bytes FROM new_rows'),
      ('delete', 'OLD TABLE AS old_rows', 'SELECT user_id, -bytes FROM old_rows'),
      ('update', 'OLD TABLE AS old_rows NEW TABLE AS new_rows',
        'SELECT user_id, bytes FROM new_rows UNION ALL SELECT user_id, -bytes FROM old_rows')
    ) AS event (name, tables, changes)
  LOOP
    EXECUTE format($function$
      CREATE FUNCTION queue.count_bytes_after_%1$s() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET plan_cache_mode = force_generic_plan
        AS $$
      BEGIN
        UPDATE tenants SET stored_bytes = tenants.stored_bytes + moved.bytes
        FROM (SELECT change.user_id, sum(change.bytes) AS bytes FROM (%2$s) AS change (user_id, bytes) GROUP BY 1) AS moved
        WHERE tenants.user_id = moved.user_id AND moved.bytes <> 0;
        RETURN NULL;
      END
      $$;
      ALTER FUNCTION queue.count_bytes_after_%1$s() OWNER TO app_queue;
      CREATE TRIGGER count_bytes_after_%1$s AFTER %1$s ON memory_documents REFERENCING %3$s
        FOR EACH STATEMENT EXECUTE FUNCTION queue.count_bytes_after_%1$s();
    $function$, event.name, event.changes, event.tables);
  END LOOP;
END
$make$;
REVOKE ALL ON FUNCTION app.add_usage(), queue.count_bytes_after_insert(), queue.count_bytes_after_update(),
  queue.count_bytes_after_delete() FROM PUBLIC;

-- What was there before is counted too. Its owner would see none of it by force.
ALTER TABLE model_usage NO FORCE ROW LEVEL SECURITY;
ALTER TABLE usage_days NO FORCE ROW LEVEL SECURITY;
ALTER TABLE memory_documents NO FORCE ROW LEVEL SECURITY;
ALTER TABLE tenants NO FORCE ROW LEVEL SECURITY;
INSERT INTO usage_days (user_id, day, kind, model, calls, prompt_tokens, completion_tokens, cost_micros)
  SELECT user_id, (created_at AT TIME ZONE 'UTC')::date, kind, model,
    count(*), sum(prompt_tokens), sum(completion_tokens), sum(cost_micros)
  FROM model_usage GROUP BY 1, 2, 3, 4;
UPDATE tenants SET stored_bytes = stored.bytes
  FROM (SELECT user_id, sum(bytes) AS bytes FROM memory_documents GROUP BY user_id) AS stored
  WHERE tenants.user_id = stored.user_id;
ALTER TABLE model_usage FORCE ROW LEVEL SECURITY;
ALTER TABLE usage_days FORCE ROW LEVEL SECURITY;
ALTER TABLE memory_documents FORCE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;

-- Down Migration

DROP TRIGGER count_bytes_after_insert ON memory_documents;
DROP TRIGGER count_bytes_after_update ON memory_documents;
DROP TRIGGER count_bytes_after_delete ON memory_documents;
DROP FUNCTION queue.count_bytes_after_insert();
DROP FUNCTION queue.count_bytes_after_update();
DROP FUNCTION queue.count_bytes_after_delete();
ALTER TABLE tenants DROP COLUMN stored_bytes;
DROP TRIGGER add_usage ON model_usage;
DROP FUNCTION app.add_usage();
DROP TABLE usage_days;
ALTER TABLE model_usage DROP COLUMN cost_micros;
DROP TABLE quotas;
