"""Projects and their immutable versions."""

import builtins

import orjson
from psycopg.rows import DictRow

from wtb_ray import errors, events
from wtb_ray.api import Page
from wtb_ray.db import Connection, Database
from wtb_ray.model import GraphInfo, ProjectSpec, ProjectVersion, canonical
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.holds import still_held
from wtb_ray.store.pages import page
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import transact


class Projects:
    """Registers versions and finds them."""

    def __init__(self, db: Database):
        self._db = db

    async def register(
        self,
        spec: ProjectSpec,
        graph: GraphInfo,
        workflows: dict[str, GraphInfo],
        *,
        actor: str,
        lease: str | None = None,
    ) -> ProjectVersion:
        """Makes this version the project's newest; a version that exists keeps its first graph.

        Its bundle is stored under `lease`.

        Raises:
            Unavailable: The lease has run out.
        """
        params = {
            "version": spec.version(),
            "project": spec.name,
            "spec": canonical(spec.model_dump(mode="json")),
            "graph": canonical(graph.model_dump(mode="json")),
            "workflows": canonical({k: g.model_dump(mode="json") for k, g in workflows.items()}),
        }

        async def work(conn: Connection) -> None:
            await still_held(conn, lease)
            await conn.execute(SQL["upsert_project"], params)
            if await (await conn.execute(SQL["insert_version"], params)).fetchone():
                event = events.ProjectRegistered(version=spec.version())
                await append_many(conn, [Entry(actor, event, project=spec.name)])

        await transact(self._db, work)
        return await self.by_version(spec.version())

    async def register_known(self, spec: ProjectSpec, *, actor: str) -> ProjectVersion:
        """Makes a version that exists already the project's newest.

        Raises:
            UnknownVersion: It does not exist yet, and its graph is not known.
        """
        known = await self.by_version(spec.version())
        return await self.register(spec, known.graph, known.workflows, actor=actor)

    async def get(self, name: str, version: str | None = None) -> ProjectVersion:
        """A version of a project; the newest one without `version`.

        Raises:
            UnknownProject: There is no project of this name.
            UnknownVersion: It has no such version.
        """
        newest = await self._db.row(SQL["newest_version"], {"project": name})
        if newest is None:
            raise _unknown_project(name)
        if version is None or version == newest["version"]:
            return _version(newest)
        found = await self.by_version(version)
        if found.project != name:
            raise errors.UnknownVersion(
                f"project {name!r} has no version {version}", field="version", reason="unknown"
            )
        return found

    async def by_version(self, version: str) -> ProjectVersion:
        """The version with this digest.

        Raises:
            UnknownVersion: There is none.
        """
        row = await self._db.row(SQL["version_by_digest"], {"version": version})
        if row is None:
            raise errors.UnknownVersion(
                f"there is no project version {version}", field="version", reason="unknown"
            )
        return _version(row)

    async def versions(self, name: str) -> builtins.list[ProjectVersion]:
        """All versions of a project, newest first.

        Raises:
            UnknownProject: There is no project of this name.
        """
        rows = await self._db.rows(SQL["versions_of_project"], {"project": name})
        if not rows:
            raise _unknown_project(name)
        return [_version(row) for row in rows]

    async def list(self, limit: int = 50, after: str | None = None) -> Page[ProjectVersion]:
        """The newest version of each project, by name."""
        rows = await self._db.rows(SQL["list_projects"], {"after": after or "", "limit": limit + 1})
        return page(rows, limit, _version, lambda row: str(row["project"]))


def _version(row: DictRow) -> ProjectVersion:
    return ProjectVersion(
        project=row["project"],
        version=row["version"],
        spec=ProjectSpec.model_validate_json(row["spec"]),
        graph=GraphInfo.model_validate_json(row["graph"]),
        workflows={
            name: GraphInfo.model_validate(graph)
            for name, graph in orjson.loads(row["workflows"]).items()
        },
        created_at=row["created_at"],
    )


def _unknown_project(name: str) -> errors.UnknownProject:
    return errors.UnknownProject(f"there is no project {name!r}", field="project", reason="unknown")
