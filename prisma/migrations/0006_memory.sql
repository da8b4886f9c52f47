-- The text of every agent's memory. The vector index is made from these rows and can be made again.
-- Up Migration

CREATE TABLE memory_documents (
  user_id uuid NOT NULL,
  id uuid NOT NULL DEFAULT uuidv7(),
  agent_id uuid NOT NULL,
  source text NOT NULL,
  path text NOT NULL,
  media_type text NOT NULL,
  content_hash text NOT NULL,
  bytes bigint NOT NULL,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  updated_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id),
  UNIQUE (user_id, agent_id, source, path),
  FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE CASCADE
);
SELECT app.isolate('memory_documents');
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_documents TO app_user;

CREATE TABLE memory_chunks (
  user_id uuid NOT NULL,
  id uuid NOT NULL DEFAULT uuidv7(),
  document_id uuid NOT NULL,
  agent_id uuid NOT NULL,
  position integer NOT NULL,
  content text NOT NULL,
  content_hash text NOT NULL,
  start_line integer NOT NULL,
  end_line integer NOT NULL,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id),
  UNIQUE (user_id, document_id, position),
  FOREIGN KEY (user_id, document_id) REFERENCES memory_documents (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE CASCADE
);
CREATE INDEX memory_chunks_user_id_agent_id_idx ON memory_chunks (user_id, agent_id);
SELECT app.isolate('memory_chunks');
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_chunks TO app_user;

-- Down Migration

DROP TABLE memory_chunks;
DROP TABLE memory_documents;
