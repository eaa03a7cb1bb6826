-- As in checks_lineage.sql: cells, scores, batches.

-- name: open_cell_adrift
SELECT c.id AS key, c.id AS cell_id, c.batch_id, c.status
FROM cells c
WHERE c.id BETWEEN %(first)s AND %(last)s AND c.status IN ('RUNNING', 'SCORING')
  AND NOT EXISTS (SELECT FROM executions e WHERE e.id = c.execution_id)

-- name: ended_cell_adrift
SELECT c.id AS key, c.id AS cell_id, c.batch_id, c.status
FROM cells c
WHERE c.id BETWEEN %(first)s AND %(last)s
  AND c.status IN ('DONE', 'FAILED', 'EXCLUDED', 'CANCELLED')
  AND (c.execution_id IS NOT NULL OR c.status IN ('DONE', 'FAILED'))
  AND NOT EXISTS (SELECT FROM executions e WHERE e.id = c.execution_id)

-- name: cell_mismatch
SELECT c.id AS key, e.epoch || ' ' || e.status || ' ' || c.status AS mark, c.id AS cell_id, c.batch_id,
       c.status AS cell, e.id AS execution_id, e.status,
       CASE WHEN e.status IN ('PENDING', 'RUNNING', 'PAUSED')
            THEN b.status IN ('PENDING', 'RUNNING', 'PAUSED')
            ELSE c.status IN ('PENDING', 'RUNNING', 'SCORING') END AS able
FROM cells c
JOIN executions e ON e.id = c.execution_id
JOIN batches b ON b.id = c.batch_id
WHERE c.id BETWEEN %(first)s AND %(last)s AND NOT c.status = ANY (
    -- One that was stopped alone leaves what it shared to the others, which may run again elsewhere.
    CASE WHEN c.status IN ('CANCELLED', 'EXCLUDED') AND (c.ended_at < e.ended_at OR EXISTS (
             SELECT FROM cells o WHERE o.execution_id = c.execution_id AND o.id <> c.id))
         THEN ARRAY[c.status] END || CASE e.status
        WHEN 'COMPLETED' THEN ARRAY['DONE', 'EXCLUDED', 'SCORING']
        WHEN 'FAILED' THEN ARRAY['FAILED', 'EXCLUDED']
        WHEN 'CANCELLED' THEN ARRAY['CANCELLED', 'EXCLUDED']
        ELSE ARRAY['RUNNING', 'SCORING'] END)

-- name: scores_missing
-- A scorer's digest is that of its canonical JSON, which is how the batch has it.
WITH part AS MATERIALIZED (
    SELECT c.id, c.batch_id, c.xmin FROM cells c
    WHERE c.id BETWEEN %(first)s AND %(last)s AND c.status = 'DONE'
), declared AS MATERIALIZED (
    SELECT b.id AS batch_id, s.scorer ->> 'name' AS name,
           encode(sha256(convert_to(s.scorer::text, 'UTF8')), 'hex') AS digest
    FROM (SELECT DISTINCT batch_id FROM part) p
    JOIN batches b ON b.id = p.batch_id
    CROSS JOIN LATERAL json_array_elements(b.scorers::json) AS s (scorer)
)
SELECT p.id AS key, p.xmin::text AS mark, p.id AS cell_id, p.batch_id,
       string_agg(d.name, ', ' ORDER BY d.name) AS scorers
FROM part p JOIN declared d USING (batch_id)
WHERE NOT EXISTS (SELECT FROM scores s WHERE s.cell_id = p.id AND s.scorer_digest = d.digest)
GROUP BY p.id, p.xmin::text, p.batch_id

