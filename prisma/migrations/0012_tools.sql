-- Tools of MCP servers, the names of a tool's secrets, and calls from one agent to another.
-- Up Migration

-- A server that lends its tools. Each tool it lists is a row of `tools`, so that agents can be given it.
CREATE TABLE mcp_servers (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  id uuid NOT NULL DEFAULT uuidv7(),
  name text NOT NULL,
  url text NOT NULL,
  -- Headers that are sent to it, encrypted; their names apart, so that listing them opens nothing.
  secrets bytea,
  secrets_key_id text,
  secret_names text[] NOT NULL DEFAULT '{}',
  listed_at timestamptz(3),
  list_error text,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  updated_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id)
);
CREATE UNIQUE INDEX mcp_servers_user_id_name_key ON mcp_servers (user_id, lower(name));
CREATE INDEX mcp_servers_secrets_key_id_idx ON mcp_servers (secrets_key_id) WHERE secrets IS NOT NULL;
SELECT app.isolate('mcp_servers');
GRANT SELECT, INSERT, UPDATE, DELETE ON mcp_servers TO app_user;

ALTER TABLE tools
  ADD COLUMN secret_names text[] NOT NULL DEFAULT '{}',
  ADD COLUMN mcp_server_id uuid,
  ADD COLUMN remote_name text,
  -- Since when its server does not list it any more.
  ADD COLUMN missing_since timestamptz(3),
  ADD FOREIGN KEY (user_id, mcp_server_id) REFERENCES mcp_servers (user_id, id) ON DELETE CASCADE;
CREATE INDEX tools_user_id_mcp_server_id_idx ON tools (user_id, mcp_server_id);
CREATE INDEX tools_secrets_key_id_idx ON tools (secrets_key_id) WHERE secrets IS NOT NULL;

-- A question of one agent's task to another agent, which answers it as a task of its own.
CREATE TABLE agent_calls (
  user_id uuid NOT NULL,
  task_id uuid NOT NULL,
  caller_task_id uuid NOT NULL,
  -- The same for every attempt at the call, so that it is asked once.
  call_key text NOT NULL,
  -- The task of the message that it all began with, and how many calls lie in between.
  root_task_id uuid NOT NULL,
  depth integer NOT NULL CHECK (depth > 0),
  answer text,
  -- When its end had reached the caller, or nobody waited for it any more.
  settled_at timestamptz(3),
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, task_id),
  UNIQUE (user_id, caller_task_id, call_key),
  FOREIGN KEY (user_id, task_id) REFERENCES tasks (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, caller_task_id) REFERENCES tasks (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, root_task_id) REFERENCES tasks (user_id, id) ON DELETE CASCADE
);
CREATE INDEX agent_calls_user_id_root_task_id_idx ON agent_calls (user_id, root_task_id);
CREATE INDEX agent_calls_unsettled_idx ON agent_calls (user_id, task_id) WHERE settled_at IS NULL;
SELECT app.isolate('agent_calls');
GRANT SELECT, INSERT, UPDATE, DELETE ON agent_calls TO app_user;

-- What the upkeep may see of all users: ids, states and which key sealed a row. What follows acts as each user.
CREATE POLICY engine ON tools FOR SELECT TO app_queue USING (true);
CREATE POLICY engine ON mcp_servers FOR SELECT TO app_queue USING (true);
CREATE POLICY engine ON agent_calls FOR SELECT TO app_queue USING (true);
GRANT SELECT (user_id, id, secrets_key_id) ON tools TO app_queue;
GRANT SELECT (user_id, id, secrets_key_id) ON mcp_servers TO app_queue;
GRANT SELECT (user_id, task_id, caller_task_id, settled_at) ON agent_calls TO app_queue;

-- Rows whose secrets were sealed with another key than the current one.
CREATE FUNCTION queue.secrets_to_reseal(current_key text, batch integer)
  RETURNS TABLE (user_id uuid, source text, row_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  (SELECT tools.user_id, 'tools', tools.id FROM tools WHERE tools.secrets_key_id <> current_key LIMIT batch)
  UNION ALL
  (SELECT mcp_servers.user_id, 'mcp_servers', mcp_servers.id FROM mcp_servers
    WHERE mcp_servers.secrets_key_id <> current_key LIMIT batch)
  LIMIT batch
$$;

-- Calls whose answering task has ended while the caller waits, or whose caller has ended: the first are told, the others
-- taken back. A caller that runs finds the end by itself, or will wait and is found here next time.
CREATE FUNCTION queue.calls_to_settle(batch integer) RETURNS TABLE (user_id uuid, task_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  SELECT agent_calls.user_id, agent_calls.task_id
  FROM agent_calls
  JOIN tasks AS called ON called.user_id = agent_calls.user_id AND called.id = agent_calls.task_id
  JOIN tasks AS caller ON caller.user_id = agent_calls.user_id AND caller.id = agent_calls.caller_task_id
  WHERE agent_calls.settled_at IS NULL
    AND (
      caller.state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')
      OR (caller.state = 'WAITING' AND called.state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED'))
    )
  LIMIT batch
$$;

ALTER FUNCTION queue.secrets_to_reseal(text, integer) OWNER TO app_queue;
ALTER FUNCTION queue.calls_to_settle(integer) OWNER TO app_queue;
REVOKE ALL ON FUNCTION queue.secrets_to_reseal(text, integer), queue.calls_to_settle(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.secrets_to_reseal(text, integer), queue.calls_to_settle(integer) TO app_worker;

-- Down Migration

DROP FUNCTION queue.calls_to_settle(integer);
DROP FUNCTION queue.secrets_to_reseal(text, integer);
REVOKE SELECT (user_id, id, secrets_key_id) ON tools FROM app_queue;
DROP POLICY engine ON tools;
DROP TABLE agent_calls;
ALTER TABLE tools
  DROP COLUMN secret_names,
  DROP COLUMN mcp_server_id,
  DROP COLUMN remote_name,
  DROP COLUMN missing_since;
DROP INDEX tools_secrets_key_id_idx;
DROP TABLE mcp_servers;
