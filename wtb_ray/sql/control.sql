-- name: lock_controlled
SELECT id, project, version, batch_id, status, epoch, owner, wanted, reason, attempt, suspect,
       thread_id, head, head_step, binding, breakpoints, recursion_limit, forked_from,
       xmin::text AS written_by, pg_current_xact_id()::text AS xid
FROM executions WHERE id = %(id)s FOR NO KEY UPDATE

-- name: lock_late
SELECT id, project, version, batch_id, status, epoch, owner, wanted, reason, attempt, suspect,
       xmin::text AS written_by, pg_current_xact_id()::text AS xid
FROM executions e
WHERE status = 'PAUSED' AND deadline <= now() AND (e.batch_id IS NULL OR EXISTS (
    SELECT FROM cells c WHERE c.execution_id = e.id AND c.status IN ('RUNNING', 'SCORING')))
ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE OF e SKIP LOCKED

-- name: want
UPDATE executions SET wanted = %(wanted)s, reason = coalesce(%(reason)s, reason) WHERE id = %(id)s

-- name: send_on
UPDATE executions SET
    wanted = %(wanted)s, passed = head, attempt = 0, suspect = 0, not_before = now(),
    deadline = CASE WHEN NOT %(anew)s THEN deadline END,
    recursion_limit = coalesce(%(recursion_limit)s, recursion_limit)
WHERE id = %(id)s

-- name: hold
WITH held AS (
    UPDATE executions SET epoch = epoch + 1 WHERE id = %(id)s RETURNING *
)
SELECT e.id, e.epoch, e.thread_id, e.head, e.head_step, e.version, e.project, e.binding,
       coalesce(e.input, k.input) AS input, e.recursion_limit, e.breakpoints, e.batch_id, k.case_id,
       k.expected, k.metadata, k.answers AS case_answers, e.repetition, e.suspect, e.attempt, e.wanted,
       e.passed, e.clean_from
FROM held e LEFT JOIN cases k ON k.batch_id = e.batch_id AND k.ordinal = e.case_ordinal

-- name: set_breakpoints
UPDATE executions SET breakpoints = %(breakpoints)s::text[] WHERE id = %(id)s

