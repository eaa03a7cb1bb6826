-- Each statement gives the rows of one problem whose key lies in first..last, both included: `key` is
-- what its walk goes along, `mark` what must be the same at a second look, `able` whether a repair can
-- be done, and the others are the ids and words of the finding. One statement is one snapshot, so what
-- transactions write together is never seen in part. Rows of the same thread are asked for by the range,
-- too: however they are joined, no statement reads more than its span.

-- name: head_missing
SELECT e.id AS key, e.id AS execution_id, e.thread_id, e.head AS checkpoint_id,
       EXISTS (
           SELECT FROM branches b JOIN checkpoints c
             ON c.thread_id = CASE WHEN b.thread_id = e.thread_id THEN b.parent_thread ELSE b.thread_id END
            AND c.checkpoint_ns = '' AND c.checkpoint_id = e.head
           WHERE (b.thread_id = e.thread_id OR b.parent_thread = e.thread_id)
             AND b.parent_checkpoint = e.head) AS able
FROM executions e
WHERE e.id BETWEEN %(first)s AND %(last)s AND e.head IS NOT NULL AND NOT EXISTS (
    SELECT FROM checkpoints c
    WHERE c.thread_id = e.thread_id AND c.checkpoint_ns = '' AND c.checkpoint_id = e.head)

-- name: parent_missing
SELECT b.thread_id AS key, b.thread_id, b.parent_thread, b.parent_checkpoint AS checkpoint_id,
       EXISTS (SELECT FROM branches p WHERE p.thread_id = b.parent_thread) AND EXISTS (
           SELECT FROM checkpoints c
           WHERE c.thread_id = b.thread_id AND c.checkpoint_ns = ''
             AND c.checkpoint_id = b.parent_checkpoint) AS able
FROM branches b
WHERE b.thread_id BETWEEN %(first)s AND %(last)s AND b.parent_thread IS NOT NULL AND NOT EXISTS (
    SELECT FROM checkpoints c
    WHERE c.thread_id = b.parent_thread AND c.checkpoint_ns = ''
      AND c.checkpoint_id = b.parent_checkpoint)

-- name: branch_missing
SELECT e.id AS key, e.id AS execution_id, e.thread_id,
       e.forked_from IS NULL AND e.thread_id = e.id || '.0' OR EXISTS (
           SELECT FROM events v
           WHERE v.execution_id = e.id AND v.type = 'branch.created'
             AND v.payload::json ->> 'thread_id' = e.thread_id) AS able
FROM executions e
WHERE e.id BETWEEN %(first)s AND %(last)s
  AND NOT EXISTS (SELECT FROM branches b WHERE b.thread_id = e.thread_id)

-- name: branch_missing__threads
-- Branches that are not the present one, by what LangGraph has of them.
WITH lost AS MATERIALIZED (
    SELECT DISTINCT c.thread_id FROM checkpoints c
    WHERE c.thread_id BETWEEN %(first)s AND %(last)s AND c.thread_id ~ '\.[0-9]+$'
      AND NOT EXISTS (
        SELECT FROM branches b WHERE b.thread_id = c.thread_id AND b.thread_id BETWEEN %(first)s AND %(last)s)
)
SELECT t.thread_id AS key, e.id AS execution_id, t.thread_id,
       e.forked_from IS NULL AND t.thread_id = e.id || '.0' OR EXISTS (
           SELECT FROM events v
           WHERE v.execution_id = e.id AND v.type = 'branch.created'
             AND v.payload::json ->> 'thread_id' = t.thread_id) AS able
FROM lost t
JOIN executions e ON e.id = split_part(t.thread_id, '.', 1) AND e.thread_id <> t.thread_id

-- name: lineage_cycle
WITH RECURSIVE up AS (
    SELECT thread_id AS origin, parent_thread AS at FROM branches
    WHERE thread_id BETWEEN %(first)s AND %(last)s AND parent_thread IS NOT NULL
    UNION
    SELECT up.origin, b.parent_thread FROM up JOIN branches b ON b.thread_id = up.at
    WHERE b.parent_thread IS NOT NULL
)
SELECT b.thread_id AS key, b.thread_id, b.parent_thread,
       b.reason = 'start' OR EXISTS (
           SELECT FROM events v
           WHERE v.execution_id = b.execution_id AND v.type = 'branch.created'
             AND v.payload::json ->> 'thread_id' = b.thread_id
             AND v.payload::json ->> 'parent_thread' IS DISTINCT FROM b.parent_thread) AS able
FROM up JOIN branches b ON b.thread_id = up.origin
WHERE up.at = up.origin

-- name: fork_source_missing
SELECT e.id AS key, e.id AS execution_id, e.forked_from
FROM executions e
WHERE e.id BETWEEN %(first)s AND %(last)s AND e.forked_from IS NOT NULL
  AND NOT EXISTS (SELECT FROM executions s WHERE s.id = e.forked_from)

