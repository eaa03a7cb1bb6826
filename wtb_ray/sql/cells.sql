-- name: pick_cells
-- All waiting cells of the next cases and repetitions, which come in the order of work; the batch is
-- locked.
WITH next AS (
    SELECT case_ordinal, repetition, min(ordinal) AS ordinal FROM (
        SELECT case_ordinal, repetition, ordinal FROM cells
        WHERE batch_id = %(batch_id)s AND status = 'PENDING' ORDER BY ordinal LIMIT %(most)s
    ) w GROUP BY case_ordinal, repetition ORDER BY ordinal LIMIT %(groups)s
)
SELECT c.id, c.variant, c.case_ordinal, c.repetition
FROM next n JOIN cells c ON c.batch_id = %(batch_id)s AND c.case_ordinal = n.case_ordinal
    AND c.repetition = n.repetition AND c.status = 'PENDING'
ORDER BY n.ordinal, c.ordinal LIMIT %(cells)s FOR NO KEY UPDATE OF c

-- name: score_cells
UPDATE cells SET status = %(status)s
WHERE execution_id = %(execution_id)s AND status = ANY(%(from)s::text[])

-- name: end_cells
WITH item AS (
    SELECT * FROM unnest(%(ids)s::text[], %(statuses)s::text[], %(errors)s::text[],
                         %(latencies)s::float8[], %(node_runs)s::integer[], %(usages)s::text[])
        AS i (id, status, error, latency_ms, node_runs, usage)
), open AS (
    SELECT c.id, i.id AS execution_id, i.status, i.error, i.latency_ms, i.node_runs, i.usage,
           i.status = 'FAILED' AND count(*) OVER (PARTITION BY i.id) > 1 AS shared_failure
    FROM item i JOIN cells c ON c.execution_id = i.id
    WHERE (c.status, i.status) IN (
        SELECT f, t FROM unnest(%(from)s::text[], %(to)s::text[]) AS legal (f, t))
)
UPDATE cells c SET
    status = o.status, error = o.error, latency_ms = o.latency_ms, node_runs = o.node_runs,
    usage = o.usage, shared_failure = o.shared_failure, ended_at = now()
FROM open o, batches b, cases k
WHERE c.id = o.id AND b.id = c.batch_id
  AND k.batch_id = c.batch_id AND k.ordinal = c.case_ordinal
RETURNING c.id, c.execution_id, c.status, c.batch_id, b.variants[c.variant + 1] AS variant, k.case_id,
          c.repetition, c.shared_failure

-- name: insert_scores
INSERT INTO scores (batch_id, cell_id, scorer, scorer_digest, metric, value, explanation)
SELECT * FROM unnest(
    %(batch_ids)s::text[], %(cells)s::bigint[], %(scorers)s::text[], %(digests)s::text[],
    %(metrics)s::text[], %(values)s::float8[], %(explanations)s::text[]
)
ON CONFLICT (cell_id, scorer_digest, metric) DO NOTHING

-- name: cancel_pending_cells
UPDATE cells SET status = %(status)s, ended_at = now()
WHERE batch_id = %(batch_id)s AND status = 'PENDING'

-- name: rerun_cells
WITH picked AS (
    SELECT id FROM cells
    WHERE batch_id = %(batch_id)s AND status = ANY(%(from)s::text[])
      AND (%(variant)s::integer IS NULL OR variant = %(variant)s)
      AND (%(case_ordinal)s::integer IS NULL OR case_ordinal = %(case_ordinal)s)
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE cells SET
    status = %(status)s, execution_id = NULL, error = NULL, latency_ms = NULL, node_runs = NULL,
    usage = NULL, shared_failure = false, ended_at = NULL
WHERE id = ANY(ARRAY(SELECT id FROM picked)) RETURNING id

-- name: delete_scores
DELETE FROM scores WHERE cell_id = ANY(%(cells)s::bigint[])

-- name: list_cells
SELECT c.id, c.ordinal, b.variants[c.variant + 1] AS variant, c.variant AS variant_index, k.case_id,
       c.case_ordinal, c.repetition, c.status, c.execution_id, c.error, c.latency_ms, c.node_runs,
       c.usage, c.shared_failure, c.ended_at,
       s.metrics, s.values
FROM cells c
JOIN batches b ON b.id = c.batch_id
JOIN cases k ON k.batch_id = c.batch_id AND k.ordinal = c.case_ordinal
CROSS JOIN LATERAL (
    SELECT array_agg(metric ORDER BY seq) AS metrics, array_agg(value ORDER BY seq) AS values
    FROM scores WHERE cell_id = c.id
) s
WHERE c.batch_id = %(batch_id)s AND c.ordinal > %(after)s

-- name: order_of_cells
ORDER BY c.ordinal LIMIT %(limit)s

-- name: scores_of_cells
SELECT cell_id, scorer, scorer_digest, metric, value, explanation
FROM scores WHERE cell_id = ANY(%(cells)s::bigint[]) ORDER BY seq
