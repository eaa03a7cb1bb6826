-- name: batch
SELECT status FROM batches WHERE id = %(batch_id)s

-- name: parts
SELECT p.number, p.digest, p.rows, p.bytes, r.starts, r.ends
FROM result_parts p
CROSS JOIN LATERAL (
    SELECT array_agg(lower(r) ORDER BY r) AS starts, array_agg(upper(r) ORDER BY r) AS ends
    FROM unnest(p.cell_ids) r
) r
WHERE p.batch_id = %(batch_id)s ORDER BY p.number

-- name: unsealed_cells
SELECT c.id, c.ordinal, b.variants[c.variant + 1], k.case_id, c.repetition, c.status, c.execution_id,
       c.latency_ms, c.error::json ->> 'code', c.error::json ->> 'message', c.ended_at, c.node_runs,
       c.usage, c.shared_failure,
       c.xmin::text::bigint
FROM cells c
JOIN batches b ON b.id = c.batch_id
JOIN cases k ON k.batch_id = c.batch_id AND k.ordinal = c.case_ordinal
WHERE c.batch_id = %(batch_id)s AND c.status = ANY(%(statuses)s::text[])
  AND NOT c.id <@ coalesce(
      (SELECT range_agg(cell_ids) FROM result_parts WHERE batch_id = %(batch_id)s), '{}')
ORDER BY c.id LIMIT %(limit)s

-- name: scores_of_cells
SELECT cell_id, scorer, scorer_digest, metric, value, explanation
FROM scores WHERE cell_id = ANY(%(cells)s::bigint[]) ORDER BY cell_id, seq

-- name: lock_batch
SELECT FROM batches WHERE id = %(batch_id)s FOR NO KEY UPDATE

-- name: still_as_read
SELECT c.id
FROM unnest(%(cells)s::bigint[], %(versions)s::bigint[]) AS read (id, version)
JOIN cells c ON c.id = read.id AND c.xmin::text::bigint = read.version
WHERE NOT c.id <@ coalesce(
    (SELECT range_agg(cell_ids) FROM result_parts WHERE batch_id = %(batch_id)s), '{}')
ORDER BY c.id

-- name: insert_part
INSERT INTO result_parts (batch_id, number, digest, rows, bytes, cell_ids)
SELECT %(batch_id)s, 1 + coalesce((SELECT max(number) FROM result_parts WHERE batch_id = %(batch_id)s), 0),
       %(digest)s, %(rows)s, %(bytes)s, (SELECT range_agg(int8range(id, id, '[]')) FROM unnest(%(cells)s::bigint[]) id)
RETURNING number

-- name: unseal
UPDATE result_parts p
SET cell_ids = p.cell_ids - taken.ids, rows = p.rows - (
    SELECT count(*) FROM unnest(%(cells)s::bigint[]) id WHERE id <@ p.cell_ids)
FROM (SELECT range_agg(int8range(id, id, '[]')) AS ids FROM unnest(%(cells)s::bigint[]) id) taken
WHERE p.batch_id = %(batch_id)s AND p.cell_ids && taken.ids

-- name: forget_part
DELETE FROM result_parts WHERE batch_id = %(batch_id)s AND digest = %(digest)s

-- name: results_digest
SELECT b.status, b.node_errors, b.scorers, b.cells, count(c.id) AS ended,
       bit_xor(hashint8extended(c.id, c.xmin::text::bigint)) AS versions
FROM batches b
LEFT JOIN cells c ON c.batch_id = b.id AND c.status = ANY(%(terminal)s::text[])
WHERE b.id = %(batch_id)s GROUP BY b.id

-- name: stored_leaderboard
SELECT body FROM leaderboards WHERE batch_id = %(batch_id)s AND digest = %(digest)s

-- name: drop_other_leaderboards
DELETE FROM leaderboards WHERE batch_id = %(batch_id)s AND digest <> %(digest)s

-- name: insert_leaderboard
INSERT INTO leaderboards (batch_id, digest, body) VALUES (%(batch_id)s, %(digest)s, %(body)s)
ON CONFLICT DO NOTHING RETURNING digest