-- name: step_without_checkpoint
SELECT s.thread_id AS key, s.thread_id, s.checkpoint_id, s.step,
       EXISTS (
           SELECT FROM branches d JOIN checkpoints c
             ON c.thread_id = d.thread_id AND c.checkpoint_ns = '' AND c.checkpoint_id = s.checkpoint_id
           WHERE d.parent_thread = s.thread_id AND d.parent_checkpoint = s.checkpoint_id) AS able
FROM steps s
JOIN branches b ON b.thread_id = s.thread_id
    AND b.thread_id BETWEEN %(first)s AND %(last)s
JOIN executions e ON e.id = b.execution_id
WHERE s.thread_id BETWEEN %(first)s AND %(last)s
  AND (e.thread_id, e.head) IS DISTINCT FROM (s.thread_id, s.checkpoint_id)
  AND NOT EXISTS (
    SELECT FROM checkpoints c
    WHERE c.thread_id = s.thread_id AND c.thread_id BETWEEN %(first)s AND %(last)s
      AND c.checkpoint_ns = '' AND c.checkpoint_id = s.checkpoint_id)

-- name: checkpoint_without_step
-- A branch begins with the copy of a checkpoint whose step is its parent's.
SELECT c.thread_id AS key, c.thread_id, c.checkpoint_id
FROM checkpoints c JOIN branches b ON b.thread_id = c.thread_id
    AND b.thread_id BETWEEN %(first)s AND %(last)s
WHERE c.thread_id BETWEEN %(first)s AND %(last)s AND c.checkpoint_ns = ''
  AND b.parent_checkpoint IS DISTINCT FROM c.checkpoint_id
  AND NOT EXISTS (
    SELECT FROM steps s
    WHERE s.thread_id = c.thread_id AND s.thread_id BETWEEN %(first)s AND %(last)s
      AND s.checkpoint_id = c.checkpoint_id)

-- name: blobs_missing
-- What a checkpoint says was updated had a value then: inline or as a blob. A channel that never has
-- one anywhere in this version is one that LangGraph does not store.
WITH lost AS MATERIALIZED (
    SELECT c.thread_id, c.checkpoint_ns, c.checkpoint_id, u.channel,
           c.checkpoint -> 'channel_versions' ->> u.channel AS version, e.version AS project_version
    FROM checkpoints c
    JOIN branches b ON b.thread_id = c.thread_id
    AND b.thread_id BETWEEN %(first)s AND %(last)s
    JOIN executions e ON e.id = b.execution_id
    CROSS JOIN LATERAL jsonb_array_elements_text(
        CASE jsonb_typeof(c.checkpoint -> 'updated_channels')
            WHEN 'array' THEN c.checkpoint -> 'updated_channels' ELSE '[]' END) AS u (channel)
    WHERE c.thread_id BETWEEN %(first)s AND %(last)s
      AND c.checkpoint -> 'channel_versions' ->> u.channel IS NOT NULL
      AND NOT coalesce(c.checkpoint -> 'channel_values', '{}') ? u.channel
      AND NOT EXISTS (
        SELECT FROM checkpoint_blobs k
        WHERE k.thread_id = c.thread_id AND k.thread_id BETWEEN %(first)s AND %(last)s
          AND k.checkpoint_ns = c.checkpoint_ns
          AND k.channel = u.channel
          AND k.version = c.checkpoint -> 'channel_versions' ->> u.channel)
), stored AS MATERIALIZED (
    SELECT l.project_version, l.channel FROM (SELECT DISTINCT project_version, channel FROM lost) l
    WHERE EXISTS (
        SELECT FROM executions e
        JOIN branches b ON b.execution_id = e.id
        JOIN checkpoint_blobs k ON k.thread_id = b.thread_id AND k.channel = l.channel
        WHERE e.version = l.project_version)
    OR EXISTS (
        SELECT FROM executions e
        JOIN branches b ON b.execution_id = e.id
        JOIN checkpoints c ON c.thread_id = b.thread_id AND c.checkpoint -> 'channel_values' ? l.channel
        WHERE e.version = l.project_version)
)
SELECT l.thread_id AS key, l.thread_id, l.checkpoint_ns, l.channel, l.version,
       min(l.checkpoint_id) AS checkpoint_id,
       bool_or(EXISTS (
           SELECT FROM branches b JOIN checkpoint_blobs k
             ON k.thread_id = CASE WHEN b.thread_id = l.thread_id THEN b.parent_thread ELSE b.thread_id END
            AND k.checkpoint_ns = l.checkpoint_ns AND k.channel = l.channel AND k.version = l.version
           WHERE b.thread_id = l.thread_id OR b.parent_thread = l.thread_id)) AS able
FROM lost l JOIN stored USING (project_version, channel)
GROUP BY l.thread_id, l.checkpoint_ns, l.channel, l.version

-- name: step_holes
SELECT thread_id AS key, thread_id, step, before FROM (
    SELECT s.thread_id, s.step,
           lag(s.step) OVER (PARTITION BY s.thread_id ORDER BY s.step, s.checkpoint_id) AS before
    FROM steps s
    WHERE s.thread_id BETWEEN %(first)s AND %(last)s
      AND EXISTS (
        SELECT FROM branches b WHERE b.thread_id = s.thread_id AND b.thread_id BETWEEN %(first)s AND %(last)s)
) numbered
WHERE step <> before + 1

