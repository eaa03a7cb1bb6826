-- As in checks_lineage.sql: what is said to be built on one host.

-- name: built
SELECT venv AS key, status || ' ' || coalesce(built_at::text, '') AS mark, host, venv, path
FROM venvs
WHERE venv BETWEEN %(first)s AND %(last)s AND host = %(host)s AND status = 'READY' AND path IS NOT NULL

-- name: building
SELECT venv AS key, host, venv FROM venvs
WHERE venv BETWEEN %(first)s AND %(last)s AND host = %(host)s AND status = 'BUILDING'
