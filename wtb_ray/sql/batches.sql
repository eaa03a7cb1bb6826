-- name: insert_batch
INSERT INTO batches (id, project, version, bindings, variants, scorers, repetitions, cases, cells,
                     node_errors, recursion_limit, priority, share_prefix, interrupts, deadline_s,
                     budget)
VALUES (%(id)s, %(project)s, %(version)s, %(bindings)s, %(variants)s::text[], %(scorers)s,
        %(repetitions)s, %(cases)s, %(cells)s, %(node_errors)s,
        %(recursion_limit)s, %(priority)s, %(share_prefix)s, %(interrupts)s, %(deadline_s)s,
        %(budget)s)
ON CONFLICT (id) DO NOTHING RETURNING id

-- name: copy_cases
COPY cases (batch_id, ordinal, case_id, digest, input, expected, metadata, answers) FROM STDIN

-- name: copy_cells
COPY cells (batch_id, ordinal, variant, case_ordinal, repetition) FROM STDIN

-- name: analyze
ANALYZE (SKIP_LOCKED) cells, cases

-- name: select_batches
SELECT b.id, b.project, b.version, b.status, b.variants, b.bindings, b.scorers, b.repetitions,
       b.node_errors, b.cases, b.cells, b.priority, b.share_prefix, b.interrupts, b.deadline_s, b.budget,
       coalesce(s.reason, b.reason) AS reason, b.created_at, b.started_at, b.ended_at
FROM batches b
LEFT JOIN shortages s ON s.version = b.version AND b.status IN ('PENDING', 'RUNNING')

-- name: newest_batches
ORDER BY b.created_at DESC, b.id DESC LIMIT %(limit)s

-- name: unstarted_batches
SELECT id FROM batches WHERE status = 'PENDING' ORDER BY priority DESC, created_at, id

-- name: count_cells
SELECT batch_id, status, count(*) AS n FROM cells WHERE batch_id = ANY(%(ids)s::text[])
GROUP BY batch_id, status

-- name: batch_progress
SELECT b.status, b.cells, b.budget, r.ended,
       extract(epoch FROM now() - r.since)::float8 AS elapsed_s
FROM batches b
CROSS JOIN LATERAL (
    SELECT min(ended_at) AS since, max(latency_ms) AS longest_ms, count(*) AS n FROM (
        SELECT ended_at, latency_ms FROM cells
        WHERE batch_id = b.id AND ended_at >= b.running_since AND status IN ('DONE', 'FAILED')
        ORDER BY ended_at DESC LIMIT %(window_cells)s) newest
) w
CROSS JOIN LATERAL (
    SELECT greatest(b.running_since, least(
        CASE WHEN w.n = %(window_cells)s THEN w.since ELSE b.running_since END,
        now() - make_interval(secs => greatest(%(window_s)s, 2 * w.longest_ms / 1000)))) AS since
) s
CROSS JOIN LATERAL (
    SELECT s.since, count(*) AS ended FROM cells
    WHERE batch_id = b.id AND ended_at >= s.since AND status IN ('DONE', 'FAILED')
) r
WHERE b.id = %(id)s

-- name: admitting_batch
SELECT project, version, bindings, recursion_limit, priority, share_prefix,
       budget::json ->> 'cells' IS NOT NULL AS limited
FROM batches WHERE id = %(id)s AND status = 'RUNNING' FOR NO KEY UPDATE

-- name: room_of_batch
-- How many cells its budget still lets begin. Asked when the batch is locked: a statement that has
-- waited for the lock still sees the cells of before.
SELECT (b.budget::json ->> 'cells')::bigint - (
    SELECT count(*) FROM cells WHERE batch_id = b.id AND execution_id IS NOT NULL) AS room
FROM batches b WHERE id = %(id)s

-- name: lock_batch
SELECT id, project, status, reason FROM batches WHERE id = %(id)s FOR NO KEY UPDATE

-- name: lock_matrix
SELECT id, project, status, reason, bindings, variants, cases, repetitions
FROM batches WHERE id = %(id)s FOR NO KEY UPDATE

-- name: next_ordinal
-- Asked when the batch is locked, as `room_of_batch` is.
SELECT coalesce(max(ordinal), -1) + 1 AS ordinal FROM cells WHERE batch_id = %(id)s

-- name: extend_batch
UPDATE batches SET
    bindings = %(bindings)s, variants = %(variants)s::text[], cases = %(cases)s,
    repetitions = %(repetitions)s, cells = cells + %(cells)s
WHERE id = %(id)s

-- name: known_cases
SELECT case_id, ordinal, digest FROM cases
WHERE batch_id = %(batch_id)s AND case_id = ANY(%(ids)s::text[])

-- name: lock_batches_of_version
SELECT id, project, status, reason, xmin::text AS written_by, pg_current_xact_id()::text AS xid
FROM batches
WHERE version = %(version)s AND status IN ('PENDING', 'RUNNING') ORDER BY id FOR NO KEY UPDATE

-- name: change_batch
UPDATE batches SET
    status = %(status)s,
    reason = coalesce(%(reason)s, CASE WHEN ended_at IS NULL THEN reason END),
    started_at = CASE WHEN %(status)s = 'RUNNING' THEN coalesce(started_at, now()) ELSE started_at END,
    ran_s = ran_s + coalesce(extract(epoch FROM now() - running_since), 0),
    running_since = CASE WHEN %(status)s = 'RUNNING' THEN now() END,
    ended_at = CASE WHEN %(status)s = ANY(%(terminal)s::text[]) THEN now() END
WHERE id = %(id)s

-- name: drain_batch
-- Those that wait too: one may be claimed at this moment, and its row is then had when that is done.
-- One that runs a single step rests after it anyway, and would forget that it was to be one.
WITH going AS (
    SELECT id FROM executions
    WHERE batch_id = %(batch_id)s AND status IN ('PENDING', 'RUNNING') AND wanted = 'run'
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE executions SET wanted = 'drain' WHERE id = ANY(ARRAY(SELECT id FROM going))

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