-- name: answer_dangling
SELECT a.thread_id AS key, a.thread_id, a.checkpoint_id, a.interrupt_id,
       a.created_at < now() - make_interval(secs => %(grace_s)s) AS able
FROM answers a
WHERE a.thread_id BETWEEN %(first)s AND %(last)s
  AND NOT EXISTS (
    SELECT FROM checkpoints c
    WHERE c.thread_id = a.thread_id AND c.thread_id BETWEEN %(first)s AND %(last)s
      AND c.checkpoint_ns = '' AND c.checkpoint_id = a.checkpoint_id)
  AND NOT EXISTS (
    SELECT FROM steps s
    WHERE s.thread_id = a.thread_id AND s.thread_id BETWEEN %(first)s AND %(last)s
      AND s.checkpoint_id = a.checkpoint_id)

-- name: point_dangling
SELECT p.thread_id AS key, p.thread_id, p.checkpoint_id, p.seq,
       p.created_at < now() - make_interval(secs => %(grace_s)s) AS able
FROM restore_points p JOIN branches b ON b.thread_id = p.thread_id
    AND b.thread_id BETWEEN %(first)s AND %(last)s
WHERE p.thread_id BETWEEN %(first)s AND %(last)s
  AND NOT EXISTS (
    SELECT FROM checkpoints c
    WHERE c.thread_id = p.thread_id AND c.thread_id BETWEEN %(first)s AND %(last)s
      AND c.checkpoint_ns = '' AND c.checkpoint_id = p.checkpoint_id)
  AND NOT EXISTS (
    SELECT FROM steps s
    WHERE s.thread_id = p.thread_id AND s.thread_id BETWEEN %(first)s AND %(last)s
      AND s.checkpoint_id = p.checkpoint_id)

-- name: orphan_checkpoint
-- Only threads that are named as those of executions are: others use the same tables.
WITH lost AS MATERIALIZED (
    SELECT c.thread_id, count(*), max((c.checkpoint ->> 'ts')::timestamptz) AS newest,
           to_timestamp(least(('x' || substr(c.thread_id, 2, 12))::bit(48)::bigint / 1000.0,
                              extract(epoch FROM now()) - 1 - %(grace_s)s)) AS named
    FROM checkpoints c
    WHERE c.thread_id BETWEEN %(first)s AND %(last)s AND c.thread_id ~ '^e[0-9a-f]{24}\.[0-9]+$'
      AND NOT EXISTS (
        SELECT FROM branches b WHERE b.thread_id = c.thread_id AND b.thread_id BETWEEN %(first)s AND %(last)s)
    GROUP BY c.thread_id
)
SELECT t.thread_id AS key, t.thread_id, t.count,
       greatest(t.newest, t.named) < now() - make_interval(secs => %(grace_s)s) AS able
FROM lost t
WHERE NOT EXISTS (SELECT FROM executions e WHERE e.id = split_part(t.thread_id, '.', 1))

-- name: orphan_checkpoint__blobs
WITH lost AS MATERIALIZED (
    SELECT w.thread_id, count(*) FROM checkpoint_blobs w
    WHERE w.thread_id BETWEEN %(first)s AND %(last)s AND w.thread_id ~ '^e[0-9a-f]{24}\.[0-9]+$'
      AND NOT EXISTS (
        SELECT FROM branches b WHERE b.thread_id = w.thread_id AND b.thread_id BETWEEN %(first)s AND %(last)s)
    GROUP BY w.thread_id
)
SELECT t.thread_id AS key, t.thread_id, t.count FROM lost t
WHERE NOT EXISTS (SELECT FROM executions e WHERE e.id = split_part(t.thread_id, '.', 1))
  AND NOT EXISTS (SELECT FROM checkpoints o WHERE o.thread_id = t.thread_id)

-- name: orphan_checkpoint__writes
WITH lost AS MATERIALIZED (
    SELECT w.thread_id, count(*) FROM checkpoint_writes w
    WHERE w.thread_id BETWEEN %(first)s AND %(last)s AND w.thread_id ~ '^e[0-9a-f]{24}\.[0-9]+$'
      AND NOT EXISTS (
        SELECT FROM branches b WHERE b.thread_id = w.thread_id AND b.thread_id BETWEEN %(first)s AND %(last)s)
    GROUP BY w.thread_id
)
SELECT t.thread_id AS key, t.thread_id, t.count FROM lost t
WHERE NOT EXISTS (SELECT FROM executions e WHERE e.id = split_part(t.thread_id, '.', 1))
  AND NOT EXISTS (SELECT FROM checkpoints o WHERE o.thread_id = t.thread_id)
  AND NOT EXISTS (SELECT FROM checkpoint_blobs o WHERE o.thread_id = t.thread_id)