-- name: scores_foreign
WITH part AS MATERIALIZED (
    SELECT s.cell_id, s.batch_id, s.scorer, s.scorer_digest FROM scores s
    WHERE s.cell_id BETWEEN %(first)s AND %(last)s
), declared AS MATERIALIZED (
    SELECT b.id AS batch_id, encode(sha256(convert_to(s.scorer::text, 'UTF8')), 'hex') AS digest
    FROM (SELECT DISTINCT batch_id FROM part) p
    JOIN batches b ON b.id = p.batch_id
    CROSS JOIN LATERAL json_array_elements(b.scorers::json) AS s (scorer)
)
SELECT p.cell_id AS key, p.cell_id, p.batch_id,
       string_agg(DISTINCT p.scorer, ', ') AS scorers
FROM part p LEFT JOIN declared d ON d.batch_id = p.batch_id AND d.digest = p.scorer_digest
WHERE d.digest IS NULL
GROUP BY p.cell_id, p.batch_id

-- name: case_missing__cells
SELECT DISTINCT ON (c.batch_id, c.case_ordinal) c.id AS key, c.batch_id, c.case_ordinal
FROM cells c
WHERE c.id BETWEEN %(first)s AND %(last)s AND NOT EXISTS (
    SELECT FROM cases k WHERE k.batch_id = c.batch_id AND k.ordinal = c.case_ordinal)

-- name: scoring_stuck
SELECT c.id AS key, e.epoch::text AS mark, c.id AS cell_id, c.batch_id
FROM cells c JOIN executions e ON e.id = c.execution_id
WHERE c.id BETWEEN %(first)s AND %(last)s AND c.status = 'SCORING'
  AND CASE WHEN e.status = 'RUNNING' THEN e.seen ELSE e.ended_at END
      < now() - make_interval(secs => %(scoring_s)s)

-- name: batch_counts
SELECT b.id AS key, b.id AS batch_id, b.cells, b.cases, c.n AS has_cells, k.n AS has_cases
FROM batches b
CROSS JOIN LATERAL (SELECT count(*) AS n FROM cells WHERE batch_id = b.id) c
CROSS JOIN LATERAL (SELECT count(*) AS n FROM cases WHERE batch_id = b.id) k
WHERE b.id BETWEEN %(first)s AND %(last)s AND (b.cells, b.cases) <> (c.n, k.n)

-- name: batch_ended_early
SELECT b.id AS key, b.id AS batch_id, c.n AS count
FROM batches b
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM cells
    WHERE batch_id = b.id AND status IN ('PENDING', 'RUNNING', 'SCORING')
) c
WHERE b.id BETWEEN %(first)s AND %(last)s AND b.status = 'COMPLETED' AND c.n > 0

-- name: cells_left_waiting
SELECT b.id AS key, b.id AS batch_id, b.status, c.n AS count
FROM batches b
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM cells WHERE batch_id = b.id AND status = 'PENDING'
) c
WHERE b.id BETWEEN %(first)s AND %(last)s AND b.status IN ('FAILED', 'CANCELLED') AND c.n > 0

-- name: batch_not_closed
SELECT b.id AS key, b.id AS batch_id, extract(epoch FROM now() - l.at)::bigint AS idle_s
FROM batches b
CROSS JOIN LATERAL (
    SELECT coalesce(max(ended_at), b.started_at, b.created_at) AS at FROM cells WHERE batch_id = b.id
) l
WHERE b.id BETWEEN %(first)s AND %(last)s AND b.status = 'RUNNING'
  AND NOT EXISTS (
    SELECT FROM cells WHERE batch_id = b.id AND status IN ('PENDING', 'RUNNING', 'SCORING'))
  AND l.at < now() - make_interval(secs => %(idle_s)s)

-- name: part_outdated
SELECT b.id AS key, b.id AS batch_id, c.n AS count
FROM batches b
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM result_parts p
    JOIN cells c ON c.batch_id = b.id AND c.status IN ('PENDING', 'RUNNING', 'SCORING')
                AND c.id <@ p.cell_ids
    WHERE p.batch_id = b.id
) c
WHERE b.id BETWEEN %(first)s AND %(last)s AND c.n > 0
