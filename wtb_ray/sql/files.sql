-- name: files_execution
SELECT id, project, batch_id, status, epoch, owner, thread_id, head, tracking
FROM executions WHERE id = %(id)s

-- name: lock_files_execution
SELECT id, project, batch_id, status, epoch, owner, thread_id, head, tracking,
       xmin::text AS written_by, pg_current_xact_id()::text AS xid
FROM executions WHERE id = %(id)s FOR NO KEY UPDATE

-- name: files_of_chain
-- The steps that led to the newest one of a thread, newest first, each with its newest file tree.
-- Restore points after the checkpoint that a branch began with belong to another future.
WITH RECURSIVE chain AS (
    SELECT %(thread_id)s::text AS thread_id, NULL::integer AS last_step, NULL::text AS origin,
           0 AS depth
    UNION ALL
    SELECT b.parent_thread, coalesce((
        SELECT p.step FROM steps p
        WHERE p.thread_id = b.parent_thread AND p.checkpoint_id = b.parent_checkpoint), -2),
        b.parent_checkpoint, c.depth + 1
    FROM chain c JOIN branches b ON b.thread_id = c.thread_id WHERE b.parent_thread IS NOT NULL
), point AS (
    SELECT DISTINCT ON (p.checkpoint_id) p.checkpoint_id, p.manifest
    FROM chain c
    JOIN restore_points p ON p.thread_id = c.thread_id
                         AND p.checkpoint_id IS DISTINCT FROM c.origin
    WHERE p.manifest IS NOT NULL
    ORDER BY p.checkpoint_id, c.depth, p.seq DESC
)
SELECT s.checkpoint_id, s.step, s.source, coalesce(p.manifest, s.manifest) AS manifest
FROM chain c
JOIN steps s ON s.thread_id = c.thread_id AND (c.last_step IS NULL OR s.step <= c.last_step)
LEFT JOIN point p ON p.checkpoint_id = s.checkpoint_id
ORDER BY c.depth, s.step DESC

-- name: insert_restore
INSERT INTO restores (execution_id, epoch, before, after, reason)
VALUES (%(execution_id)s, %(epoch)s, %(before)s, %(after)s, %(reason)s) RETURNING id

-- name: restores_of_execution
SELECT id, execution_id, epoch, before, after, reason, created_at
FROM restores WHERE execution_id = %(id)s ORDER BY id DESC

-- name: insert_trash_point
-- Another restore point at the same place: other files, the same finished tasks.
WITH newest AS (
    SELECT seq, task_ids, inner_ids FROM restore_points
    WHERE thread_id = %(thread_id)s AND checkpoint_id = %(head)s
    ORDER BY seq DESC LIMIT 1
)
INSERT INTO restore_points (thread_id, checkpoint_id, seq, task_ids, inner_ids, manifest, reason)
SELECT %(thread_id)s, %(head)s, coalesce(n.seq + 1, 0), coalesce(n.task_ids, '{}'),
       coalesce(n.inner_ids, '{}'), %(manifest)s, 'trash'
FROM (SELECT) one LEFT JOIN newest n ON true

-- name: commits_of_execution
SELECT p.checkpoint_id, p.thread_id, p.number, p.step, p.seq, p.reason, p.manifest, p.created_at,
       c.files, c.bytes
FROM (
    SELECT s.checkpoint_id, s.thread_id, b.number, s.step, -1 AS seq, s.source AS reason,
           s.manifest, s.created_at
    FROM branches b JOIN steps s USING (thread_id)
    WHERE b.execution_id = %(id)s AND s.manifest IS NOT NULL
    UNION ALL
    SELECT p.checkpoint_id, p.thread_id, b.number, coalesce(s.step, -2), p.seq, p.reason,
           p.manifest, p.created_at
    FROM branches b JOIN restore_points p USING (thread_id)
    LEFT JOIN steps s USING (thread_id, checkpoint_id)
    WHERE b.execution_id = %(id)s AND p.manifest IS NOT NULL
) p LEFT JOIN commits c USING (manifest)
WHERE (p.number, p.step, p.seq) < (%(number)s, %(step)s, %(seq)s)
ORDER BY p.number DESC, p.step DESC, p.seq DESC LIMIT %(limit)s
