-- name: audit_poll
SELECT (SELECT max(number) FROM seals) AS number,
       (SELECT count(*) FROM (
            SELECT FROM events
            WHERE (xid, seq) > (%(xid)s::text::xid8, %(seq)s::bigint)
              AND xid < pg_snapshot_xmin(pg_current_snapshot())
            ORDER BY xid, seq LIMIT %(limit)s
        ) e) AS waiting,
       to_json(clock_timestamp()) #>> '{}' AS now

-- name: audit_settled
SELECT xid::text, seq, to_json(at) #>> '{}', type, project, execution_id, batch_id, actor, payload
FROM events
WHERE (xid, seq) > (%(xid)s::text::xid8, %(seq)s::bigint)
  AND xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY events.xid, events.seq LIMIT %(limit)s

-- name: audit_between
SELECT xid::text, seq, to_json(at) #>> '{}', type, project, execution_id, batch_id, actor, payload
FROM events
WHERE (xid, seq) > (%(xid)s::text::xid8, %(seq)s::bigint)
  AND (xid, seq) <= (%(to_xid)s::text::xid8, %(to_seq)s::bigint)
ORDER BY events.xid, events.seq LIMIT %(limit)s

-- name: audit_insert
INSERT INTO seals (
    number, after_xid, after_seq, to_xid, to_seq, events, digest, previous, sealed_at, key_id,
    chain, mac
)
SELECT %(number)s, %(after_xid)s::text::xid8, %(after_seq)s, %(to_xid)s::text::xid8, %(to_seq)s,
       %(events)s, %(digest)s, %(previous)s, %(sealed_at)s::text::timestamptz, %(key_id)s,
       %(chain)s, %(mac)s
WHERE %(number)s = 1
   OR EXISTS (SELECT FROM seals WHERE number = %(number)s - 1 AND chain = %(previous)s)
ON CONFLICT (number) DO NOTHING RETURNING number

-- name: audit_seals
SELECT number, after_xid::text || '.' || after_seq AS after, to_xid::text || '.' || to_seq AS to,
       events, digest, previous, to_json(sealed_at) #>> '{}' AS sealed_at, key_id, chain, mac
FROM seals WHERE number >= %(first)s ORDER BY number LIMIT %(limit)s

-- name: audit_newest
SELECT number, after_xid::text || '.' || after_seq AS after, to_xid::text || '.' || to_seq AS to,
       events, digest, previous, to_json(sealed_at) #>> '{}' AS sealed_at, key_id, chain, mac,
       extract(epoch FROM clock_timestamp() - sealed_at)::float8 AS age_s
FROM seals ORDER BY number DESC LIMIT 1

-- name: audit_unsealed
SELECT count(*) AS events, to_json(min(at)) #>> '{}' AS since
FROM events WHERE (xid, seq) > (%(xid)s::text::xid8, %(seq)s::bigint)

-- name: audit_events
SELECT xid::text AS xid, seq, at, type, project, execution_id, batch_id, actor, payload
FROM events WHERE xid < pg_snapshot_xmin(pg_current_snapshot())

-- name: audit_summary
SELECT grouping(type) AS all_types, grouping(actor) AS all_actors, type, actor,
       count(*) AS events, min(at) AS first, max(at) AS last
FROM events WHERE xid < pg_snapshot_xmin(pg_current_snapshot())

-- name: audit_errors
SELECT type, coalesce(payload::json #>> '{error,code}', '') AS code,
       coalesce(payload::json #>> '{error,node}', '') AS node, count(*) AS events, max(at) AS last
FROM events WHERE type LIKE '%%.failed' AND xid < pg_snapshot_xmin(pg_current_snapshot())
