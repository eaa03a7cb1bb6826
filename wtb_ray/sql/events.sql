-- name: append_events
INSERT INTO events (type, project, execution_id, batch_id, actor, payload)
SELECT * FROM unnest(
    %(types)s::text[], %(projects)s::text[], %(execution_ids)s::text[], %(batch_ids)s::text[],
    %(actors)s::text[], %(payloads)s::text[]
)

-- name: read_events
SELECT xid::text AS xid, seq, at, type, project, execution_id, batch_id, actor, payload
FROM events
WHERE (xid, seq) > (%(xid)s::text::xid8, %(seq)s::bigint)
  AND xid < pg_snapshot_xmin(pg_current_snapshot())

-- name: order_of_events
ORDER BY events.xid, events.seq LIMIT %(limit)s

-- name: latest_event
SELECT xid::text AS xid, seq FROM events
WHERE xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY events.xid DESC, events.seq DESC LIMIT 1
