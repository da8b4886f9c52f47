-- A search by words reads rare words from the index over words, and for common ones walks along the memory until enough
-- is found: planned for the very words, never over the rows of others. The costs are those that were measured with a
-- million chunks: without them the planner takes the index over words for cheaper than it is.
-- Up Migration

CREATE OR REPLACE FUNCTION app.search_words(
  searched_memory uuid, searched_text text, only_source text, only_path text, only_kinds memory_kind[],
  since timestamptz, until timestamptz, candidates integer, most integer
) RETURNS TABLE (chunk_id uuid, score double precision)
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_custom_plan SET enable_seqscan = off
  SET random_page_cost = 1.1 SET cpu_index_tuple_cost = 0.05
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
        WHERE chunks.user_id = caller AND chunks.memory_id = searched_memory AND chunks.words @@ (own && wanted) AND chunks.id <> ALL (found_chunks)
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

-- Down Migration

CREATE OR REPLACE FUNCTION app.search_words(
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
  RESET plan_cache_mode RESET enable_seqscan RESET random_page_cost RESET cpu_index_tuple_cost;
