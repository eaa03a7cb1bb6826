-- name: insert_restore_point
WITH inner_rows AS (
    SELECT c.checkpoint_ns, c.checkpoint_id
    FROM executions e JOIN checkpoints c ON c.thread_id = e.thread_id
    WHERE e.id = %(id)s AND c.checkpoint_ns <> '' AND c.metadata -> 'parents' ->> '' = e.head
)
INSERT INTO restore_points (thread_id, checkpoint_id, seq, task_ids, inner_ids, manifest, reason)
SELECT e.thread_id, e.head,
       coalesce((SELECT max(p.seq) + 1 FROM restore_points p
                 WHERE p.thread_id = e.thread_id AND p.checkpoint_id = e.head), 0),
       ARRAY(SELECT DISTINCT w.task_id FROM checkpoint_writes w
             WHERE w.thread_id = e.thread_id AND w.idx >= 0
               AND (w.checkpoint_ns = '' AND w.checkpoint_id = e.head
                    OR (w.checkpoint_ns, w.checkpoint_id) IN (SELECT * FROM inner_rows))
             ORDER BY w.task_id),
       ARRAY(SELECT checkpoint_id FROM inner_rows ORDER BY checkpoint_id),
       %(manifest)s, %(reason)s
FROM executions e WHERE e.id = %(id)s AND e.head IS NOT NULL
RETURNING thread_id, checkpoint_id, seq

-- name: manifest_of_head
-- The newest file tree at or before the head of an execution. Restore points after the checkpoint
-- that a branch began with belong to another future.
WITH RECURSIVE chain AS (
    SELECT e.thread_id, NULL::integer AS last_step, NULL::text AS origin, 0 AS depth
    FROM executions e WHERE e.id = %(id)s
    UNION ALL
    SELECT b.parent_thread, coalesce((
        SELECT p.step FROM steps p
        WHERE p.thread_id = b.parent_thread AND p.checkpoint_id = b.parent_checkpoint), -2),
        b.parent_checkpoint, c.depth + 1
    FROM chain c JOIN branches b ON b.thread_id = c.thread_id WHERE b.parent_thread IS NOT NULL
), kept AS (
    SELECT c.depth, s.step, s.manifest, -1 AS seq
    FROM chain c
    JOIN steps s ON s.thread_id = c.thread_id AND (c.last_step IS NULL OR s.step <= c.last_step)
    UNION ALL
    SELECT c.depth, coalesce(s.step, -2), p.manifest, p.seq
    FROM chain c
    JOIN restore_points p ON p.thread_id = c.thread_id
    LEFT JOIN steps s ON s.thread_id = p.thread_id AND s.checkpoint_id = p.checkpoint_id
    WHERE c.last_step IS NULL
       OR coalesce(s.step, -2) <= c.last_step AND p.checkpoint_id IS DISTINCT FROM c.origin
)
SELECT manifest FROM kept WHERE manifest IS NOT NULL ORDER BY depth, step DESC, seq DESC LIMIT 1

-- name: drop_unkept
-- What tasks wrote since the newest restore point at the head: their files are gone, so they run
-- again. Questions (-3) and answers to them (-4) stay: nobody is asked twice.
WITH point AS (
    SELECT task_ids, inner_ids FROM restore_points
    WHERE thread_id = %(thread_id)s AND checkpoint_id = %(head)s
    ORDER BY seq DESC LIMIT 1
), inner_rows AS (
    SELECT checkpoint_ns, checkpoint_id,
           checkpoint_id = ANY(coalesce((SELECT inner_ids FROM point), '{}')) AS kept
    FROM checkpoints
    WHERE thread_id = %(thread_id)s AND checkpoint_ns <> ''
      AND metadata -> 'parents' ->> '' = %(head)s
), gone AS (
    DELETE FROM checkpoints c USING inner_rows i
    WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = i.checkpoint_ns
      AND c.checkpoint_id = i.checkpoint_id AND NOT i.kept
)
DELETE FROM checkpoint_writes w
WHERE w.thread_id = %(thread_id)s AND (
    (w.checkpoint_ns, w.checkpoint_id) IN (
        SELECT checkpoint_ns, checkpoint_id FROM inner_rows WHERE NOT kept)
    OR (
        (w.checkpoint_ns = '' AND w.checkpoint_id = %(head)s
         OR (w.checkpoint_ns, w.checkpoint_id) IN (
             SELECT checkpoint_ns, checkpoint_id FROM inner_rows WHERE kept))
        AND w.idx NOT IN (-3, -4)
        AND NOT w.task_id = ANY(coalesce((SELECT task_ids FROM point), '{}'))
    )
)

-- name: trim_manifests
-- Forgets the file trees of all but the newest steps of an execution's own branches.
WITH own AS (
    SELECT s.thread_id, s.checkpoint_id,
           row_number() OVER (ORDER BY b.number DESC, s.step DESC) AS place
    FROM branches b JOIN steps s USING (thread_id)
    WHERE b.execution_id = %(id)s AND s.manifest IS NOT NULL
)
UPDATE steps s SET manifest = NULL FROM own
WHERE s.thread_id = own.thread_id AND s.checkpoint_id = own.checkpoint_id AND own.place > %(keep)s
  AND NOT EXISTS (
    SELECT FROM branches b
    WHERE b.parent_thread = s.thread_id AND b.parent_checkpoint = s.checkpoint_id)
