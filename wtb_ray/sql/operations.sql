-- name: insert_operation
INSERT INTO operations (id, kind, execution_id) VALUES (%(id)s, %(kind)s, %(execution_id)s)

-- name: operation
SELECT id, kind, execution_id, status, result, error, created_at, ended_at,
       status = 'RUNNING' AND created_at < now() - make_interval(secs => %(lost_s)s) AS lost
FROM operations WHERE id = %(id)s

-- name: end_operation
UPDATE operations SET status = %(status)s, result = %(result)s, error = %(error)s, ended_at = now()
WHERE id = %(id)s AND status = 'RUNNING'
