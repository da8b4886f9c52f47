-- Sessions, their messages and the plans made from them.
-- Up Migration

CREATE TYPE busy_policy AS ENUM ('QUEUE', 'REJECT', 'INTERRUPT');
CREATE TYPE message_role AS ENUM ('USER', 'AGENT', 'ORCHESTRATOR');
CREATE TYPE plan_state AS ENUM ('PLANNING', 'WAITING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'REJECTED');

CREATE TABLE sessions (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  id uuid NOT NULL DEFAULT uuidv7(),
  title text NOT NULL,
  orchestrator_id uuid,
  busy_policy busy_policy NOT NULL DEFAULT 'QUEUE',
  message_count integer NOT NULL DEFAULT 0,
  request_count integer NOT NULL DEFAULT 0,
  client_address text,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  last_accessed_at timestamptz(3) NOT NULL DEFAULT now(),
  expires_at timestamptz(3) NOT NULL,
  PRIMARY KEY (user_id, id),
  FOREIGN KEY (user_id, orchestrator_id) REFERENCES orchestrators (user_id, id) ON DELETE SET NULL (orchestrator_id)
);
CREATE INDEX sessions_user_id_last_accessed_at_id_idx ON sessions (user_id, last_accessed_at, id);
CREATE INDEX sessions_user_id_orchestrator_id_idx ON sessions (user_id, orchestrator_id);
SELECT app.isolate('sessions');
GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO app_user;

CREATE TABLE plans (
  user_id uuid NOT NULL,
  id uuid NOT NULL DEFAULT uuidv7(),
  session_id uuid NOT NULL,
  orchestrator_id uuid,
  request text NOT NULL,
  state plan_state NOT NULL DEFAULT 'PLANNING',
  graph jsonb,
  fallback_reason text,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  updated_at timestamptz(3) NOT NULL DEFAULT now(),
  finished_at timestamptz(3),
  PRIMARY KEY (user_id, id),
  FOREIGN KEY (user_id, session_id) REFERENCES sessions (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, orchestrator_id) REFERENCES orchestrators (user_id, id) ON DELETE SET NULL (orchestrator_id)
);
CREATE INDEX plans_user_id_session_id_idx ON plans (user_id, session_id);
CREATE INDEX plans_user_id_orchestrator_id_idx ON plans (user_id, orchestrator_id);
SELECT app.isolate('plans');
GRANT SELECT, INSERT, UPDATE, DELETE ON plans TO app_user;

-- A message's place in its session is a counter kept in the session's row: concurrent senders get an order and no place twice.
CREATE TABLE messages (
  user_id uuid NOT NULL,
  id uuid NOT NULL DEFAULT uuidv7(),
  session_id uuid NOT NULL,
  position integer NOT NULL,
  role message_role NOT NULL,
  agent_id uuid,
  plan_id uuid,
  content text NOT NULL CHECK (octet_length(content) <= 1048576),
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id),
  UNIQUE (user_id, session_id, position),
  FOREIGN KEY (user_id, session_id) REFERENCES sessions (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE SET NULL (agent_id),
  FOREIGN KEY (user_id, plan_id) REFERENCES plans (user_id, id) ON DELETE SET NULL (plan_id)
);
CREATE INDEX messages_user_id_agent_id_idx ON messages (user_id, agent_id);
CREATE INDEX messages_user_id_plan_id_idx ON messages (user_id, plan_id);
SELECT app.isolate('messages');
GRANT SELECT, INSERT, UPDATE, DELETE ON messages TO app_user;

-- Down Migration

DROP TABLE messages;
DROP TABLE plans;
DROP TABLE sessions;
DROP TYPE plan_state;
DROP TYPE message_role;
DROP TYPE busy_policy;
