-- Memory at work: what each agent remembers as a whole, the queue of what the vector index still lacks, words to search by
-- without that index, jobs with their reports, and what an answer was drawn from.
-- Up Migration

-- Owns the search by words and sees nothing but memory. Roles belong to the whole cluster and may be there already.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_memory') THEN
    CREATE ROLE app_memory NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
  END IF;
END
$$;
GRANT app_memory TO CURRENT_USER WITH INHERIT TRUE, SET TRUE;
GRANT USAGE, CREATE ON SCHEMA app TO app_memory;

CREATE TYPE memory_kind AS ENUM ('TEXT', 'MARKDOWN', 'CODE', 'NOTE', 'CONVERSATION');
CREATE TYPE memory_job_kind AS ENUM ('INGEST', 'PRUNE', 'REBUILD');

-- One row per agent that remembers something, under the agent's id. It outlives the agent: with agent_id null everything
-- that hangs on it is on its way out, in pieces, and so is its collection in the index.
CREATE TABLE memories (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  id uuid NOT NULL DEFAULT uuidv7(),
  agent_id uuid,
  documents integer NOT NULL DEFAULT 0 CHECK (documents >= 0),
  chunks bigint NOT NULL DEFAULT 0 CHECK (chunks >= 0),
  bytes bigint NOT NULL DEFAULT 0 CHECK (bytes >= 0),
  -- The embedding model of its collection; null when there is no collection that can be searched.
  collection_model text,
  collection_dimensions integer,
  points bigint NOT NULL DEFAULT 0,
  used_at timestamptz(3) NOT NULL DEFAULT now(),
  pruned_at timestamptz(3) NOT NULL DEFAULT now(),
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, id),
  FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE SET NULL (agent_id)
);
CREATE INDEX memories_user_id_agent_id_idx ON memories (user_id, agent_id);
CREATE INDEX memories_orphaned_idx ON memories (id) WHERE agent_id IS NULL;
CREATE INDEX memories_used_at_idx ON memories (used_at) WHERE collection_model IS NOT NULL;
CREATE INDEX memories_pruned_at_idx ON memories (pruned_at);
SELECT app.isolate('memories');
GRANT SELECT, INSERT (user_id, id, agent_id), UPDATE (collection_model, collection_dimensions, points, used_at, pruned_at),
  DELETE ON memories TO app_user;

-- Documents and chunks hang on the memory instead of the agent, so that an agent's deletion is quick whatever it knew.
ALTER TABLE memory_documents NO FORCE ROW LEVEL SECURITY;
ALTER TABLE memory_chunks NO FORCE ROW LEVEL SECURITY;
ALTER TABLE memories NO FORCE ROW LEVEL SECURITY;
INSERT INTO memories (user_id, id, agent_id) SELECT DISTINCT user_id, agent_id, agent_id FROM memory_documents;
ALTER TABLE memory_chunks DROP CONSTRAINT memory_chunks_user_id_agent_id_fkey;
ALTER TABLE memory_documents DROP CONSTRAINT memory_documents_user_id_agent_id_fkey;
ALTER TABLE memory_documents RENAME COLUMN agent_id TO memory_id;
ALTER TABLE memory_chunks RENAME COLUMN agent_id TO memory_id;
ALTER TABLE memory_documents ADD FOREIGN KEY (user_id, memory_id) REFERENCES memories (user_id, id) ON DELETE CASCADE;
ALTER TABLE memory_chunks ADD FOREIGN KEY (user_id, memory_id) REFERENCES memories (user_id, id) ON DELETE CASCADE;

ALTER TABLE memory_documents ADD COLUMN kind memory_kind NOT NULL DEFAULT 'TEXT';
ALTER TABLE memory_documents ADD COLUMN chunks integer NOT NULL DEFAULT 0;
CREATE INDEX memory_documents_user_id_memory_id_updated_at_idx ON memory_documents (user_id, memory_id, updated_at);
ALTER TABLE memory_chunks ADD COLUMN heading text NOT NULL DEFAULT '';
-- Words of the chunk, and one that only this memory's chunks have: an index over words can then keep to one memory without
-- having to start with the user.
ALTER TABLE memory_chunks ADD COLUMN words tsvector NOT NULL GENERATED ALWAYS AS (
  to_tsvector('english', heading || ' ' || content) || array_to_tsvector(ARRAY['memory:' || memory_id::text])
) STORED;
CREATE INDEX memory_chunks_words_idx ON memory_chunks USING gin (words);
-- A chunk never changes: another text is another chunk.
REVOKE INSERT, UPDATE ON memory_chunks FROM app_user;
GRANT INSERT (user_id, document_id, memory_id, position, heading, content, content_hash, start_line, end_line)
  ON memory_chunks TO app_user;
