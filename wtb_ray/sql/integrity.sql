-- name: insert_report
INSERT INTO integrity_reports
    (id, started_at, deep, only_of, healthy, kinds, severities, truncated, findings)
VALUES (%(id)s, %(started_at)s, %(deep)s, %(only)s::text[], %(healthy)s, %(kinds)s, %(severities)s,
        %(truncated)s::text[], %(findings)s)

-- name: insert_findings
INSERT INTO integrity_findings (report_id, number, id, problem, place, body)
SELECT %(report_id)s, * FROM unnest(
    %(numbers)s::integer[], %(ids)s::text[], %(problems)s::text[], %(places)s::text[],
    %(bodies)s::text[])

-- name: drop_old_reports
DELETE FROM integrity_reports WHERE id NOT IN (
    SELECT id FROM integrity_reports ORDER BY ended_at DESC, id DESC LIMIT %(kept)s)

-- name: report
SELECT id, started_at, ended_at, deep, only_of, healthy, kinds, severities, truncated, findings
FROM integrity_reports
WHERE %(id)s::text IS NULL OR id = %(id)s
ORDER BY ended_at DESC, id DESC LIMIT 1

-- name: report_age
SELECT extract(epoch FROM now() - max(ended_at))::float8 AS age_s FROM integrity_reports
WHERE cardinality(only_of) = 0

-- name: findings_of_report
SELECT number, id, problem, place, body, outcome FROM integrity_findings
WHERE report_id = %(id)s AND number > %(after)s ORDER BY number LIMIT %(limit)s

-- name: findings_by_id
SELECT number, id, problem, place, body, outcome FROM integrity_findings
WHERE report_id = %(id)s AND id = ANY(%(ids)s::text[]) ORDER BY number

-- name: set_outcome
UPDATE integrity_findings SET outcome = %(outcome)s WHERE report_id = %(report_id)s AND id = %(id)s
