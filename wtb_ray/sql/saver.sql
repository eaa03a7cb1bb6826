-- name: fence
WITH claim AS (
    SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::int[])
        AS claim (id, epoch, thread_id, head, head_step)
), locked AS MATERIALIZED (
    SELECT e.id FROM executions e JOIN claim USING (id) ORDER BY e.id FOR NO KEY UPDATE OF e
)
UPDATE executions e
SET head = coalesce(claim.head, e.head),
    head_step = coalesce(claim.head_step, e.head_step),
    seen = now()
FROM claim
WHERE e.id = claim.id AND e.epoch = claim.epoch AND e.thread_id = claim.thread_id
  -- an array, so that all rows are locked in order before the first is updated
  AND e.id = ANY (ARRAY(SELECT id FROM locked))
RETURNING e.id, e.epoch, e.thread_id,
    e.wanted || coalesce(E'\x1f' || nullif(array_to_string(e.breakpoints, E'\x1f'), ''), ''),
    pg_current_xact_id()::text

-- name: leases
SELECT id FROM object_holds WHERE id = ANY(%s::text[]) FOR KEY SHARE

-- name: xid
SELECT pg_current_xact_id()::text AS xid

-- name: status
SELECT pg_xact_status(%(xid)s::xid8) AS status, EXISTS (
    SELECT FROM checkpoints
    WHERE thread_id = %(thread)s AND checkpoint_ns = %(ns)s AND checkpoint_id = %(id)s
) AS stored

-- name: end_lost
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xid = %s::xid8::xid

-- name: blobs
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[])
ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING

-- name: checkpoints
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::jsonb[], %s::jsonb[])
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata

-- name: writes
INSERT INTO checkpoint_writes AS w
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT * FROM unnest(
    %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %s::text[], %s::text[],
    %s::bytea[]
)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
-- errors, interrupts and answers replace what was there; a task's own writes never change
DO UPDATE SET channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob
WHERE w.idx < 0

-- name: steps
INSERT INTO steps
    (thread_id, checkpoint_id, step, source, nodes, next_nodes, next_tasks, duration_ms, manifest,
     environment_digest)
SELECT thread_id, checkpoint_id, step, source, nodes, string_to_array(next_nodes, E'\x1f'),
       next_tasks, duration_ms, manifest, environment
FROM unnest(
    %s::text[], %s::text[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::float8[], %s::text[], %s::text[]
) AS s (thread_id, checkpoint_id, step, source, nodes, next_nodes, next_tasks, duration_ms, manifest,
        environment)
ON CONFLICT (thread_id, checkpoint_id) DO NOTHING

-- name: events
INSERT INTO events (type, project, execution_id, batch_id, actor, payload)
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])

-- name: tasks
WITH RECURSIVE line AS (
    SELECT %(thread)s::text AS thread_id
    UNION
    SELECT b.parent_thread FROM branches b JOIN line USING (thread_id)
    WHERE b.parent_thread IS NOT NULL
)
SELECT next_tasks FROM line JOIN steps USING (thread_id) WHERE checkpoint_id = %(id)s LIMIT 1

-- name: delete_checkpoints
DELETE FROM checkpoints WHERE thread_id = %s

-- name: delete_blobs
DELETE FROM checkpoint_blobs WHERE thread_id = %s

-- name: delete_writes
DELETE FROM checkpoint_writes WHERE thread_id = %s

-- name: state
SELECT checkpoint -> 'channel_values' AS inline, checkpoint -> 'channel_versions' AS versions
FROM checkpoints WHERE thread_id = %s AND checkpoint_ns = '' AND checkpoint_id = %s

-- name: state_blobs
SELECT b.channel, b.type, b.blob
FROM checkpoint_blobs b
JOIN unnest(%s::text[], %s::text[]) AS wanted (channel, version) USING (channel, version)
WHERE b.thread_id = %s AND b.checkpoint_ns = '' AND b.type <> 'empty'
