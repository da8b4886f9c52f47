-- One table for everything a user is asked to approve.
-- Up Migration

CREATE TYPE approval_kind AS ENUM ('TOOL', 'PLAN');
CREATE TYPE approval_state AS ENUM ('PENDING', 'APPROVED', 'REJECTED', 'EXPIRED', 'CANCELLED');

CREATE TABLE approvals (
  user_id uuid NOT NULL,
  id uuid NOT NULL DEFAULT uuidv7(),
  kind approval_kind NOT NULL,
  state approval_state NOT NULL DEFAULT 'PENDING',
  session_id uuid NOT NULL,
  task_id uuid,
  plan_id uuid,
  tool_name text,
  call_id text,
  arguments jsonb,
  arguments_hash text,
  edited_arguments jsonb,
  note text,
  remember boolean NOT NULL DEFAULT false,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  expires_at timestamptz(3) NOT NULL,
  decided_at timestamptz(3),
  PRIMARY KEY (user_id, id),
  FOREIGN KEY (user_id, session_id) REFERENCES sessions (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, task_id) REFERENCES tasks (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, plan_id) REFERENCES plans (user_id, id) ON DELETE CASCADE
);
CREATE INDEX approvals_user_id_session_id_idx ON approvals (user_id, session_id);
CREATE INDEX approvals_user_id_task_id_idx ON approvals (user_id, task_id);
CREATE INDEX approvals_user_id_plan_id_idx ON approvals (user_id, plan_id);
CREATE INDEX approvals_pending_idx ON approvals (user_id, created_at) WHERE state = 'PENDING';
CREATE INDEX approvals_expiry_idx ON approvals (expires_at) WHERE state = 'PENDING';
SELECT app.isolate('approvals');
GRANT SELECT, INSERT, UPDATE, DELETE ON approvals TO app_user;

-- Down Migration

DROP TABLE approvals;
DROP TYPE approval_state;
DROP TYPE approval_kind;
