-- name: set_limit
-- What is in the buckets stays in them, but for what a smaller one cannot hold; new ones are full.
INSERT INTO limits AS l (name, units, per_minute, burst, levels, concurrency)
VALUES (%(name)s, %(units)s::text[], %(per_minute)s::float8[], %(burst)s::float8[],
        %(burst)s::float8[], %(concurrency)s)
ON CONFLICT (name) DO UPDATE SET
    units = EXCLUDED.units, per_minute = EXCLUDED.per_minute, burst = EXCLUDED.burst,
    concurrency = EXCLUDED.concurrency, updated_at = now(), filled_at = greatest(now(), l.filled_at),
    levels = ARRAY(
        SELECT least(n.burst, coalesce(least(o.burst, o.level + o.per_minute / 60
            * extract(epoch FROM greatest(now(), l.filled_at) - l.filled_at)::float8), n.burst))
        FROM unnest(EXCLUDED.units, EXCLUDED.burst) WITH ORDINALITY AS n (unit, burst, place)
        LEFT JOIN unnest(l.units, l.per_minute, l.burst, l.levels) AS o (unit, per_minute, burst, level)
            USING (unit)
        ORDER BY n.place)

-- name: delete_limit
DELETE FROM limits WHERE name = %(name)s RETURNING name

-- name: select_limits
SELECT l.name, l.units, l.per_minute, l.burst, l.concurrency, l.created_at, l.updated_at,
       ARRAY(SELECT least(u.burst, u.level + u.per_minute / 60
                 * greatest(0, extract(epoch FROM now() - l.filled_at))::float8)
             FROM unnest(l.per_minute, l.burst, l.levels) WITH ORDINALITY
                 AS u (per_minute, burst, level, place)
             ORDER BY u.place) AS levels,
       (SELECT coalesce(sum(s.held), 0) FROM limit_slots s
        JOIN leases h ON h.id = s.holder AND h.status <> 'DEAD' AND h.until > now()
        WHERE s.name = l.name)::integer AS inside
FROM limits l

-- name: reserve_limit
-- Refills the buckets and takes from them, by the clock at the moment when the row is held.
UPDATE limits l SET (levels, filled_at) = (
    WITH moment AS MATERIALIZED (SELECT greatest(clock_timestamp(), l.filled_at) AS at)
    SELECT coalesce(array_agg(
               least(u.burst, u.level + u.per_minute / 60
                   * extract(epoch FROM m.at - l.filled_at)::float8)
               - coalesce((%(asked)s::jsonb ->> u.unit)::float8, 0) ORDER BY u.place), '{}'),
           coalesce(min(m.at), l.filled_at)
    FROM moment m, unnest(l.units, l.per_minute, l.burst, l.levels) WITH ORDINALITY
        AS u (unit, per_minute, burst, level, place)
)
WHERE l.name = %(name)s AND NOT EXISTS (
    SELECT FROM unnest(l.units, l.burst) AS u (unit, burst)
    WHERE (%(asked)s::jsonb ->> u.unit)::float8 > u.burst)
RETURNING l.units, l.per_minute, l.burst, l.concurrency, l.levels

-- name: lock_limit
SELECT concurrency FROM limits WHERE name = %(name)s FOR NO KEY UPDATE

-- name: forget_slots
DELETE FROM limit_slots s WHERE s.name = %(name)s AND s.holder <> %(holder)s AND NOT EXISTS (
    SELECT FROM leases h WHERE h.id = s.holder AND h.status <> 'DEAD' AND h.until > now())

-- name: select_slots
SELECT holder, held,
       waiting_since IS NOT NULL AND asked_at > clock_timestamp() - make_interval(secs => %(fresh_s)s)
           AS wanted,
       coalesce(extract(epoch FROM clock_timestamp() - waiting_since), 0)::float8 AS waits_s
FROM limit_slots WHERE name = %(name)s

-- name: put_slots
INSERT INTO limit_slots AS s (name, holder, held, waiting_since, asked_at)
VALUES (%(name)s, %(holder)s, %(held)s, CASE WHEN %(waits)s THEN clock_timestamp() END,
        clock_timestamp())
ON CONFLICT (name, holder) DO UPDATE SET
    held = EXCLUDED.held, asked_at = EXCLUDED.asked_at,
    -- Whoever got something, and waits for more, waits anew.
    waiting_since = CASE WHEN %(served)s THEN EXCLUDED.waiting_since
                         WHEN %(waits)s THEN coalesce(s.waiting_since, EXCLUDED.waiting_since) END
