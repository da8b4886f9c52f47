-- A bound on how many collections the vector index holds at once.
-- Up Migration

-- The least recently used of the memories whose collections are too many. A memory that is being worked on is none of them:
-- its collection would have to be made anew at once. Work on a memory is counted by its lane.
CREATE FUNCTION queue.excess_memories(most integer, batch integer)
  RETURNS TABLE (user_id uuid, memory_id uuid, used_at timestamptz)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  AS $$
  SELECT memories.user_id, memories.id, memories.used_at FROM memories
  WHERE memories.collection_model IS NOT NULL AND NOT EXISTS (
    SELECT FROM lanes
    WHERE lanes.user_id = memories.user_id AND lanes.agent_id = memories.agent_id AND lanes.kind = 'MEMORY'
      AND lanes.blocked + lanes.queued + lanes.retrying + lanes.running > 0
  )
  ORDER BY memories.used_at
  LIMIT least(batch, greatest((SELECT count(*) FROM memories WHERE collection_model IS NOT NULL) - most, 0))
$$;
ALTER FUNCTION queue.excess_memories(integer, integer) OWNER TO app_queue;
REVOKE ALL ON FUNCTION queue.excess_memories(integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.excess_memories(integer, integer) TO app_worker;

-- Down Migration

DROP FUNCTION queue.excess_memories(integer, integer);
