-- name: upsert_project
INSERT INTO projects (name, version) VALUES (%(project)s, %(version)s)
ON CONFLICT (name) DO UPDATE SET version = EXCLUDED.version, updated_at = now()

-- name: insert_version
INSERT INTO project_versions (version, project, spec, graph, workflows)
VALUES (%(version)s, %(project)s, %(spec)s, %(graph)s, %(workflows)s)
ON CONFLICT (version) DO NOTHING RETURNING version

-- name: version_by_digest
SELECT version, project, spec, graph, workflows, created_at
FROM project_versions WHERE version = %(version)s

-- name: newest_version
SELECT v.version, v.project, v.spec, v.graph, v.workflows, v.created_at
FROM projects p JOIN project_versions v ON v.version = p.version WHERE p.name = %(project)s

-- name: versions_of_project
SELECT version, project, spec, graph, workflows, created_at
FROM project_versions WHERE project = %(project)s ORDER BY created_at DESC, version

-- name: list_projects
SELECT v.version, v.project, v.spec, v.graph, v.workflows, v.created_at
FROM projects p JOIN project_versions v ON v.version = p.version
WHERE p.name > %(after)s ORDER BY p.name LIMIT %(limit)s
