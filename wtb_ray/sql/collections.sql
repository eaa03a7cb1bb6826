-- name: roots
SELECT p.manifest, 'tree' AS kind FROM steps p JOIN branches b USING (thread_id)
WHERE p.manifest IS NOT NULL
UNION SELECT p.manifest, 'tree' FROM restore_points p JOIN branches b USING (thread_id)
WHERE p.manifest IS NOT NULL
UNION SELECT before, 'tree' FROM restores
UNION SELECT after, 'tree' FROM restores WHERE after IS NOT NULL
UNION SELECT spec::json ->> 'bundle', 'object' FROM project_versions
WHERE spec::json ->> 'bundle' IS NOT NULL
UNION SELECT digest, 'object' FROM result_parts

-- name: held_roots
SELECT DISTINCT unnest(manifests) AS manifest, 'tree' AS kind FROM object_holds
UNION SELECT DISTINCT unnest(digests), 'object' FROM object_holds

-- name: open_collection
SELECT c.id, c.owners, c.grace_s, s.sweeping
FROM collecting s LEFT JOIN collections c ON c.status IN ('MARKING', 'SWEEPING')
ORDER BY c.id DESC LIMIT 1

-- name: abandon_collections
UPDATE collections SET status = 'ABANDONED', ended_at = now()
WHERE status IN ('MARKING', 'SWEEPING')

-- name: clear_condemned
TRUNCATE condemned

-- name: begin_collection
INSERT INTO collections (grace_s, owners, actor)
VALUES (%(grace_s)s, %(owners)s, %(actor)s) RETURNING id

-- name: own_collection
UPDATE collections SET owners = %(owners)s WHERE id = %(id)s

-- name: condemn
INSERT INTO condemned (digest, size)
SELECT * FROM unnest(%(digests)b::bytea[], %(sizes)b::bigint[]) ON CONFLICT DO NOTHING

-- name: advance_collection
UPDATE collections SET done = %(done)s, counts = %(counts)s WHERE id = %(id)s

-- name: next_generation
UPDATE collecting SET generation = generation + 1, sweeping = true RETURNING generation

-- name: sweep_collection
UPDATE collections SET status = 'SWEEPING', done = 0, counts = %(counts)s WHERE id = %(id)s

-- name: count_condemned
SELECT count(*) AS condemned FROM condemned

-- name: next_condemned
SELECT digest, size FROM condemned
WHERE digest > %(after)s AND doomed IS NULL ORDER BY digest LIMIT %(limit)s

-- name: doom
UPDATE condemned SET doomed = %(epoch)s, doomed_at = now()
WHERE digest = ANY(%(digests)b::bytea[]) AND doomed IS NULL RETURNING digest, size

-- name: pardon
DELETE FROM condemned WHERE digest = ANY(%(digests)b::bytea[]) AND doomed IS NULL

-- name: doomed_by_others
SELECT digest, size, doomed, doomed_at < now() - make_interval(secs => %(sure_s)s) AS sure,
       doomed_at < now() - make_interval(secs => %(settled_s)s) AS settled
FROM condemned WHERE doomed IS NOT NULL AND doomed <> %(epoch)s ORDER BY digest LIMIT 1000

-- name: forget_doomed
DELETE FROM condemned WHERE digest = ANY(%(digests)b::bytea[]) AND doomed IS NOT NULL
RETURNING size

-- name: count_swept
UPDATE collections SET swept = swept + %(swept)s, swept_bytes = swept_bytes + %(bytes)s,
       done = %(done)s
WHERE id = %(id)s

-- name: end_sweeping
UPDATE collecting SET sweeping = false

-- name: end_collection
UPDATE collections SET status = %(status)s, error = %(error)s, counts = %(counts)s, done = 1,
       ended_at = now()
WHERE id = %(id)s AND status IN ('MARKING', 'SWEEPING')
RETURNING swept, swept_bytes

-- name: collection
SELECT id, status, grace_s, done, counts, swept, swept_bytes, error, actor, started_at, ended_at
FROM collections WHERE id = %(id)s

-- name: newest_collections
SELECT id, status, grace_s, done, counts, swept, swept_bytes, error, actor, started_at, ended_at
FROM collections ORDER BY id DESC LIMIT %(limit)s

-- name: damage
INSERT INTO damaged_objects (digest, reason) VALUES (%(digest)s, %(reason)s)
ON CONFLICT (digest) DO UPDATE SET
    reason = EXCLUDED.reason, found_at = now(), source = NULL, repaired_at = NULL
WHERE damaged_objects.repaired_at IS NOT NULL
RETURNING digest

-- name: repaired
UPDATE damaged_objects SET source = %(source)s, repaired_at = now()
WHERE digest = %(digest)s AND repaired_at IS NULL RETURNING digest

-- name: damaged
SELECT digest, reason, found_at FROM damaged_objects
WHERE repaired_at IS NULL ORDER BY found_at, digest LIMIT %(limit)s

-- name: weigh
INSERT INTO commits (manifest, files, bytes)
SELECT * FROM unnest(%(manifests)s::text[], %(files)s::bigint[], %(bytes)s::bigint[])
ON CONFLICT DO NOTHING

-- name: unweighed
SELECT DISTINCT p.manifest FROM (
    SELECT manifest FROM steps WHERE manifest IS NOT NULL
    UNION SELECT manifest FROM restore_points WHERE manifest IS NOT NULL
) p LEFT JOIN commits c USING (manifest) WHERE c.manifest IS NULL LIMIT %(limit)s

-- name: forget_weights
DELETE FROM commits c
WHERE NOT EXISTS (SELECT FROM steps s WHERE s.manifest = c.manifest)
  AND NOT EXISTS (SELECT FROM restore_points p WHERE p.manifest = c.manifest)

-- name: tracker_stats
SELECT (SELECT count(*) FROM commits) AS commits,
       (SELECT coalesce(sum(files), 0) FROM commits)::bigint AS commit_files,
       (SELECT count(*) FROM damaged_objects WHERE repaired_at IS NULL) AS damaged,
       (SELECT generation FROM collecting) AS generation

-- name: since_collection
SELECT status, extract(epoch FROM now() - coalesce(ended_at, started_at))::float8 AS age_s
FROM collections WHERE status <> 'ABANDONED' ORDER BY id DESC LIMIT 1
