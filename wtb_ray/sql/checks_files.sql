-- As in checks_lineage.sql; and what rows name in the object store.

-- name: orphan_commit
WITH lost AS MATERIALIZED (
    SELECT p.thread_id, count(*), max(p.created_at) AS newest FROM steps p
    WHERE p.thread_id BETWEEN %(first)s AND %(last)s AND NOT EXISTS (
        SELECT FROM branches b WHERE b.thread_id = p.thread_id AND b.thread_id BETWEEN %(first)s AND %(last)s)
    GROUP BY p.thread_id
)
SELECT t.thread_id AS key, t.thread_id, t.count,
       t.newest < now() - make_interval(secs => %(grace_s)s) AS able
FROM lost t
WHERE NOT EXISTS (SELECT FROM executions e WHERE e.id = split_part(t.thread_id, '.', 1))

-- name: orphan_commit__points
WITH lost AS MATERIALIZED (
    SELECT p.thread_id, count(*), max(p.created_at) AS newest FROM restore_points p
    WHERE p.thread_id BETWEEN %(first)s AND %(last)s AND NOT EXISTS (
        SELECT FROM branches b WHERE b.thread_id = p.thread_id AND b.thread_id BETWEEN %(first)s AND %(last)s)
    GROUP BY p.thread_id
)
SELECT t.thread_id AS key, t.thread_id, t.count,
       t.newest < now() - make_interval(secs => %(grace_s)s) AS able
FROM lost t
WHERE NOT EXISTS (SELECT FROM executions e WHERE e.id = split_part(t.thread_id, '.', 1))
  AND NOT EXISTS (SELECT FROM steps s WHERE s.thread_id = t.thread_id)

-- name: orphan_restore
SELECT r.id AS key, r.id AS restore_id, r.execution_id,
       r.created_at < now() - make_interval(secs => %(grace_s)s) AS able
FROM restores r
WHERE r.id BETWEEN %(first)s AND %(last)s
  AND NOT EXISTS (SELECT FROM executions e WHERE e.id = r.execution_id)

-- name: trees_of_steps
SELECT DISTINCT ON (manifest) thread_id AS key, manifest AS digest,
       'step ' || step || ' of ' || thread_id AS named_by
FROM steps WHERE thread_id BETWEEN %(first)s AND %(last)s AND manifest IS NOT NULL

-- name: trees_of_points
SELECT DISTINCT ON (manifest) thread_id AS key, manifest AS digest,
       'restore point ' || seq || ' of ' || thread_id AS named_by
FROM restore_points WHERE thread_id BETWEEN %(first)s AND %(last)s AND manifest IS NOT NULL

-- name: trees_of_restores
SELECT DISTINCT ON (digest) r.id AS key, d.digest, 'restore ' || r.id AS named_by
FROM restores r CROSS JOIN LATERAL (VALUES (r.before), (r.after)) AS d (digest)
WHERE r.id BETWEEN %(first)s AND %(last)s AND d.digest IS NOT NULL

-- name: bundles
SELECT version AS key, spec::json ->> 'bundle' AS digest, 'project ' || project AS named_by
FROM project_versions
WHERE version BETWEEN %(first)s AND %(last)s AND spec::json ->> 'bundle' IS NOT NULL

-- name: parts
SELECT batch_id AS key, digest, batch_id, 'batch ' || batch_id AS named_by
FROM result_parts WHERE batch_id BETWEEN %(first)s AND %(last)s
