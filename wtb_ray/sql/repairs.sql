-- name: donor_of_checkpoint
-- A thread with the same checkpoint under the same id: a branch that began with it, or its origin.
SELECT c.thread_id
FROM branches b JOIN checkpoints c
  ON c.thread_id = CASE WHEN b.thread_id = %(thread_id)s THEN b.parent_thread ELSE b.thread_id END
 AND c.checkpoint_ns = '' AND c.checkpoint_id = %(checkpoint_id)s
WHERE (b.thread_id = %(thread_id)s OR b.parent_thread = %(thread_id)s)
  AND b.parent_checkpoint = %(checkpoint_id)s
ORDER BY c.thread_id LIMIT 1

-- name: copy_missing_blobs
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT %(to)s, '', b.channel, b.version, b.type, b.blob
FROM checkpoints c
CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS v (channel, version)
JOIN checkpoint_blobs b ON b.thread_id = c.thread_id AND b.checkpoint_ns = ''
    AND b.channel = v.channel AND b.version = v.version
WHERE c.thread_id = %(from)s AND c.checkpoint_ns = '' AND c.checkpoint_id = %(checkpoint_id)s
ON CONFLICT DO NOTHING

-- name: copy_blob
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT %(thread_id)s, k.checkpoint_ns, k.channel, k.version, k.type, k.blob
FROM branches b JOIN checkpoint_blobs k
  ON k.thread_id = CASE WHEN b.thread_id = %(thread_id)s THEN b.parent_thread ELSE b.thread_id END
 AND k.checkpoint_ns = %(checkpoint_ns)s AND k.channel = %(channel)s AND k.version = %(version)s
WHERE b.thread_id = %(thread_id)s OR b.parent_thread = %(thread_id)s
LIMIT 1
ON CONFLICT DO NOTHING RETURNING channel

-- name: branch_from_log
WITH told AS (
    SELECT payload::json AS p FROM events
    WHERE execution_id = %(execution_id)s AND type = 'branch.created'
      AND payload::json ->> 'thread_id' = %(thread_id)s
    ORDER BY xid, seq LIMIT 1
)
INSERT INTO branches (thread_id, execution_id, number, parent_thread, parent_checkpoint, reason)
SELECT %(thread_id)s, e.id, split_part(%(thread_id)s, '.', 2)::integer,
       told.p ->> 'parent_thread', told.p ->> 'parent_checkpoint', coalesce(told.p ->> 'reason', 'start')
FROM executions e LEFT JOIN told ON true
WHERE e.id = %(execution_id)s
  AND (told.p IS NOT NULL OR e.forked_from IS NULL AND %(thread_id)s = e.id || '.0')
ON CONFLICT DO NOTHING RETURNING thread_id

-- name: parent_from_log
UPDATE branches b SET
    parent_thread = told.p ->> 'parent_thread', parent_checkpoint = told.p ->> 'parent_checkpoint'
FROM (SELECT) one
LEFT JOIN LATERAL (
    SELECT payload::json AS p FROM events
    WHERE execution_id = %(execution_id)s AND type = 'branch.created'
      AND payload::json ->> 'thread_id' = %(thread_id)s
    ORDER BY xid, seq LIMIT 1
) told ON true
WHERE b.thread_id = %(thread_id)s AND (told.p IS NOT NULL OR b.reason = 'start')
RETURNING b.thread_id

-- name: set_newest_version
UPDATE projects SET updated_at = now(), version = (
    SELECT v.version FROM project_versions v WHERE v.project = projects.name
    ORDER BY v.created_at DESC, v.version LIMIT 1)
WHERE name = %(project)s
  AND EXISTS (SELECT FROM project_versions v WHERE v.project = projects.name)
RETURNING version

-- name: delete_answer
DELETE FROM answers WHERE thread_id = %(thread_id)s AND checkpoint_id = %(checkpoint_id)s
    AND interrupt_id = %(interrupt_id)s

