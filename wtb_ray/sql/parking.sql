-- name: set_strategy
UPDATE executions SET strategy = %(strategy)s, expected_s = %(expected_s)s WHERE id = %(id)s

-- name: asked_strategy
SELECT strategy FROM executions WHERE id = %(id)s

-- name: set_parking
UPDATE executions SET parking = %(parking)s WHERE id = %(id)s

-- name: rests
SELECT id FROM executions WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'PAUSED'
FOR NO KEY UPDATE

-- name: park_colder
UPDATE executions SET parking = %(parking)s, parked_at = now(), expected_s = NULL
WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'PAUSED'
RETURNING id, project, batch_id

-- name: reserve_runner
UPDATE leases l SET reserved_for = %(id)s
WHERE l.id = %(runner)s AND l.status = 'READY' AND NOT l.solo
  AND (SELECT count(*) FROM leases o
       WHERE o.pool = l.pool AND o.reserved_for IS NOT NULL AND o.status = 'READY') < %(most)s
RETURNING l.id

-- name: lock_reserved
SELECT id FROM leases WHERE reserved_for = %(id)s FOR NO KEY UPDATE

-- name: end_reserved
UPDATE leases SET status = 'DRAINING' WHERE reserved_for = %(id)s AND status = 'READY'

-- name: free_reserved
-- Processes that wait for an execution which does not come back to them.
UPDATE leases l SET reserved_for = NULL, busy_at = now()
WHERE l.reserved_for IS NOT NULL AND l.status = 'READY' AND NOT EXISTS (
    SELECT FROM executions e
    WHERE e.id = l.reserved_for AND e.version = l.pool
      AND (e.status IN ('PAUSED', 'PENDING') OR e.owner = l.id))
RETURNING l.id

-- name: due_for_parking
-- A pause that asked for more than was done when it began, and those that last.
SELECT * FROM (
    SELECT e.id, e.epoch, e.version, e.binding, e.ran_in, l.host, e.parked_at,
           l.status IS DISTINCT FROM 'DEAD' AS alive,
           CASE
               WHEN e.parking IS NULL AND e.strategy IN ('warm', 'cold') THEN e.strategy
               WHEN coalesce(e.parking::json ->> 'strategy', 'hot') = 'hot'
                    AND e.parked_at + make_interval(secs => greatest(%(warm_after_s)s, e.expected_s)) < now()
                   THEN 'warm'
               WHEN e.parking::json ->> 'strategy' = 'warm'
                    AND e.parked_at + make_interval(secs => greatest(%(cold_after_s)s, e.expected_s)) < now()
                   THEN 'cold'
           END AS strategy
    FROM executions e LEFT JOIN leases l ON l.id = e.ran_in
    WHERE e.status = 'PAUSED' AND e.ran_in IS NOT NULL
) d WHERE d.strategy IS NOT NULL ORDER BY d.parked_at LIMIT %(limit)s

-- name: parked_in_dead
-- Executions whose process was kept for them and is gone.
SELECT e.id, e.epoch, e.parking FROM executions e JOIN leases l ON l.id = e.ran_in
WHERE e.status = 'PAUSED' AND l.status = 'DEAD'
  AND e.parking::jsonb -> 'kept' ? 'process'
LIMIT %(limit)s
