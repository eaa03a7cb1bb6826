-- As in checks_lineage.sql: executions, runners, commands.

-- name: head_stale
SELECT e.id AS key, e.epoch::text AS mark, e.id AS execution_id, e.head, e.head_step,
       n.checkpoint_id, n.step, e.status <> 'RUNNING' AS able
FROM executions e
CROSS JOIN LATERAL (
    SELECT s.checkpoint_id, s.step FROM steps s WHERE s.thread_id = e.thread_id
    ORDER BY s.step DESC, s.checkpoint_id DESC LIMIT 1
) n
WHERE e.id BETWEEN %(first)s AND %(last)s
  AND (e.head, e.head_step) IS DISTINCT FROM (n.checkpoint_id, n.step)

-- name: completed_unfinished
SELECT e.id AS key, e.epoch::text AS mark, e.id AS execution_id, e.head_step,
       array_to_string(s.next_nodes, ', ') AS next_nodes,
       e.batch_id IS NULL OR EXISTS (
           SELECT FROM batches b WHERE b.id = e.batch_id AND b.status IN ('PENDING', 'RUNNING', 'PAUSED'))
       AND NOT EXISTS (
           SELECT FROM cells c WHERE c.execution_id = e.id
             AND c.status NOT IN ('PENDING', 'RUNNING', 'SCORING')) AS able
FROM executions e
LEFT JOIN steps s ON s.thread_id = e.thread_id AND s.checkpoint_id = e.head
WHERE e.id BETWEEN %(first)s AND %(last)s AND e.status = 'COMPLETED'
  AND (e.head IS NULL OR cardinality(s.next_nodes) > 0)

-- name: owner_mismatch
SELECT id AS key, epoch::text AS mark, id AS execution_id, status, owner
FROM executions
WHERE id BETWEEN %(first)s AND %(last)s AND (status = 'RUNNING') <> (owner IS NOT NULL)

-- name: running_without_lease
SELECT e.id AS key, e.epoch::text AS mark, e.id AS execution_id, e.owner
FROM executions e
WHERE e.id BETWEEN %(first)s AND %(last)s AND e.status = 'RUNNING' AND e.owner IS NOT NULL
  AND coalesce(e.seen, e.started_at, e.created_at) < now() - make_interval(secs => %(overdue_s)s)
  AND NOT EXISTS (SELECT FROM leases l WHERE l.id = e.owner AND l.status <> 'DEAD')

-- name: pending_unserved
SELECT e.id AS key, e.epoch || ' ' || e.attempt AS mark, e.id AS execution_id, e.version,
       extract(epoch FROM now() - e.not_before)::bigint AS waited_s
FROM executions e
WHERE e.id BETWEEN %(first)s AND %(last)s AND e.status = 'PENDING'
  AND e.not_before < now() - make_interval(secs => %(pending_s)s)
  AND (e.batch_id IS NULL OR EXISTS (
      SELECT FROM batches b WHERE b.id = e.batch_id AND b.status IN ('PENDING', 'RUNNING')))
  AND NOT EXISTS (
      SELECT FROM leases l WHERE l.pool = e.version
        AND (l.status <> 'DEAD' AND l.until > now()
             OR greatest(l.created_at, l.busy_at) > now() - make_interval(secs => %(pending_s)s)))

-- name: pending_in_ended_batch
SELECT e.id AS key, e.epoch::text AS mark, e.id AS execution_id, e.batch_id, b.status
FROM executions e JOIN batches b ON b.id = e.batch_id
WHERE e.id BETWEEN %(first)s AND %(last)s AND e.status = 'PENDING'
  AND b.status IN ('COMPLETED', 'FAILED', 'CANCELLED')

-- name: case_missing
SELECT DISTINCT ON (e.batch_id, e.case_ordinal) e.id AS key, e.batch_id, e.case_ordinal
FROM executions e
WHERE e.id BETWEEN %(first)s AND %(last)s AND e.batch_id IS NOT NULL AND e.input IS NULL
  AND NOT EXISTS (
    SELECT FROM cases k WHERE k.batch_id = e.batch_id AND k.ordinal = e.case_ordinal)

-- name: lease_overdue
SELECT id AS key, epoch || ' ' || until AS mark, id AS runner, status,
       extract(epoch FROM now() - until)::bigint AS overdue_s
FROM leases
WHERE id BETWEEN %(first)s AND %(last)s AND kind = 'runner' AND status IN ('STARTING', 'READY')
  AND until < now() - make_interval(secs => %(overdue_s)s)

-- name: drain_overdue
SELECT id AS key, epoch || ' ' || until AS mark, id AS runner,
       extract(epoch FROM now() - until)::bigint AS overdue_s
FROM leases
WHERE id BETWEEN %(first)s AND %(last)s AND kind = 'runner' AND status = 'DRAINING'
  AND until < now() - make_interval(secs => %(overdue_s)s)

-- name: singleton_overdue
-- One that was given back is nobody's, and not missed.
SELECT id AS key, epoch || ' ' || until AS mark, id AS singleton,
       extract(epoch FROM now() - until)::bigint AS overdue_s
FROM leases
WHERE id BETWEEN %(first)s AND %(last)s AND kind = 'singleton' AND until > '-infinity'
  AND until < now() - make_interval(secs => %(overdue_s)s)

-- name: expired_leases
SELECT id AS key, epoch || ' ' || until AS mark, id AS runner, status
FROM leases
WHERE id BETWEEN %(first)s AND %(last)s AND kind = 'runner' AND status <> 'DEAD'
  AND until < now() - make_interval(secs => %(ttl_s)s)
  AND until >= now() - make_interval(secs => %(overdue_s)s)

-- name: leases_of
SELECT id FROM leases WHERE id = ANY(%(ids)s::text[]) AND status <> 'DEAD'

-- name: operation_lost
SELECT id AS key, id AS operation_id, kind AS operation,
       extract(epoch FROM now() - created_at)::bigint AS age_s
FROM operations
WHERE id BETWEEN %(first)s AND %(last)s AND status = 'RUNNING'
  AND created_at < now() - make_interval(secs => %(lost_s)s)

-- name: key_unfinished
SELECT key, created_at::text AS mark, key AS idempotency_key,
       extract(epoch FROM now() - created_at)::bigint AS age_s
FROM idempotency
WHERE key BETWEEN %(first)s AND %(last)s AND status IS NULL
  AND created_at < now() - make_interval(secs => %(unanswered_s)s)

-- name: version_missing
SELECT p.name AS key, p.name AS project, p.version,
       EXISTS (SELECT FROM project_versions v WHERE v.project = p.name) AS able
FROM projects p
WHERE p.name BETWEEN %(first)s AND %(last)s
  AND NOT EXISTS (SELECT FROM project_versions v WHERE v.version = p.version)
