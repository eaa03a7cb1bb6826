-- name: insert_batch
INSERT INTO batches (id, project, version, bindings, variants, scorers, repetitions, cases, cells,
                     node_errors, recursion_limit, priority, share_prefix, interrupts, deadline_s)
VALUES (%(id)s, %(project)s, %(version)s, %(bindings)s, %(variants)s::text[], %(scorers)s,
        %(repetitions)s, %(cases)s, %(cells)s, %(node_errors)s,
        %(recursion_limit)s, %(priority)s, %(share_prefix)s, %(interrupts)s, %(deadline_s)s)
ON CONFLICT (id) DO NOTHING RETURNING id

-- name: copy_cases
COPY cases (batch_id, ordinal, case_id, digest, input, expected, metadata) FROM STDIN

-- name: copy_cells
COPY cells (batch_id, ordinal, variant, case_ordinal, repetition) FROM STDIN

-- name: analyze
ANALYZE (SKIP_LOCKED) cells, cases

-- name: select_batches
SELECT b.id, b.project, b.version, b.status, b.variants, b.bindings, b.scorers, b.repetitions,
       b.node_errors, b.cases, b.cells, b.priority, b.share_prefix, b.interrupts, b.deadline_s, b.reason,
       b.created_at, b.started_at, b.ended_at
FROM batches b

-- name: newest_batches
ORDER BY b.created_at DESC, b.id DESC LIMIT %(limit)s

-- name: open_batches
SELECT b.id, b.project, b.version, b.status, b.variants, b.bindings, b.scorers, b.repetitions,
       b.node_errors, b.cases, b.cells, b.priority, b.share_prefix, b.interrupts, b.deadline_s, b.reason,
       b.created_at, b.started_at, b.ended_at, c.n AS waiting
FROM batches b
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM (
        SELECT FROM cells WHERE batch_id = b.id AND status = 'PENDING'
        ORDER BY ordinal LIMIT %(most)s) w
) c
WHERE b.status IN ('PENDING', 'RUNNING') ORDER BY b.priority DESC, b.created_at, b.id

-- name: count_cells
SELECT batch_id, status, count(*) AS n FROM cells WHERE batch_id = ANY(%(ids)s::text[])
GROUP BY batch_id, status

-- name: batch_progress
SELECT status, cells, extract(epoch FROM coalesce(ended_at, now()) - started_at)::float8 AS elapsed_s
FROM batches WHERE id = %(id)s

-- name: admitting_batch
SELECT project, version, bindings, recursion_limit, priority, share_prefix FROM batches
WHERE id = %(id)s AND status = 'RUNNING' FOR NO KEY UPDATE

-- name: lock_batch
SELECT id, project, status, reason FROM batches WHERE id = %(id)s FOR NO KEY UPDATE

-- name: lock_batches_of_version
SELECT id, project, status, reason, xmin::text AS written_by, pg_current_xact_id()::text AS xid
FROM batches
WHERE version = %(version)s AND status IN ('PENDING', 'RUNNING') ORDER BY id FOR NO KEY UPDATE

-- name: change_batch
UPDATE batches SET
    status = %(status)s, reason = coalesce(%(reason)s, reason),
    started_at = CASE WHEN %(status)s = 'RUNNING' THEN coalesce(started_at, now()) ELSE started_at END,
    ended_at = CASE WHEN %(status)s = ANY(%(terminal)s::text[]) THEN now() END
WHERE id = %(id)s

-- name: drain_batch
WITH running AS (
    SELECT id FROM executions
    WHERE batch_id = %(batch_id)s AND status = 'RUNNING' AND wanted IN ('run', 'step')
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE executions SET wanted = 'drain' WHERE id = ANY(ARRAY(SELECT id FROM running))

-- name: undrain_batch
WITH drained AS (
    SELECT id FROM executions WHERE batch_id = %(batch_id)s AND wanted = 'drain'
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE executions SET wanted = 'run' WHERE id = ANY(ARRAY(SELECT id FROM drained))

-- name: lock_finished
SELECT b.id, b.project, b.xmin::text AS written_by, pg_current_xact_id()::text AS xid
FROM batches b
WHERE b.status = 'RUNNING'
  -- Three probes of the index; NOT EXISTS would become a join that reads all open cells.
  AND coalesce(
      (SELECT min(ordinal) FROM cells WHERE batch_id = b.id AND status = 'PENDING'),
      (SELECT min(ordinal) FROM cells WHERE batch_id = b.id AND status = 'RUNNING'),
      (SELECT min(ordinal) FROM cells WHERE batch_id = b.id AND status = 'SCORING')) IS NULL
ORDER BY b.id FOR NO KEY UPDATE OF b SKIP LOCKED

-- name: bindings_of_batch
SELECT bindings FROM batches WHERE id = %(id)s
