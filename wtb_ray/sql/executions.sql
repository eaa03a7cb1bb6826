-- name: insert_execution
WITH made AS (
    INSERT INTO executions
        (id, project, version, binding, input, recursion_limit, breakpoints, priority, thread_id,
         deadline_s, tracking)
    VALUES (
        %(id)s, %(project)s, %(version)s, %(binding)s, %(input)s, %(recursion_limit)s,
        %(breakpoints)s::text[], %(priority)s, %(thread_id)s, %(deadline_s)s,
        (SELECT coalesce((spec::json #>> '{file_tracking,enabled}')::boolean, false)
         FROM project_versions WHERE version = %(version)s)
    )
    ON CONFLICT (id) DO NOTHING RETURNING id, thread_id
)
INSERT INTO branches (thread_id, execution_id, number, reason)
SELECT thread_id, id, 0, 'start' FROM made RETURNING execution_id

-- name: select_executions
SELECT e.id, e.project, e.version, e.binding, e.status, coalesce(s.reason, e.reason) AS reason, e.wanted, e.epoch, e.owner,
       e.thread_id, e.head, e.head_step, e.recursion_limit, e.breakpoints, e.batch_id, k.case_id,
       e.repetition, e.attempt, e.suspect, e.error, e.latency_ms, e.node_runs, e.usage, e.spent, e.deadline_s, e.forked_from,
       e.forked_at, e.parking, e.environment, e.created_at, e.started_at, e.ended_at
FROM executions e LEFT JOIN cases k ON k.batch_id = e.batch_id AND k.ordinal = e.case_ordinal
LEFT JOIN shortages s ON s.version = e.version AND e.status = 'PENDING'

-- name: newest_executions
ORDER BY e.created_at DESC, e.id DESC LIMIT %(limit)s

-- name: insert_admitted
WITH item AS (
    SELECT * FROM unnest(
        %(ids)s::text[], %(bindings)s::text[], %(cases)s::integer[], %(repetitions)s::integer[]
    ) WITH ORDINALITY AS i (id, binding, case_ordinal, repetition, place)
), made AS (
    -- A microsecond apart, so that claims keep the order of the cells.
    INSERT INTO executions (id, project, version, binding, recursion_limit, priority, thread_id,
                            batch_id, case_ordinal, repetition, created_at, tracking)
    SELECT id, %(project)s, %(version)s, binding, %(recursion_limit)s, %(priority)s, id || '.0',
           %(batch_id)s, case_ordinal, repetition, now() + place * interval '1 microsecond',
           (SELECT coalesce((spec::json #>> '{file_tracking,enabled}')::boolean, false)
         FROM project_versions WHERE version = %(version)s)
    FROM item
), branch AS (
    INSERT INTO branches (thread_id, execution_id, number, reason)
    SELECT id || '.0', id, 0, 'start' FROM item
)
UPDATE cells c SET status = %(status)s, execution_id = i.id
FROM unnest(%(cells)s::bigint[], %(executions)s::text[]) AS i (cell, id) WHERE c.id = i.cell

-- name: claim_executions
WITH lease AS (
    SELECT id, reserved_for, environment FROM leases
    WHERE id = %(owner)s AND kind = 'runner' AND epoch = %(owner_epoch)s
      AND status IN ('STARTING', 'READY') AND until > now()
    FOR NO KEY UPDATE
), share AS (
    SELECT * FROM unnest(
        %(any)s::boolean[], %(batches)s::text[], %(priorities)s::integer[], %(shares)s::integer[]
    ) AS i (any_of_them, batch_id, priority, share)
), picked AS (
    SELECT p.id, p.written_by
    FROM share s CROSS JOIN LATERAL (
        SELECT e.id, e.xmin AS written_by FROM executions e
        WHERE e.status = 'PENDING' AND e.version = %(version)s AND e.not_before <= now()
          AND (e.suspect >= %(solo_suspect)s) = %(solo)s
          AND (s.any_of_them
               OR e.batch_id IS NOT DISTINCT FROM s.batch_id AND e.priority = s.priority)
          AND (e.batch_id IS NULL OR EXISTS (
              SELECT FROM batches b WHERE b.id = e.batch_id AND b.status IN ('PENDING', 'RUNNING')))
          AND EXISTS (SELECT FROM lease WHERE reserved_for IS NULL OR reserved_for = e.id)
          -- One whose own process is kept for it goes on there.
          AND NOT EXISTS (
              SELECT FROM leases l
              WHERE l.reserved_for = e.id AND l.id <> %(owner)s AND l.pool = e.version
                AND l.status = 'READY' AND l.until > now())
        ORDER BY e.priority DESC, e.created_at
        LIMIT s.share
        FOR NO KEY UPDATE OF e SKIP LOCKED
    ) p
), claimed AS (
    UPDATE executions e SET
        status = %(status)s, owner = %(owner)s, epoch = e.epoch + 1, attempt = e.attempt + 1,
        reason = NULL, seen = now(), ran_in = %(owner)s,
        environment = (SELECT environment FROM lease), started_at = coalesce(e.started_at, now()),
        deadline = coalesce(e.deadline, now() + make_interval(secs => coalesce(
            e.deadline_s, (SELECT b.deadline_s FROM batches b WHERE b.id = e.batch_id))))
    FROM picked p WHERE e.id = p.id
    RETURNING e.*, p.written_by
), busy AS (
    UPDATE leases SET busy_at = now(), reserved_for = NULL WHERE id = %(owner)s AND EXISTS (SELECT FROM claimed)
)
SELECT e.id, e.epoch, e.thread_id, e.head, e.head_step, e.version, e.project, e.binding,
       coalesce(e.input, k.input) AS input, e.recursion_limit, e.breakpoints, e.batch_id, k.case_id,
       k.expected, k.metadata, k.answers AS case_answers, e.repetition, e.suspect, e.attempt,
       e.tracking, e.wanted, e.passed, e.clean_from, e.environment, CASE WHEN e.batch_id IS NOT NULL THEN ARRAY(
           SELECT variant FROM cells WHERE execution_id = e.id
             AND status IN ('RUNNING', 'SCORING') ORDER BY variant) END AS members,
       e.written_by::text AS written_by,
       pg_current_xact_id()::text AS xid,
       -- What somebody runs again when its cells have ended is free of their deadline.
       CASE WHEN e.deadline IS NOT NULL AND (e.batch_id IS NULL OR EXISTS (
           SELECT FROM cells c WHERE c.execution_id = e.id AND c.status IN ('RUNNING', 'SCORING')))
       THEN extract(epoch FROM e.deadline - now())::float8 END AS left_s
FROM claimed e LEFT JOIN cases k ON k.batch_id = e.batch_id AND k.ordinal = e.case_ordinal
ORDER BY e.priority DESC, e.created_at

-- name: lock_executions
SELECT id, project, batch_id, status, epoch, owner, wanted, reason, attempt, suspect,
       xmin::text AS written_by, pg_current_xact_id()::text AS xid
FROM executions WHERE id = ANY(%(ids)s::text[])
ORDER BY id FOR NO KEY UPDATE

-- name: lock_owned
SELECT id, project, batch_id, status, epoch, owner, wanted, reason, attempt, suspect,
       xmin::text AS written_by, pg_current_xact_id()::text AS xid
FROM executions WHERE owner = %(owner)s
ORDER BY id FOR NO KEY UPDATE

-- name: owned_executions
SELECT id, epoch FROM executions WHERE owner = %(owner)s ORDER BY id

-- name: standing
SELECT id, status, epoch FROM executions WHERE id = ANY(%(ids)s::text[])

-- name: wishes
SELECT id, epoch, wanted FROM executions WHERE owner = %(owner)s

-- name: lock_unended
SELECT id, project, batch_id, status, epoch, owner, wanted, reason, attempt, suspect,
       xmin::text AS written_by, pg_current_xact_id()::text AS xid
FROM executions WHERE batch_id = %(batch_id)s AND status IN ('PENDING', 'RUNNING', 'PAUSED')
  AND NOT id = ANY(%(seen)s::text[])
ORDER BY id FOR NO KEY UPDATE

-- name: lock_given_up
SELECT id, project, batch_id, status, epoch, owner, wanted, reason, attempt, suspect,
       xmin::text AS written_by, pg_current_xact_id()::text AS xid
FROM executions
WHERE version = %(version)s
  AND (status = 'PENDING' OR status = 'RUNNING' AND batch_id = ANY(%(batches)s::text[]))
  AND NOT id = ANY(%(seen)s::text[])
ORDER BY id FOR NO KEY UPDATE

-- name: parties
WITH pending AS (
    SELECT e.batch_id, e.priority, count(*) AS n FROM executions e
    WHERE e.status = 'PENDING' AND e.version = %(version)s AND e.not_before <= now()
      AND e.suspect < %(solo_suspect)s
      AND (e.batch_id IS NULL OR EXISTS (
          SELECT FROM batches b WHERE b.id = e.batch_id AND b.status IN ('PENDING', 'RUNNING')))
      AND NOT EXISTS (
          SELECT FROM leases l
          WHERE l.reserved_for = e.id AND l.id <> %(owner)s AND l.pool = e.version
            AND l.status = 'READY' AND l.until > now())
    GROUP BY e.batch_id, e.priority
), unstarted AS (
    SELECT b.id AS batch_id, b.priority, c.n FROM batches b CROSS JOIN LATERAL (
        SELECT count(*) AS n FROM (
            SELECT FROM cells WHERE batch_id = b.id AND status = 'PENDING'
            ORDER BY ordinal LIMIT %(most)s) w
    ) c
    WHERE b.version = %(version)s AND b.status = 'RUNNING' AND c.n > 0
), running AS (
    SELECT e.batch_id, e.priority, count(*) AS n
    FROM leases l JOIN executions e ON e.owner = l.id
    WHERE l.kind = 'runner' AND l.pool = %(version)s AND l.status <> 'DEAD'
    GROUP BY e.batch_id, e.priority
)
SELECT batch_id, priority, sum(pending)::bigint AS pending, sum(cells)::bigint AS cells,
       sum(running)::bigint AS running
FROM (
    SELECT batch_id, priority, n AS pending, 0 AS cells, 0 AS running FROM pending
    UNION ALL SELECT batch_id, priority, 0, n, 0 FROM unstarted
    UNION ALL SELECT batch_id, priority, 0, 0, n FROM running
) parts
GROUP BY batch_id, priority
HAVING sum(pending) + sum(cells) > 0
ORDER BY priority DESC, batch_id NULLS FIRST

-- name: demand
WITH waiting AS (
    SELECT e.version, max(e.priority) AS priority, count(*) AS pending,
           count(*) FILTER (WHERE e.suspect >= %(solo_suspect)s) AS suspects,
           count(*) FILTER (WHERE l.id IS NOT NULL) AS reserved
    FROM executions e
    LEFT JOIN leases l ON l.reserved_for = e.id AND l.pool = e.version
        AND l.status = 'READY' AND l.until > now()
    WHERE e.status = 'PENDING' AND e.not_before <= now()
      AND (e.batch_id IS NULL OR EXISTS (
          SELECT FROM batches b WHERE b.id = e.batch_id AND b.status IN ('PENDING', 'RUNNING')))
    GROUP BY e.version
), unstarted AS (
    SELECT b.version, max(b.priority) AS priority, sum(c.n)::bigint AS cells
    FROM batches b
    CROSS JOIN LATERAL (
        SELECT count(*) AS n FROM (
            SELECT FROM cells WHERE batch_id = b.id AND status = 'PENDING'
            ORDER BY ordinal LIMIT %(most)s) w
    ) c
    WHERE b.status = 'RUNNING' AND c.n > 0
    GROUP BY b.version
)
SELECT version, coalesce(w.pending, 0) AS pending, coalesce(w.suspects, 0) AS suspects,
       coalesce(w.reserved, 0) AS reserved,
       coalesce(u.cells, 0) AS cells, greatest(w.priority, u.priority) AS priority
FROM waiting w FULL JOIN unstarted u USING (version) ORDER BY version

-- name: want_stop
UPDATE executions SET wanted = 'stop', reason = %(reason)s WHERE id = ANY(%(ids)s::text[])

-- name: change_executions
WITH item AS (
    SELECT * FROM unnest(
        %(ids)s::text[], %(statuses)s::text[], %(reasons)s::text[], %(errors)s::text[],
        %(delays)s::float8[], %(epochs)s::integer[], %(attempts)s::integer[],
        %(suspects)s::integer[], %(measured)s::boolean[], %(latencies)s::float8[],
        %(node_runs)s::integer[], %(usages)s::text[], %(spent)s::text[], %(tokens)s::float8[],
        %(cut_off)s::text[]
    ) AS i (id, status, reason, error, delay_s, epoch, attempt, suspect, measured, latency_ms, node_runs,
            usage, spent, tokens, cut_off)
)
UPDATE executions e SET
    status = i.status, reason = i.reason, error = i.error, owner = NULL,
    -- A wish that the owner has not met yet stays for the next one.
    wanted = CASE WHEN i.status = 'PENDING' AND e.wanted <> 'drain' THEN e.wanted ELSE 'run' END,
    parked_at = CASE WHEN i.status = 'PAUSED' THEN now() END, parking = NULL,
    strategy = CASE WHEN i.status = 'PAUSED' OR i.status = 'PENDING' AND e.wanted = 'pause'
                    THEN e.strategy END,
    expected_s = CASE WHEN i.status = 'PAUSED' OR i.status = 'PENDING' AND e.wanted = 'pause'
                      THEN e.expected_s END,
    epoch = e.epoch + i.epoch, attempt = e.attempt + i.attempt, suspect = e.suspect + i.suspect,
    not_before = now() + make_interval(secs => i.delay_s),
    latency_ms = CASE WHEN i.measured THEN i.latency_ms ELSE e.latency_ms END,
    node_runs = CASE WHEN i.measured THEN i.node_runs ELSE e.node_runs END,
    usage = CASE WHEN i.measured THEN i.usage ELSE e.usage END,
    spent = i.spent, spent_tokens = i.tokens, cut_off = i.cut_off,
    ended_at = CASE WHEN i.status = ANY(%(terminal)s::text[]) THEN now() END
FROM item i
WHERE e.id = i.id
RETURNING e.id, e.latency_ms, e.node_runs, e.usage, e.suspect

-- name: chain_of_steps
WITH RECURSIVE chain AS (
    SELECT e.thread_id, NULL::integer AS last_step, 0 AS depth
    FROM executions e WHERE e.id = %(id)s
    UNION ALL
    SELECT b.parent_thread, coalesce((
        SELECT p.step FROM steps p
        WHERE p.thread_id = b.parent_thread AND p.checkpoint_id = b.parent_checkpoint), -2),
        c.depth + 1
    FROM chain c JOIN branches b ON b.thread_id = c.thread_id WHERE b.parent_thread IS NOT NULL
)
SELECT s.thread_id, s.checkpoint_id, s.step, s.source, s.nodes, s.next_nodes, s.duration_ms,
       s.manifest, s.environment_digest AS environment, s.created_at
FROM chain c
JOIN steps s ON s.thread_id = c.thread_id AND (c.last_step IS NULL OR s.step <= c.last_step)
ORDER BY c.depth, s.step DESC

-- name: find_step
WITH RECURSIVE chain AS (
    SELECT thread_id, NULL::integer AS last_step FROM branches WHERE execution_id = %(id)s
    UNION
    SELECT b.parent_thread, coalesce((
        SELECT p.step FROM steps p
        WHERE p.thread_id = b.parent_thread AND p.checkpoint_id = b.parent_checkpoint), -2)
    FROM chain c JOIN branches b ON b.thread_id = c.thread_id WHERE b.parent_thread IS NOT NULL
)
SELECT s.thread_id, s.checkpoint_id, s.step, s.source, s.nodes, s.next_nodes, s.duration_ms,
       s.manifest, s.environment_digest AS environment, s.created_at
FROM chain c
JOIN steps s ON s.thread_id = c.thread_id AND (c.last_step IS NULL OR s.step <= c.last_step)
WHERE s.checkpoint_id = %(checkpoint_id)s LIMIT 1

-- name: inner_steps
-- What subgraphs did at these places. A super-step ran the nodes that have seen something new in its
-- checkpoint; after the last one come those whose channel holds something.
WITH place AS (
    SELECT * FROM unnest(%(threads)s::text[], %(roots)s::text[]) AS p (thread_id, root)
)
SELECT c.thread_id, p.root, c.checkpoint_ns,
       ARRAY(SELECT s.key FROM jsonb_each(c.checkpoint -> 'versions_seen') AS s
             WHERE s.key !~ '^__' AND s.value IS DISTINCT FROM b.checkpoint -> 'versions_seen' -> s.key
             ORDER BY s.key) AS ran,
       ARRAY(SELECT substr(k, length('branch:to:') + 1)
             FROM jsonb_object_keys(coalesce(c.checkpoint -> 'channel_values', '{}')) AS k
             WHERE k ~ '^branch:to:' AND NOT EXISTS (
                 SELECT FROM checkpoints n
                 WHERE n.thread_id = c.thread_id AND n.checkpoint_ns = c.checkpoint_ns
                   AND n.parent_checkpoint_id = c.checkpoint_id)
             ORDER BY k) AS following
FROM place p
JOIN checkpoints c ON c.thread_id = p.thread_id AND c.checkpoint_ns <> ''
    AND c.metadata -> 'parents' ->> '' = p.root
LEFT JOIN checkpoints b ON b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
    AND b.checkpoint_id = c.parent_checkpoint_id
ORDER BY c.thread_id, c.checkpoint_ns, c.checkpoint_id