UPDATE memory_documents SET chunks = (
  SELECT count(*) FROM memory_chunks
  WHERE memory_chunks.user_id = memory_documents.user_id AND memory_chunks.document_id = memory_documents.id
);

-- What the index has to be brought in line with: a chunk to add, or a point to take away. The text is stored and found by
-- words from its commit on; whoever works on the index takes from here.
CREATE TABLE memory_pending (
  user_id uuid NOT NULL,
  memory_id uuid NOT NULL,
  chunk_id uuid NOT NULL,
  is_removal boolean NOT NULL DEFAULT false,
  PRIMARY KEY (user_id, memory_id, chunk_id),
  FOREIGN KEY (user_id, memory_id) REFERENCES memories (user_id, id) ON DELETE CASCADE
);
SELECT app.isolate('memory_pending');
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_pending TO app_user;

-- Vectors by what they were made of, so that nothing is embedded twice. Per user: that someone else has the same text is
-- nobody's business.
CREATE TABLE memory_embeddings (
  user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  model text NOT NULL,
  content_hash text NOT NULL,
  vector bytea NOT NULL,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, model, content_hash)
);
SELECT app.isolate('memory_embeddings');
GRANT SELECT, INSERT, DELETE ON memory_embeddings TO app_user;

-- What a memory task was asked and what it has done.
CREATE TABLE memory_jobs (
  user_id uuid NOT NULL,
  task_id uuid NOT NULL,
  memory_id uuid NOT NULL,
  kind memory_job_kind NOT NULL,
  added integer NOT NULL DEFAULT 0,
  changed integer NOT NULL DEFAULT 0,
  unchanged integer NOT NULL DEFAULT 0,
  removed integer NOT NULL DEFAULT 0,
  indexed bigint NOT NULL DEFAULT 0,
  unindexed bigint NOT NULL DEFAULT 0,
  embedded bigint NOT NULL DEFAULT 0,
  reused bigint NOT NULL DEFAULT 0,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, task_id),
  FOREIGN KEY (user_id, task_id) REFERENCES tasks (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, memory_id) REFERENCES memories (user_id, id) ON DELETE CASCADE
);
CREATE INDEX memory_jobs_user_id_memory_id_idx ON memory_jobs (user_id, memory_id);
SELECT app.isolate('memory_jobs');
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_jobs TO app_user;

-- What the answer of a task was drawn from. It names the place as it was; the text itself is read from the chunk, as long
-- as that is there.
CREATE TABLE memory_citations (
  user_id uuid NOT NULL,
  task_id uuid NOT NULL,
  position integer NOT NULL,
  document_id uuid,
  chunk_id uuid,
  source text NOT NULL,
  path text NOT NULL,
  heading text NOT NULL,
  start_line integer NOT NULL,
  end_line integer NOT NULL,
  score double precision NOT NULL,
  PRIMARY KEY (user_id, task_id, position),
  FOREIGN KEY (user_id, task_id) REFERENCES tasks (user_id, id) ON DELETE CASCADE,
  FOREIGN KEY (user_id, document_id) REFERENCES memory_documents (user_id, id) ON DELETE SET NULL (document_id),
  FOREIGN KEY (user_id, chunk_id) REFERENCES memory_chunks (user_id, id) ON DELETE SET NULL (chunk_id)
);
CREATE INDEX memory_citations_user_id_document_id_idx ON memory_citations (user_id, document_id);
CREATE INDEX memory_citations_user_id_chunk_id_idx ON memory_citations (user_id, chunk_id);
SELECT app.isolate('memory_citations');
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_citations TO app_user;

