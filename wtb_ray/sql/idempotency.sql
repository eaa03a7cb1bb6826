-- name: begin_request
INSERT INTO idempotency (key, request) VALUES (%(key)s, %(request)s)
ON CONFLICT (key) DO UPDATE SET created_at = now()
WHERE idempotency.status IS NULL AND idempotency.request = EXCLUDED.request
  AND idempotency.created_at < now() - make_interval(secs => %(abandoned_s)s)
RETURNING key

-- name: stored_request
SELECT request, status, response FROM idempotency WHERE key = %(key)s

-- name: finish_request
UPDATE idempotency SET status = %(status)s, response = %(response)s WHERE key = %(key)s

-- name: forget_request
DELETE FROM idempotency WHERE key = %(key)s
