-- What an approval is decided by and checked against, approvals for the rest of a session, and calls of tools that have
-- begun and not ended.
-- Up Migration

ALTER TABLE approvals
  ADD COLUMN tool_id uuid,
  ADD COLUMN arguments_schema jsonb,
  ADD COLUMN dangerous boolean NOT NULL DEFAULT false,
  ADD COLUMN interrupted boolean NOT NULL DEFAULT false,
  ADD COLUMN previous_id uuid,
  ADD FOREIGN KEY (user_id, tool_id) REFERENCES tools (user_id, id) ON DELETE SET NULL (tool_id),
  ADD FOREIGN KEY (user_id, previous_id) REFERENCES approvals (user_id, id) ON DELETE SET NULL (previous_id);
CREATE INDEX approvals_user_id_tool_id_idx ON approvals (user_id, tool_id);
-- What has expired is asked again at most once: of two that ask at once, one finds the other's question.
CREATE UNIQUE INDEX approvals_user_id_previous_id_key ON approvals (user_id, previous_id);
-- One call has one open question, whatever asks for it.
CREATE UNIQUE INDEX approvals_pending_call_key ON approvals (user_id, task_id, call_id) WHERE state = 'PENDING';

-- Null leaves it to the setting of the service.
ALTER TABLE agents ADD COLUMN approval_timeout_seconds integer CHECK (approval_timeout_seconds BETWEEN 10 AND 2592000);
-- Null leaves it to the agent.
ALTER TABLE tools ADD COLUMN approval_timeout_seconds integer CHECK (approval_timeout_seconds BETWEEN 10 AND 2592000);

-- What a user has approved for the rest of a session: calls of one tool by one agent, or plans. An MCP server is one row
-- of tools and has many of them, so the name belongs to it.
CREATE TABLE approval_grants (
  user_id uuid NOT NULL,
  id uuid NOT NULL DEFAULT uuidv7(),
  kind approval_kind NOT NULL,
  session_id uuid NOT NULL,
  agent_id uuid,
  tool_id uuid,
  tool_name text,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id),
  CHECK ((kind = 'TOOL') = (agent_id IS NOT NULL) AND (kind = 'TOOL') = (tool_id IS NOT NULL)),
  FOREIGN KEY (user_id, session_id) REFERENCES sessions (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, tool_id) REFERENCES tools (user_id, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX approval_grants_user_id_session_id_scope_key
  ON approval_grants (user_id, session_id, kind, agent_id, tool_id, tool_name) NULLS NOT DISTINCT;
CREATE INDEX approval_grants_user_id_agent_id_idx ON approval_grants (user_id, agent_id);
CREATE INDEX approval_grants_user_id_tool_id_idx ON approval_grants (user_id, tool_id);
SELECT app.isolate('approval_grants');
GRANT SELECT, INSERT, DELETE ON approval_grants TO app_user;

-- A step without an end has begun: whether it had its effect is not known.
ALTER TABLE task_steps ALTER COLUMN finished_at DROP NOT NULL;

-- Down Migration

ALTER TABLE task_steps NO FORCE ROW LEVEL SECURITY;
DELETE FROM task_steps WHERE finished_at IS NULL;
ALTER TABLE task_steps FORCE ROW LEVEL SECURITY;
ALTER TABLE task_steps ALTER COLUMN finished_at SET NOT NULL;
DROP TABLE approval_grants;
ALTER TABLE tools DROP COLUMN approval_timeout_seconds;
ALTER TABLE agents DROP COLUMN approval_timeout_seconds;
DROP INDEX approvals_pending_call_key;
ALTER TABLE approvals
  DROP COLUMN previous_id,
  DROP COLUMN interrupted,
  DROP COLUMN dangerous,
  DROP COLUMN arguments_schema,
  DROP COLUMN tool_id;