CREATE POLICY engine ON memories FOR ALL TO app_queue USING (true) WITH CHECK (true);
CREATE POLICY engine ON agents FOR SELECT TO app_queue USING (true);
GRANT SELECT, UPDATE (documents, chunks, bytes) ON memories TO app_queue;
GRANT SELECT (user_id, id, memory_max_age_days) ON agents TO app_queue;

-- Counts of the memory. The functions differ in nothing but which rows came and which went.
DO $make$
DECLARE
  event record;
BEGIN
  FOR event IN
    SELECT * FROM (VALUES
      ('insert', 'NEW TABLE AS new_rows', 'SELECT 1 AS step, * FROM new_rows'),
      ('delete', 'OLD TABLE AS old_rows', 'SELECT -1 AS step, * FROM old_rows'),
      ('update', 'OLD TABLE AS old_rows NEW TABLE AS new_rows',
        'SELECT 1 AS step, * FROM new_rows UNION ALL SELECT -1, * FROM old_rows')
    ) AS event (name, tables, changes)
  LOOP
    EXECUTE format($function$
      CREATE FUNCTION queue.count_documents_after_%1$s() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET plan_cache_mode = force_generic_plan
        AS $$
      BEGIN
        UPDATE memories SET
          documents = memories.documents + moved.documents,
          chunks = memories.chunks + moved.chunks,
          bytes = memories.bytes + moved.bytes
        FROM (
          SELECT change.user_id, change.memory_id, sum(step) AS documents, sum(step * change.chunks) AS chunks,
            sum(step * change.bytes) AS bytes
          FROM (%2$s) AS change
          GROUP BY change.user_id, change.memory_id
        ) AS moved
        WHERE memories.user_id = moved.user_id AND memories.id = moved.memory_id
          AND (moved.documents <> 0 OR moved.chunks <> 0 OR moved.bytes <> 0);
        RETURN NULL;
      END
      $$;
      ALTER FUNCTION queue.count_documents_after_%1$s() OWNER TO app_queue;
      CREATE TRIGGER count_documents_after_%1$s AFTER %1$s ON memory_documents REFERENCING %3$s
        FOR EACH STATEMENT EXECUTE FUNCTION queue.count_documents_after_%1$s();
    $function$, event.name, event.changes, event.tables);
  END LOOP;
END
$make$;

ALTER TABLE memory_pending NO FORCE ROW LEVEL SECURITY;
UPDATE memories SET documents = stored.documents, chunks = stored.chunks, bytes = stored.bytes
FROM (
  SELECT user_id, memory_id, count(*) AS documents, sum(chunks) AS chunks, sum(bytes) AS bytes
  FROM memory_documents GROUP BY user_id, memory_id
) AS stored
WHERE memories.user_id = stored.user_id AND memories.id = stored.memory_id;
INSERT INTO memory_pending (user_id, memory_id, chunk_id)
  SELECT user_id, memory_id, id FROM memory_chunks;
ALTER TABLE memory_pending FORCE ROW LEVEL SECURITY;
ALTER TABLE memories FORCE ROW LEVEL SECURITY;
ALTER TABLE memory_chunks FORCE ROW LEVEL SECURITY;
ALTER TABLE memory_documents FORCE ROW LEVEL SECURITY;

