-- name: begin_writing
WITH now_collecting AS (
    SELECT generation, sweeping FROM collecting FOR SHARE
)
INSERT INTO object_holds (id, holder, generation, runner, runner_epoch, until)
SELECT %(id)s, %(holder)s, c.generation, %(runner)s, %(runner_epoch)s,
       now() + make_interval(secs => %(ttl_s)s)
FROM now_collecting c
RETURNING generation, (SELECT sweeping FROM now_collecting) AS sweeping

-- name: begin_reading
INSERT INTO object_holds (id, holder, manifests, digests, runner, runner_epoch, until)
VALUES (%(id)s, %(holder)s, %(manifests)s, %(digests)s, %(runner)s, %(runner_epoch)s,
        now() + make_interval(secs => %(ttl_s)s))

-- name: renew_holds
UPDATE object_holds SET until = now() + make_interval(secs => %(ttl_s)s)
WHERE id = ANY(%(ids)s::text[]) RETURNING id

-- name: end_holds
DELETE FROM object_holds WHERE id = ANY(%(ids)s::text[])

-- name: still_held
-- Whoever ends holds that have run out waits for the transaction that asks this.
SELECT FROM object_holds WHERE id = %(id)s FOR KEY SHARE

-- name: collecting
SELECT generation, sweeping FROM collecting

-- name: take_back
DELETE FROM condemned WHERE digest = ANY(%(digests)b::bytea[]) AND doomed IS NULL

-- name: doomed_among
SELECT count(*) AS doomed FROM condemned WHERE digest = ANY(%(digests)b::bytea[])

-- name: expire_holds
-- What a runner commits is fenced by its own lease, so its holds stand as long as that.
DELETE FROM object_holds h
WHERE h.until < now() AND NOT EXISTS (
    SELECT FROM leases l
    WHERE l.id = h.runner AND l.epoch = h.runner_epoch AND l.status <> 'DEAD')

-- name: live_holds
SELECT holder, generation, cardinality(manifests) + cardinality(digests) AS reads, created_at
FROM object_holds WHERE until >= now() OR runner IS NOT NULL ORDER BY created_at, id LIMIT 100

-- name: writers_before
SELECT DISTINCT holder FROM object_holds WHERE generation < %(generation)s ORDER BY holder