-- name: delete_point
DELETE FROM restore_points WHERE thread_id = %(thread_id)s AND checkpoint_id = %(checkpoint_id)s
    AND seq = %(seq)s::integer

-- name: delete_thread_writes
DELETE FROM checkpoint_writes WHERE thread_id = %(thread_id)s

-- name: delete_thread_blobs
DELETE FROM checkpoint_blobs WHERE thread_id = %(thread_id)s

-- name: delete_thread_checkpoints
DELETE FROM checkpoints WHERE thread_id = %(thread_id)s

-- name: delete_thread_steps
DELETE FROM steps WHERE thread_id = %(thread_id)s

-- name: delete_thread_points
DELETE FROM restore_points WHERE thread_id = %(thread_id)s

-- name: delete_restore
DELETE FROM restores WHERE id = %(restore_id)s::bigint

-- name: clear_owner
UPDATE executions SET owner = NULL WHERE id = %(id)s AND status <> 'RUNNING'

-- name: reopen_execution
UPDATE executions SET
    status = %(status)s, reason = 'integrity', owner = NULL, epoch = epoch + 1, wanted = 'run',
    error = NULL, ended_at = NULL, attempt = 0, suspect = 0, not_before = now(),
    parked_at = CASE WHEN %(status)s = 'PAUSED' THEN now() END, parking = NULL
WHERE id = %(id)s AND status = 'COMPLETED' RETURNING suspect

-- name: set_head
UPDATE executions e SET head = n.checkpoint_id, head_step = n.step, epoch = e.epoch + 1
FROM (
    SELECT s.checkpoint_id, s.step FROM steps s
    WHERE s.thread_id = (SELECT thread_id FROM executions WHERE id = %(id)s)
    ORDER BY s.step DESC, s.checkpoint_id DESC LIMIT 1
) n
WHERE e.id = %(id)s AND e.status <> 'RUNNING' RETURNING e.head

-- name: lock_cell
SELECT c.id, c.batch_id, c.status, c.execution_id, b.scorers,
       ARRAY(SELECT DISTINCT s.scorer_digest FROM scores s WHERE s.cell_id = c.id) AS scored
FROM cells c JOIN batches b ON b.id = c.batch_id
WHERE c.id = %(id)s FOR NO KEY UPDATE OF c

-- name: peek_cell
SELECT execution_id FROM cells WHERE id = %(id)s

-- name: set_cell
UPDATE cells SET
    status = %(status)s, error = NULL, latency_ms = NULL, node_runs = NULL, usage = NULL,
    shared_failure = false,
    execution_id = CASE WHEN %(adrift)s THEN NULL ELSE execution_id END,
    ended_at = CASE WHEN %(ended)s THEN now() END
WHERE id = %(id)s

-- name: end_cell
UPDATE cells c SET
    status = %(status)s, error = e.error, latency_ms = e.latency_ms, node_runs = e.node_runs,
    usage = e.usage, ended_at = now()
FROM executions e WHERE c.id = %(id)s AND e.id = c.execution_id

-- name: recount
UPDATE batches SET
    cells = (SELECT count(*) FROM cells WHERE batch_id = %(id)s),
    cases = (SELECT count(*) FROM cases WHERE batch_id = %(id)s)
WHERE id = %(id)s

-- name: unseal_open_cells
UPDATE result_parts p
SET cell_ids = p.cell_ids - open.ids, rows = p.rows - (
    SELECT count(*) FROM cells c
    WHERE c.batch_id = p.batch_id AND c.id <@ p.cell_ids
      AND c.status IN ('PENDING', 'RUNNING', 'SCORING'))
FROM (
    SELECT range_agg(int8range(id, id, '[]')) AS ids FROM cells
    WHERE batch_id = %(id)s AND status IN ('PENDING', 'RUNNING', 'SCORING')
) open
WHERE p.batch_id = %(id)s AND p.cell_ids && open.ids

-- name: delete_part
DELETE FROM result_parts WHERE batch_id = %(batch_id)s AND digest = %(digest)s
