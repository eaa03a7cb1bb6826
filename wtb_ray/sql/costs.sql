-- name: measure_executions
-- For each thread of each execution, what stands with the steps on its path, and on its own branches.
WITH RECURSIVE chain AS (
    SELECT e.id, e.thread_id, NULL::integer AS last_step
    FROM executions e WHERE e.id = ANY(%(ids)s::text[])
    UNION ALL
    -- A parent's checkpoint without a row of its own there is the copy that branch began with.
    SELECT c.id, b.parent_thread, coalesce((
        SELECT p.step FROM steps p
        WHERE p.thread_id = b.parent_thread AND p.checkpoint_id = b.parent_checkpoint), -2)
    FROM chain c JOIN branches b ON b.thread_id = c.thread_id WHERE b.parent_thread IS NOT NULL
), place AS (
    SELECT id, thread_id, bool_or(own) AS own, bool_or(passed) AS passed, max(last_step) AS last_step
    FROM (
        SELECT id, thread_id, false AS own, true AS passed, last_step FROM chain
        UNION ALL
        SELECT i.id, b.thread_id, true, false, NULL
        FROM unnest(%(ids)s::text[]) AS i (id) CROSS JOIN LATERAL (
            SELECT thread_id FROM branches WHERE execution_id = i.id OFFSET 0) b
    ) seen GROUP BY id, thread_id
)
SELECT e.id, e.batch_id, e.spent, e.spent_tokens, e.cut_off, m.path_ms, m.path_runs, m.path_nodes,
       m.own_ms, m.own_runs, m.own_nodes
FROM place p JOIN executions e ON e.id = p.id AND e.id = ANY(%(ids)s::text[])
-- Aggregated thread by thread, so that never the whole of a table without statistics is joined.
CROSS JOIN LATERAL (
    SELECT sum(duration_ms) FILTER (WHERE on_path) AS path_ms,
           (sum(runs) FILTER (WHERE on_path))::integer AS path_runs,
           array_agg(nodes) FILTER (WHERE on_path AND used) AS path_nodes,
           sum(duration_ms) FILTER (WHERE p.own) AS own_ms,
           (sum(runs) FILTER (WHERE p.own))::integer AS own_runs,
           array_agg(nodes) FILTER (WHERE p.own AND used) AS own_nodes
    FROM (
        SELECT p.passed AND (p.last_step IS NULL OR s.step <= p.last_step) AS on_path,
               s.duration_ms, s.nodes, json_array_length(s.nodes::json) AS runs,
               s.nodes LIKE '%%"usage"%%' AS used
        FROM steps s WHERE s.thread_id = p.thread_id
    ) made
) m

-- name: add_spendings
INSERT INTO batch_spendings AS s (batch_id, shard, node_runs, duration_ms, tokens, usage)
SELECT batch_id, pg_backend_pid() %% 16, node_runs, duration_ms, tokens, usage
FROM unnest(%(batches)s::text[], %(node_runs)s::bigint[], %(durations)s::float8[],
            %(tokens)s::float8[], %(usages)s::text[])
    AS i (batch_id, node_runs, duration_ms, tokens, usage)
ORDER BY batch_id
ON CONFLICT (batch_id, shard) DO UPDATE SET
    node_runs = s.node_runs + EXCLUDED.node_runs,
    duration_ms = s.duration_ms + EXCLUDED.duration_ms,
    tokens = s.tokens + EXCLUDED.tokens,
    usage = (
        SELECT coalesce(json_object_agg(key, amount), '{}')::text FROM (
            SELECT key, sum(value::float8) AS amount FROM (
                SELECT * FROM json_each_text(s.usage::json)
                UNION ALL SELECT * FROM json_each_text(EXCLUDED.usage::json)
            ) both_sides GROUP BY key
        ) sums)

-- name: spent_of_batches
SELECT batch_id, node_runs, duration_ms, tokens, usage FROM batch_spendings
WHERE batch_id = ANY(%(ids)s::text[])

-- name: cost_of_batches
SELECT c.batch_id, coalesce(sum(c.node_runs), 0)::bigint AS node_runs,
       coalesce(sum(c.latency_ms), 0)::float8 AS duration_ms,
       (SELECT coalesce(json_object_agg(key, amount), '{}')::text FROM (
            SELECT u.key, sum(u.value::float8) AS amount
            FROM cells k CROSS JOIN LATERAL json_each_text(k.usage::json) AS u
            WHERE k.batch_id = c.batch_id AND k.usage <> '{}' GROUP BY u.key
        ) sums) AS usage
FROM cells c WHERE c.batch_id = ANY(%(ids)s::text[]) GROUP BY c.batch_id

-- name: budget_of_batch
-- Its budget and, beside what its executions have spent, how much of it is used.
SELECT b.budget, b.ran_s + coalesce(extract(epoch FROM now() - b.running_since), 0)::float8 AS ran_s,
       (SELECT count(*) FROM cells WHERE batch_id = b.id AND execution_id IS NOT NULL) AS cells
FROM batches b WHERE b.id = %(id)s

-- name: set_budget
UPDATE batches SET budget = %(budget)s WHERE id = %(id)s

-- name: open_budgets
-- Open batches that have a budget and cells which it may keep from starting.
SELECT b.id, b.budget, b.ran_s + coalesce(extract(epoch FROM now() - b.running_since), 0)::float8 AS ran_s,
       CASE WHEN b.budget::json ->> 'cells' IS NULL THEN 0 ELSE (
           SELECT count(*) FROM cells WHERE batch_id = b.id AND execution_id IS NOT NULL) END AS cells
FROM batches b
WHERE b.status = ANY(%(statuses)s::text[]) AND b.budget IS NOT NULL AND (%(id)s::text IS NULL OR b.id = %(id)s)
  AND EXISTS (SELECT FROM cells WHERE batch_id = b.id AND status = 'PENDING')

-- name: exclude_pending_cells
UPDATE cells SET status = %(status)s, error = %(error)s, ended_at = now()
WHERE batch_id = %(batch_id)s AND status = 'PENDING'

-- name: say_reason
UPDATE batches SET reason = %(reason)s WHERE id = %(id)s

-- name: say_reason_of_cells
UPDATE batches SET reason = CASE WHEN EXISTS (
    SELECT FROM cells WHERE batch_id = %(id)s AND status = %(status)s) THEN %(reason)s END
WHERE id = %(id)s
