-- The event log, the record of model use and the keys that make a repeated mutation harmless.
-- Up Migration

CREATE TYPE model_usage_kind AS ENUM ('CHAT', 'EMBEDDING');

-- The session is no foreign key: an event outlives what it tells of until retention takes it.
CREATE TABLE events (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  sequence bigint NOT NULL,
  type text NOT NULL,
  session_id uuid,
  data jsonb NOT NULL CHECK (pg_column_size(data) <= 65536),
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, sequence)
);
CREATE INDEX events_user_id_session_id_sequence_idx ON events (user_id, session_id, sequence);
SELECT app.isolate('events');
GRANT SELECT, INSERT, DELETE ON events TO app_user;

CREATE TABLE model_usage (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  id uuid NOT NULL DEFAULT uuidv7(),
  kind model_usage_kind NOT NULL,
  agent_id uuid,
  task_id uuid,
  model text NOT NULL,
  prompt_tokens integer NOT NULL CHECK (prompt_tokens >= 0),
  completion_tokens integer NOT NULL CHECK (completion_tokens >= 0),
  duration_milliseconds integer NOT NULL CHECK (duration_milliseconds >= 0),
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id),
  FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE SET NULL (agent_id),
  FOREIGN KEY (user_id, task_id) REFERENCES tasks (user_id, id) ON DELETE SET NULL (task_id)
);
CREATE INDEX model_usage_user_id_created_at_idx ON model_usage (user_id, created_at);
CREATE INDEX model_usage_user_id_agent_id_idx ON model_usage (user_id, agent_id);
CREATE INDEX model_usage_user_id_task_id_idx ON model_usage (user_id, task_id);
SELECT app.isolate('model_usage');
GRANT SELECT, INSERT, DELETE ON model_usage TO app_user;

-- One row per mutation field that carried an Idempotency-Key, written in that field's own transaction.
CREATE TABLE idempotency_keys (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  key text NOT NULL,
  path text NOT NULL,
  request_hash text NOT NULL,
  outcome jsonb NOT NULL,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, key, path)
);
CREATE INDEX idempotency_keys_user_id_created_at_idx ON idempotency_keys (user_id, created_at);
SELECT app.isolate('idempotency_keys');
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO app_user;

-- Down Migration

DROP TABLE idempotency_keys;
DROP TABLE model_usage;
DROP TABLE events;
DROP TYPE model_usage_kind;
