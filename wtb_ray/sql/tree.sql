-- name: open_cells
-- Whoever holds the lock of their execution may change them.
SELECT id, variant FROM cells
WHERE execution_id = %(id)s AND status IN ('PENDING', 'RUNNING', 'SCORING') ORDER BY variant

-- name: insert_parts
INSERT INTO executions
    (id, project, version, binding, input, status, reason, recursion_limit, breakpoints, priority,
     batch_id, case_ordinal, repetition, thread_id, head, head_step, passed, forked_from, forked_at,
     parked_at, tracking, deadline, wanted)
SELECT p.id, e.project, e.version, p.binding, e.input, %(status)s, %(reason)s, e.recursion_limit,
       e.breakpoints, e.priority, e.batch_id, e.case_ordinal, e.repetition, p.id || '.0', e.head,
       e.head_step, e.passed, e.id, e.head, CASE WHEN %(status)s = 'PAUSED' THEN now() END, e.tracking,
       e.deadline, CASE WHEN e.wanted IN ('step', 'pause') THEN e.wanted ELSE 'run' END
FROM executions e CROSS JOIN unnest(%(ids)s::text[], %(bindings)s::text[]) AS p (id, binding)
WHERE e.id = %(id)s

-- name: insert_first_branches
INSERT INTO branches (thread_id, execution_id, number, reason)
SELECT id || '.0', id, 0, 'start' FROM unnest(%(ids)s::text[]) AS id

-- name: move_cells
UPDATE cells c SET execution_id = p.id
FROM unnest(%(cells)s::bigint[], %(executions)s::text[]) AS p (cell, id) WHERE c.id = p.cell

-- name: bind
UPDATE executions SET binding = %(binding)s WHERE id = %(id)s

-- name: standing_of_trunk
SELECT e.thread_id, e.head, e.head_step, b.bindings
FROM executions e JOIN batches b ON b.id = e.batch_id WHERE e.id = %(id)s

-- name: lock_batch_whole
SELECT id, project, status, variants, bindings FROM batches WHERE id = %(id)s FOR NO KEY UPDATE

-- name: cancel_waiting_of_variant
UPDATE cells SET status = 'CANCELLED', ended_at = now()
WHERE batch_id = %(batch_id)s AND variant = %(variant)s AND status = 'PENDING'

-- name: begun_of_variant
SELECT DISTINCT execution_id FROM cells
WHERE batch_id = %(batch_id)s AND variant = %(variant)s AND status IN ('RUNNING', 'SCORING')
  AND NOT execution_id = ANY(%(seen)s::text[])

-- name: cancel_cells
UPDATE cells SET status = 'CANCELLED', ended_at = now() WHERE id = ANY(%(cells)s::bigint[])

-- name: own_of_cell
SELECT e.id FROM cells c JOIN executions e ON e.id = c.execution_id
WHERE c.id = %(cell)s AND e.forked_from = %(id)s AND NOT EXISTS (
    SELECT FROM cells o WHERE o.execution_id = e.id AND o.id <> c.id)

-- name: ways
SELECT e.thread_id, e.binding,
       (SELECT json_object_agg(n.status, n.n) FROM (
           SELECT status, count(*) AS n FROM cells WHERE execution_id = e.id GROUP BY status) n) AS cells
FROM executions e

-- name: branches_of_ways
SELECT b.thread_id, b.parent_thread, CASE WHEN b.parent_thread IS NOT NULL THEN coalesce((
           SELECT p.step FROM steps p
           WHERE p.thread_id = b.parent_thread AND p.checkpoint_id = b.parent_checkpoint), -2) END
       AS parent_step
FROM executions e JOIN branches b ON b.execution_id = e.id

-- name: steps_of_ways
SELECT s.thread_id, s.step, s.nodes, s.duration_ms
FROM executions e JOIN branches b ON b.execution_id = e.id JOIN steps s ON s.thread_id = b.thread_id
    AND s.step > 0 AND s.source = 'loop'

-- name: of_ways
WHERE e.batch_id = %(batch_id)s
  AND (%(case)s::text IS NULL OR EXISTS (
      SELECT FROM cases k
      WHERE k.batch_id = e.batch_id AND k.ordinal = e.case_ordinal AND k.case_id = %(case)s))
  AND (%(repetition)s::integer IS NULL OR e.repetition = %(repetition)s)