-- name: set_binding
UPDATE executions SET
    binding = %(binding)s, version = %(version)s, epoch = epoch + 1,
    tracking = (SELECT coalesce((spec::json #>> '{file_tracking,enabled}')::boolean, false)
                FROM project_versions WHERE version = %(version)s)
WHERE id = %(id)s

-- name: keeps_few
SELECT FROM executions e JOIN project_versions v USING (version)
WHERE e.id = %(id)s AND e.tracking AND v.spec::json #>> '{file_tracking,max_snapshots}' IS NOT NULL

-- name: asked_at
SELECT w.task_id, w.type, w.blob FROM checkpoint_writes w
WHERE w.thread_id = %(thread_id)s AND w.checkpoint_ns = '' AND w.checkpoint_id = %(head)s
  AND w.idx = -3 AND NOT EXISTS (
    SELECT FROM checkpoint_writes d
    WHERE d.thread_id = w.thread_id AND d.checkpoint_ns = '' AND d.checkpoint_id = w.checkpoint_id
      AND d.task_id = w.task_id AND d.idx >= 0)
ORDER BY w.task_path, w.task_id

-- name: answers_at
SELECT interrupt_id, value FROM answers
WHERE thread_id = %(thread_id)s AND checkpoint_id = %(head)s

-- name: insert_answers
INSERT INTO answers (execution_id, thread_id, checkpoint_id, interrupt_id, value)
SELECT e.id, e.thread_id, e.head, a.*
FROM executions e CROSS JOIN unnest(%(interrupts)s::text[], %(values)s::text[]) AS a
WHERE e.id = %(id)s

-- name: count_answers
-- Those on the way to the head. Of the checkpoint that a branch began with, only its own copies count:
-- where it has none, its questions are asked again.
WITH RECURSIVE chain AS (
    SELECT e.thread_id, NULL::integer AS last_step, NULL::text AS origin
    FROM executions e WHERE e.id = %(id)s
    UNION ALL
    SELECT b.parent_thread, coalesce((
        SELECT p.step FROM steps p
        WHERE p.thread_id = b.parent_thread AND p.checkpoint_id = b.parent_checkpoint), -2),
        b.parent_checkpoint
    FROM chain c JOIN branches b ON b.thread_id = c.thread_id WHERE b.parent_thread IS NOT NULL
)
SELECT count(*) AS n
FROM chain c JOIN answers a ON a.thread_id = c.thread_id
LEFT JOIN steps s ON s.thread_id = a.thread_id AND s.checkpoint_id = a.checkpoint_id
WHERE c.last_step IS NULL
   OR a.checkpoint_id IS DISTINCT FROM c.origin AND coalesce(s.step, -2) < c.last_step

-- name: nodes_before_head
-- The nodes that ended in the head: its row is that of the thread in which it was written first.
WITH RECURSIVE line AS (
    SELECT %(thread_id)s::text AS thread_id
    UNION
    SELECT b.parent_thread FROM branches b JOIN line USING (thread_id)
    WHERE b.parent_thread IS NOT NULL
)
SELECT s.nodes FROM line JOIN steps s USING (thread_id) WHERE s.checkpoint_id = %(head)s LIMIT 1

-- name: next_branch
SELECT coalesce(max(number), -1) + 1 AS number FROM branches WHERE execution_id = %(id)s

-- name: insert_branches
INSERT INTO branches (thread_id, execution_id, number, parent_thread, parent_checkpoint, reason)
SELECT thread_id, id, number, %(from)s, %(checkpoint_id)s, %(reason)s
FROM unnest(%(to)s::text[], %(ids)s::text[], %(numbers)s::integer[]) AS t (thread_id, id, number)

-- name: copy_checkpoint
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
SELECT t, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
FROM checkpoints CROSS JOIN unnest(%(to)s::text[]) AS t
WHERE thread_id = %(from)s AND checkpoint_ns = '' AND checkpoint_id = %(checkpoint_id)s
RETURNING checkpoint_id

-- name: copy_blobs
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT t, '', b.channel, b.version, b.type, b.blob
FROM checkpoints c CROSS JOIN unnest(%(to)s::text[]) AS t
CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS v (channel, version)
JOIN checkpoint_blobs b ON b.thread_id = c.thread_id AND b.checkpoint_ns = ''
    AND b.channel = v.channel AND b.version = v.version
WHERE c.thread_id = %(from)s AND c.checkpoint_ns = '' AND c.checkpoint_id = %(checkpoint_id)s

-- name: roll_back
UPDATE executions SET
    status = %(status)s, reason = %(reason)s, thread_id = %(thread_id)s, head = %(head)s,
    head_step = %(head_step)s, epoch = epoch + 1, owner = NULL, wanted = 'run', passed = NULL,
    clean_from = CASE WHEN %(clean)s THEN epoch + 1 ELSE clean_from END, parked_at = now(),
    error = NULL, ended_at = NULL, attempt = 0, suspect = 0,
    deadline = CASE WHEN batch_id IS NOT NULL THEN deadline END
WHERE id = %(id)s

-- name: insert_fork
INSERT INTO executions
    (id, project, version, binding, input, status, reason, recursion_limit, breakpoints, priority,
     thread_id, head, head_step, passed, deadline_s, forked_from, forked_at, parked_at, tracking)
SELECT %(id)s, e.project, %(version)s, %(binding)s,
       coalesce(e.input, (SELECT k.input FROM cases k
                          WHERE k.batch_id = e.batch_id AND k.ordinal = e.case_ordinal)),
       %(status)s, 'fork', coalesce(%(recursion_limit)s, e.recursion_limit),
       %(breakpoints)s::text[], e.priority, %(thread_id)s, %(head)s, %(head_step)s, %(passed)s,
       e.deadline_s, e.id, %(head)s, now(),
       (SELECT coalesce((spec::json #>> '{file_tracking,enabled}')::boolean, false)
        FROM project_versions WHERE version = %(version)s)
FROM executions e WHERE e.id = %(source)s
ON CONFLICT (id) DO NOTHING RETURNING id, project, batch_id

-- name: branches_of_execution
SELECT thread_id, execution_id, number, parent_thread, parent_checkpoint, reason, created_at
FROM branches WHERE execution_id = %(id)s ORDER BY number

-- name: copy_inner
-- Rows of subgraphs that belong to the tasks of this checkpoint, with what they refer to.
WITH inner_rows AS (
    SELECT * FROM checkpoints
    WHERE thread_id = %(from)s AND checkpoint_ns <> ''
      AND metadata -> 'parents' ->> '' = %(checkpoint_id)s
), copied AS (
    INSERT INTO checkpoints
        (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
    SELECT t, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
    FROM inner_rows CROSS JOIN unnest(%(to)s::text[]) AS t
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT DISTINCT t, b.checkpoint_ns, b.channel, b.version, b.type, b.blob
    FROM inner_rows c CROSS JOIN unnest(%(to)s::text[]) AS t
    CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS v (channel, version)
    JOIN checkpoint_blobs b ON b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
        AND b.channel = v.channel AND b.version = v.version
)
INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT t, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.idx, w.channel, w.type,
       w.blob
FROM checkpoint_writes w CROSS JOIN unnest(%(to)s::text[]) AS t
WHERE w.thread_id = %(from)s AND (
    w.checkpoint_ns = '' AND w.checkpoint_id = %(checkpoint_id)s
    OR (w.checkpoint_ns, w.checkpoint_id) IN (SELECT checkpoint_ns, checkpoint_id FROM inner_rows))

-- name: copy_memories
-- What subgraphs that keep their state from call to call had before the tasks of this checkpoint: the
-- newest row of each, with what it refers to. Their namespaces name no task.
WITH memories AS (
    SELECT DISTINCT ON (checkpoint_ns) * FROM checkpoints
    WHERE thread_id = %(from)s AND checkpoint_ns <> '' AND checkpoint_ns !~ ':'
      AND metadata -> 'parents' ->> '' < %(checkpoint_id)s
    ORDER BY checkpoint_ns, checkpoint_id DESC
), copied AS (
    INSERT INTO checkpoints
        (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
    SELECT t, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
    FROM memories CROSS JOIN unnest(%(to)s::text[]) AS t
)
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT t, b.checkpoint_ns, b.channel, b.version, b.type, b.blob
FROM memories c CROSS JOIN unnest(%(to)s::text[]) AS t
CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS v (channel, version)
JOIN checkpoint_blobs b ON b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
    AND b.channel = v.channel AND b.version = v.version
ON CONFLICT DO NOTHING

-- name: copy_points
INSERT INTO restore_points (thread_id, checkpoint_id, seq, task_ids, inner_ids, manifest, reason)
SELECT t, checkpoint_id, seq, task_ids, inner_ids, manifest, reason
FROM restore_points CROSS JOIN unnest(%(to)s::text[]) AS t
WHERE thread_id = %(from)s AND checkpoint_id = %(checkpoint_id)s

-- name: copy_answers
INSERT INTO answers (execution_id, thread_id, checkpoint_id, interrupt_id, value)
SELECT t.id, t.thread_id, checkpoint_id, interrupt_id, value
FROM answers a CROSS JOIN unnest(%(ids)s::text[], %(to)s::text[]) AS t (id, thread_id)
WHERE a.thread_id = %(from)s AND checkpoint_id = %(checkpoint_id)s

-- name: steps_of_branches
SELECT s.thread_id, s.checkpoint_id, s.step, s.source, s.nodes, s.next_nodes, s.duration_ms,
       s.manifest, s.environment_digest AS environment, s.created_at
FROM branches b JOIN steps s USING (thread_id)
WHERE b.execution_id = %(id)s ORDER BY b.number, s.step, s.checkpoint_id

-- name: forked_from
WHERE e.forked_from = %(id)s ORDER BY e.created_at, e.id

-- name: channels_at
SELECT DISTINCT channel FROM checkpoints c
CROSS JOIN LATERAL (
    SELECT jsonb_object_keys(c.checkpoint -> 'channel_versions')
    UNION ALL SELECT jsonb_object_keys(coalesce(c.checkpoint -> 'channel_values', '{}'))
) AS held (channel)
WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = '' AND c.checkpoint_id = %(checkpoint_id)s
  AND (channel = '__root__' OR channel !~ '^(__|branch:|join:)')
ORDER BY channel
