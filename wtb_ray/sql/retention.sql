-- name: prune_keys
DELETE FROM idempotency WHERE created_at < now() - make_interval(secs => %(age_s)s)

-- name: prune_operations
DELETE FROM operations
WHERE status <> 'RUNNING' AND ended_at < now() - make_interval(secs => %(age_s)s)

-- name: prune_leases
-- Of a singleton the row is its fencing number, so only runners' rows go.
DELETE FROM leases l
WHERE l.kind = 'runner' AND l.status = 'DEAD'
  AND l.busy_at < now() - make_interval(secs => %(age_s)s)
  AND NOT EXISTS (SELECT FROM executions e WHERE e.owner = l.id)
