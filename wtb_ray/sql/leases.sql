-- name: lock_lease
SELECT kind, status, epoch, reserved_for FROM leases WHERE id = %(id)s FOR NO KEY UPDATE

-- name: start_runner
INSERT INTO leases (id, kind, pool, holder, until, slots, solo, host, pid, actor_id, configuration,
                    environment)
VALUES (
    %(id)s, 'runner', %(pool)s, %(id)s, now() + make_interval(secs => %(ttl_s)s),
    %(slots)s, %(solo)s, %(host)s, %(pid)s, %(actor_id)s, %(configuration)s,
    %(environment)s
)
ON CONFLICT (id) DO UPDATE SET
    status = 'STARTING', epoch = leases.epoch + 1, pool = EXCLUDED.pool, until = EXCLUDED.until,
    slots = EXCLUDED.slots, solo = EXCLUDED.solo, host = EXCLUDED.host, pid = EXCLUDED.pid,
    actor_id = EXCLUDED.actor_id, configuration = EXCLUDED.configuration,
    environment = EXCLUDED.environment, reserved_for = NULL, short = NULL,
    created_at = now(), busy_at = now()
WHERE leases.kind = 'runner'
RETURNING epoch

-- name: set_lease_status
UPDATE leases SET status = %(status)s WHERE id = %(id)s

-- name: renew_runner
UPDATE leases SET until = now() + make_interval(secs => %(ttl_s)s)
WHERE id = %(id)s AND kind = 'runner' AND epoch = %(epoch)s AND status <> 'DEAD'
RETURNING id

-- name: list_runners
SELECT l.id, l.pool, l.status, l.slots, l.solo, l.host, l.pid, l.epoch, l.reserved_for,
       l.configuration, l.short, l.until < now() AS expired,
       extract(epoch FROM l.until - now())::float8 AS left_s,
       greatest(0, extract(epoch FROM now() - l.until))::float8 AS overdue_s,
       extract(epoch FROM now() - l.busy_at)::float8 AS idle_s,
       (SELECT count(*) FROM executions e WHERE e.owner = l.id) AS in_flight
FROM leases l
WHERE l.kind = 'runner' AND l.status <> 'DEAD'
  AND (%(pool)s::text IS NULL OR l.pool = %(pool)s)
ORDER BY l.created_at, l.id

-- name: set_short
UPDATE leases SET short = %(short)s
WHERE id = %(id)s AND kind = 'runner' AND epoch = %(epoch)s AND short IS DISTINCT FROM %(short)s
RETURNING pool

-- name: tell_shortage
INSERT INTO shortages (version, reason) VALUES (%(version)s, %(reason)s)
ON CONFLICT (version) DO UPDATE SET reason = EXCLUDED.reason, since = now()
WHERE shortages.reason <> EXCLUDED.reason
RETURNING version

-- name: end_shortage
DELETE FROM shortages WHERE version = %(version)s

-- name: acquire_singleton
INSERT INTO leases (id, kind, status, holder, until)
VALUES (%(name)s, 'singleton', 'READY', %(holder)s, now() + make_interval(secs => %(ttl_s)s))
ON CONFLICT (id) DO UPDATE SET
    epoch = CASE WHEN leases.holder = EXCLUDED.holder AND leases.until >= now()
                 THEN leases.epoch ELSE leases.epoch + 1 END,
    holder = EXCLUDED.holder, until = EXCLUDED.until
WHERE leases.kind = 'singleton' AND (leases.until < now() OR leases.holder = EXCLUDED.holder)
RETURNING epoch

-- name: hold_singleton
UPDATE leases SET until = now() + make_interval(secs => %(ttl_s)s)
WHERE id = %(name)s AND kind = 'singleton' AND holder = %(holder)s AND epoch = %(epoch)s
RETURNING id

-- name: release_singleton
UPDATE leases SET until = '-infinity'
WHERE id = %(name)s AND kind = 'singleton' AND holder = %(holder)s
