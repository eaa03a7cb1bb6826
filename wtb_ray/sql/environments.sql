-- name: insert_environment
INSERT INTO environments (digest, venv, spec, pins)
VALUES (
    %(digest)s, %(venv)s, %(spec)s,
    (SELECT pins FROM environments WHERE venv = %(venv)s AND pins IS NOT NULL
     ORDER BY created_at, digest LIMIT 1)
)
ON CONFLICT (digest) DO NOTHING RETURNING digest

-- name: settle_pins
UPDATE environments SET pins = coalesce(
    (SELECT e.pins FROM environments e WHERE e.venv = %(venv)s AND e.pins IS NOT NULL
     ORDER BY e.created_at, e.digest LIMIT 1),
    %(pins)s)
WHERE venv = %(venv)s AND pins IS NULL

-- name: pins_of_venv
SELECT pins FROM environments WHERE venv = %(venv)s AND pins IS NOT NULL
ORDER BY created_at, digest LIMIT 1

-- name: select_environments
SELECT digest AS id, digest, venv, spec, pins, created_at FROM environments

-- name: newest_environments
ORDER BY created_at DESC, digest DESC LIMIT %(limit)s

-- name: lock_environment
SELECT digest FROM environments WHERE digest = %(digest)s FOR UPDATE

-- name: count_users
SELECT count(*) AS users FROM executions
WHERE environment = %(digest)s AND status <> ALL(%(ended)s::text[])

-- name: delete_environment
DELETE FROM environments WHERE digest = %(digest)s

-- name: select_venvs
SELECT host, venv, status, path, bytes, build_s, hits, error, permanent, built_at, used_at FROM venvs

-- name: hosts_with
SELECT DISTINCT v.host FROM venvs v JOIN environments e ON e.venv = v.venv
WHERE e.spec = %(spec)s AND v.status = 'READY'

-- name: begin_venv
INSERT INTO venvs (host, venv, status) VALUES (%(host)s, %(venv)s, %(status)s)
ON CONFLICT (host, venv) DO UPDATE SET
    status = EXCLUDED.status, path = NULL, bytes = 0, error = NULL, permanent = false

-- name: ready_venv
INSERT INTO venvs (host, venv, status, path, bytes, build_s, built_at, used_at)
VALUES (%(host)s, %(venv)s, %(status)s, %(path)s, %(bytes)s, %(build_s)s, now(), now())
ON CONFLICT (host, venv) DO UPDATE SET
    status = EXCLUDED.status, path = EXCLUDED.path, bytes = EXCLUDED.bytes, error = NULL,
    permanent = false, build_s = EXCLUDED.build_s, built_at = now(), used_at = now()
WHERE venvs.status = ANY(%(from)s::text[]) OR venvs.path IS DISTINCT FROM EXCLUDED.path
RETURNING venv

-- name: fail_venv
UPDATE venvs SET status = %(status)s, error = %(error)s, permanent = %(permanent)s
WHERE host = %(host)s AND venv = %(venv)s AND status = ANY(%(from)s::text[]) RETURNING venv

-- name: invalidate_venv
UPDATE venvs SET status = %(status)s, error = NULL, permanent = false
WHERE host = %(host)s AND venv = %(venv)s AND status = ANY(%(from)s::text[]) RETURNING venv

-- name: evict_venv
DELETE FROM venvs WHERE host = %(host)s AND venv = %(venv)s AND path = %(path)s

-- name: use_venvs
UPDATE venvs v SET hits = v.hits + u.hits, used_at = now()
FROM unnest(%(venvs)s::text[], %(hits)s::bigint[]) AS u (venv, hits)
WHERE v.host = %(host)s AND v.venv = u.venv
