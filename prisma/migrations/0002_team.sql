-- A user's team: agents, orchestrators and tools.
-- Up Migration

CREATE TYPE agent_status AS ENUM ('READY', 'BUSY', 'ERROR');
CREATE TYPE approval_policy AS ENUM ('ALWAYS', 'DANGEROUS', 'NEVER');
CREATE TYPE tool_kind AS ENUM ('BUILT_IN', 'HTTP', 'MCP');

CREATE TABLE agents (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  id uuid NOT NULL DEFAULT uuidv7(),
  name text NOT NULL,
  description text NOT NULL DEFAULT '',
  instructions text NOT NULL,
  model text,
  temperature double precision,
  status agent_status NOT NULL DEFAULT 'READY',
  last_error text,
  approval_policy approval_policy NOT NULL DEFAULT 'DANGEROUS',
  max_concurrent_tasks integer NOT NULL DEFAULT 3 CHECK (max_concurrent_tasks BETWEEN 1 AND 10),
  memory_retrieval boolean NOT NULL DEFAULT true,
  memory_conversations boolean NOT NULL DEFAULT false,
  memory_max_age_days integer CHECK (memory_max_age_days > 0),
  memory_max_bytes bigint CHECK (memory_max_bytes > 0),
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  updated_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id)
);
-- Names are unique whatever their case, so that "coder" and "Coder" can't be confused when a plan names an agent.
CREATE UNIQUE INDEX agents_user_id_name_key ON agents (user_id, lower(name));
SELECT app.isolate('agents');
GRANT SELECT, INSERT, UPDATE, DELETE ON agents TO app_user;

CREATE TABLE orchestrators (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  id uuid NOT NULL DEFAULT uuidv7(),
  name text NOT NULL,
  instructions text NOT NULL,
  model text,
  plan_approval_policy approval_policy NOT NULL DEFAULT 'DANGEROUS',
  max_plan_tasks integer NOT NULL DEFAULT 20 CHECK (max_plan_tasks BETWEEN 1 AND 100),
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  updated_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id)
);
CREATE UNIQUE INDEX orchestrators_user_id_name_key ON orchestrators (user_id, lower(name));
SELECT app.isolate('orchestrators');
GRANT SELECT, INSERT, UPDATE, DELETE ON orchestrators TO app_user;

CREATE TABLE tools (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  id uuid NOT NULL DEFAULT uuidv7(),
  name text NOT NULL,
  description text NOT NULL,
  kind tool_kind NOT NULL,
  arguments_schema jsonb NOT NULL,
  settings jsonb NOT NULL DEFAULT '{}',
  dangerous boolean NOT NULL DEFAULT true,
  approval_policy approval_policy,
  timeout_seconds integer NOT NULL DEFAULT 30 CHECK (timeout_seconds BETWEEN 1 AND 600),
  secrets bytea,
  secrets_key_id text,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  updated_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id)
);
CREATE UNIQUE INDEX tools_user_id_name_key ON tools (user_id, lower(name));
SELECT app.isolate('tools');
GRANT SELECT, INSERT, UPDATE, DELETE ON tools TO app_user;

CREATE TABLE agent_tools (
  user_id uuid NOT NULL,
  agent_id uuid NOT NULL,
  tool_id uuid NOT NULL,
  PRIMARY KEY (user_id, agent_id, tool_id),
  FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, tool_id) REFERENCES tools (user_id, id) ON DELETE CASCADE
);
CREATE INDEX agent_tools_user_id_tool_id_idx ON agent_tools (user_id, tool_id);
SELECT app.isolate('agent_tools');
GRANT SELECT, INSERT, UPDATE, DELETE ON agent_tools TO app_user;

-- Down Migration

DROP TABLE agent_tools;
DROP TABLE tools;
DROP TABLE orchestrators;
DROP TABLE agents;
DROP TYPE tool_kind;
DROP TYPE approval_policy;
DROP TYPE agent_status;
