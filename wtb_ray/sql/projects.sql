-- name: upsert_project
-- One that was removed begins anew.
INSERT INTO projects (name, version) VALUES (%(project)s, %(version)s)
ON CONFLICT (name) DO UPDATE SET
    version = EXCLUDED.version, updated_at = now(), removed_at = NULL,
    active = projects.active OR projects.removed_at IS NOT NULL

-- name: insert_version
INSERT INTO project_versions (version, project, spec, graph, workflows)
VALUES (%(version)s, %(project)s, %(spec)s, %(graph)s, %(workflows)s)
ON CONFLICT (version) DO NOTHING RETURNING version

-- name: select_versions
SELECT v.version, v.project, v.spec, v.graph, v.workflows, v.created_at,
       p.active AND p.removed_at IS NULL AS active
FROM project_versions v JOIN projects p ON p.name = v.project

-- name: version_by_digest
WHERE v.version = %(version)s

-- name: newest_version
WHERE p.name = %(project)s AND v.version = p.version AND p.removed_at IS NULL

-- name: versions_of_project
WHERE p.name = %(project)s AND p.removed_at IS NULL ORDER BY v.created_at DESC, v.version

-- name: list_projects
WHERE p.name > %(after)s AND v.version = p.version AND p.removed_at IS NULL
ORDER BY p.name LIMIT %(limit)s

-- name: lock_project
SELECT name AS id, version, active, removed_at, xmin::text AS written_by,
       pg_current_xact_id()::text AS xid
FROM projects WHERE name = %(project)s FOR NO KEY UPDATE

-- name: share_project
-- What starts something waits for a removal that is under way, and a removal for it.
SELECT active, removed_at FROM projects WHERE name = %(project)s FOR SHARE

-- name: set_active
UPDATE projects SET active = %(active)s, updated_at = now() WHERE name = %(project)s

-- name: remove_project
UPDATE projects SET removed_at = now(), updated_at = now() WHERE name = %(project)s

-- name: unended_of_project
-- In three parts, for each of which there is an index.
SELECT id FROM executions WHERE status = 'PENDING' AND project = %(project)s
UNION ALL SELECT id FROM executions WHERE owner IS NOT NULL AND project = %(project)s
UNION ALL SELECT id FROM executions WHERE status = 'PAUSED' AND project = %(project)s
ORDER BY id

-- name: open_of_project
SELECT id FROM batches
WHERE project = %(project)s AND status IN ('PENDING', 'RUNNING', 'PAUSED') ORDER BY id