-- Search by words in one memory of the caller. Postgres compares words only after a policy has passed the row, and so reads
-- every row instead of the index of words; this function's owner is passed by policy, and the function itself names the
-- caller. Chunks that hold all words come first, then those that hold some; no more than `candidates` of each are ranked.
CREATE POLICY search ON memory_chunks FOR SELECT TO app_memory USING (true);
CREATE POLICY search ON memory_documents FOR SELECT TO app_memory USING (true);
GRANT SELECT (user_id, id, memory_id, document_id, words) ON memory_chunks TO app_memory;
GRANT SELECT (user_id, id, source, path, kind, updated_at) ON memory_documents TO app_memory;
CREATE FUNCTION app.search_words(
  searched_memory uuid, searched_text text, only_source text, only_path text, only_kinds memory_kind[],
  since timestamptz, until timestamptz, candidates integer, most integer
) RETURNS TABLE (chunk_id uuid, score double precision)
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
DECLARE
  caller uuid := app.user_id();
  own tsquery := ('''memory:' || searched_memory || '''')::tsquery;
  all_words tsquery := plainto_tsquery('english', searched_text);
  some_words tsquery := replace(all_words::text, ' & ', ' | ')::tsquery;
  takes_any boolean := only_source IS NULL AND only_path IS NULL AND only_kinds IS NULL AND since IS NULL AND until IS NULL;
  wanted tsquery;
  bonus double precision := 1;
  found_chunks uuid[] := '{}';
BEGIN
  IF numnode(all_words) = 0 THEN
    RETURN;
  END IF;
  FOREACH wanted IN ARRAY ARRAY[all_words, some_words] LOOP
    FOR chunk_id, score IN
      SELECT found.id, bonus + ts_rank(found.words, wanted)::double precision AS rank FROM (
        SELECT chunks.id, chunks.words FROM memory_chunks AS chunks
        WHERE chunks.user_id = caller AND chunks.words @@ (own && wanted) AND chunks.id <> ALL (found_chunks)
          AND (takes_any OR EXISTS (
            SELECT FROM memory_documents AS documents
            WHERE documents.user_id = caller AND documents.id = chunks.document_id
              AND (only_source IS NULL OR documents.source = only_source)
              AND (only_path IS NULL OR documents.path = only_path OR starts_with(documents.path, only_path || '/'))
              AND (only_kinds IS NULL OR documents.kind = ANY (only_kinds))
              AND (since IS NULL OR documents.updated_at >= since)
              AND (until IS NULL OR documents.updated_at < until)
          ))
        LIMIT candidates
      ) AS found
      ORDER BY rank DESC, found.id
      LIMIT most - cardinality(found_chunks)
    LOOP
      found_chunks := found_chunks || chunk_id;
      RETURN NEXT;
    END LOOP;
    EXIT WHEN cardinality(found_chunks) >= most;
    bonus := 0;
  END LOOP;
END
$$;
ALTER FUNCTION app.search_words(uuid, text, text, text, memory_kind[], timestamptz, timestamptz, integer, integer)
  OWNER TO app_memory;
REVOKE ALL ON FUNCTION app.search_words(uuid, text, text, text, memory_kind[], timestamptz, timestamptz, integer, integer)
  FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.search_words(uuid, text, text, text, memory_kind[], timestamptz, timestamptz, integer, integer)
  TO app_user;

-- What the upkeep may see of all users' memories: which are due for something. The work acts as each user.
CREATE FUNCTION queue.orphaned_memories(batch integer) RETURNS TABLE (user_id uuid, memory_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  SELECT memories.user_id, memories.id FROM memories WHERE memories.agent_id IS NULL ORDER BY memories.id LIMIT batch
$$;

CREATE FUNCTION queue.unused_memories(unused_for interval, batch integer) RETURNS TABLE (user_id uuid, memory_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  SELECT memories.user_id, memories.id FROM memories
  WHERE memories.collection_model IS NOT NULL AND memories.used_at < now() - unused_for
  ORDER BY memories.used_at LIMIT batch
$$;

CREATE FUNCTION queue.aging_memories(pruned_every interval, batch integer) RETURNS TABLE (user_id uuid, memory_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  SELECT memories.user_id, memories.id FROM memories
  JOIN agents ON agents.user_id = memories.user_id AND agents.id = memories.agent_id
  WHERE memories.pruned_at < now() - pruned_every AND agents.memory_max_age_days IS NOT NULL
  ORDER BY memories.pruned_at LIMIT batch
$$;

-- Count and size of all collections, for metrics. A point's size is that of its vector of 32-bit numbers.
CREATE FUNCTION queue.memory_totals() RETURNS TABLE (collections bigint, points bigint, vector_bytes bigint)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  SELECT count(*), coalesce(sum(memories.points), 0)::bigint,
    coalesce(sum(memories.points * memories.collection_dimensions * 4), 0)::bigint
  FROM memories WHERE memories.collection_model IS NOT NULL
$$;

ALTER FUNCTION queue.orphaned_memories(integer) OWNER TO app_queue;
ALTER FUNCTION queue.unused_memories(interval, integer) OWNER TO app_queue;
ALTER FUNCTION queue.aging_memories(interval, integer) OWNER TO app_queue;
ALTER FUNCTION queue.memory_totals() OWNER TO app_queue;
REVOKE ALL ON FUNCTION queue.count_documents_after_insert(), queue.count_documents_after_update(),
  queue.count_documents_after_delete(), queue.orphaned_memories(integer), queue.unused_memories(interval, integer),
  queue.aging_memories(interval, integer), queue.memory_totals() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.orphaned_memories(integer), queue.unused_memories(interval, integer),
  queue.aging_memories(interval, integer), queue.memory_totals() TO app_worker;

-- Down Migration

DROP FUNCTION queue.memory_totals();
DROP FUNCTION queue.aging_memories(interval, integer);
DROP FUNCTION queue.unused_memories(interval, integer);
DROP FUNCTION queue.orphaned_memories(integer);
DROP FUNCTION app.search_words(uuid, text, text, text, memory_kind[], timestamptz, timestamptz, integer, integer);
DROP POLICY search ON memory_documents;
DROP POLICY search ON memory_chunks;
REVOKE SELECT (user_id, id, memory_id, document_id, words) ON memory_chunks FROM app_memory;
REVOKE SELECT (user_id, id, source, path, kind, updated_at) ON memory_documents FROM app_memory;
DROP TRIGGER count_documents_after_insert ON memory_documents;
DROP TRIGGER count_documents_after_update ON memory_documents;
DROP TRIGGER count_documents_after_delete ON memory_documents;
DROP FUNCTION queue.count_documents_after_insert();
DROP FUNCTION queue.count_documents_after_update();
DROP FUNCTION queue.count_documents_after_delete();
REVOKE SELECT (user_id, id, memory_max_age_days) ON agents FROM app_queue;
DROP POLICY engine ON agents;
DROP TABLE memory_citations;
DROP TABLE memory_jobs;
DROP TABLE memory_embeddings;
DROP TABLE memory_pending;
REVOKE INSERT (user_id, document_id, memory_id, position, heading, content, content_hash, start_line, end_line)
  ON memory_chunks FROM app_user;
GRANT INSERT, UPDATE ON memory_chunks TO app_user;
DROP INDEX memory_chunks_words_idx;
ALTER TABLE memory_chunks DROP COLUMN words;
ALTER TABLE memory_chunks DROP COLUMN heading;
DROP INDEX memory_documents_user_id_memory_id_updated_at_idx;
ALTER TABLE memory_documents DROP COLUMN chunks;
ALTER TABLE memory_documents DROP COLUMN kind;
ALTER TABLE memory_chunks DROP CONSTRAINT memory_chunks_user_id_memory_id_fkey;
ALTER TABLE memory_documents DROP CONSTRAINT memory_documents_user_id_memory_id_fkey;
ALTER TABLE memory_documents NO FORCE ROW LEVEL SECURITY;
ALTER TABLE memory_chunks NO FORCE ROW LEVEL SECURITY;
ALTER TABLE memories NO FORCE ROW LEVEL SECURITY;
-- Memories of deleted agents were on their way out.
DELETE FROM memory_documents USING memories
WHERE memories.user_id = memory_documents.user_id AND memories.id = memory_documents.memory_id AND memories.agent_id IS NULL;
UPDATE memory_documents SET memory_id = memories.agent_id FROM memories
WHERE memories.user_id = memory_documents.user_id AND memories.id = memory_documents.memory_id;
UPDATE memory_chunks SET memory_id = memories.agent_id FROM memories
WHERE memories.user_id = memory_chunks.user_id AND memories.id = memory_chunks.memory_id;
ALTER TABLE memory_chunks RENAME COLUMN memory_id TO agent_id;
ALTER TABLE memory_documents RENAME COLUMN memory_id TO agent_id;
ALTER TABLE memory_documents ADD FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE CASCADE;
ALTER TABLE memory_chunks ADD FOREIGN KEY (user_id, agent_id) REFERENCES agents (user_id, id) ON DELETE CASCADE;
ALTER TABLE memory_documents FORCE ROW LEVEL SECURITY;
ALTER TABLE memory_chunks FORCE ROW LEVEL SECURITY;
DROP TABLE memories;
DROP TYPE memory_job_kind;
DROP TYPE memory_kind;
REVOKE USAGE, CREATE ON SCHEMA app FROM app_memory;
-- The role stays: other databases of the cluster may use it.
