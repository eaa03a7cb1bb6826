"""Projects and their immutable versions: registered, deactivated, removed."""

import builtins
from typing import Final

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
from wtb_ray.store.transactions import in_order, transact

NAMED: Final = 20
"""Executions and batches that a refusal names of each."""


class Projects:
    """All changes and reads of projects."""

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

        A project that was removed is there again, with its earlier versions.
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
            found = await _locked(conn, spec.name)
            await conn.execute(SQL["upsert_project"], params)
            made = await (await conn.execute(SQL["insert_version"], params)).fetchone()
            if made is not None or (found is not None and found["removed_at"] is not None):
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
        sql = SQL["select_versions"] + "\n" + SQL["newest_version"]
        newest = await self._db.row(sql, {"project": name})
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
        """The version with this digest, also of a project that was removed.

        Raises:
            UnknownVersion: There is none.
        """
        sql = SQL["select_versions"] + "\n" + SQL["version_by_digest"]
        row = await self._db.row(sql, {"version": version})
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
        sql = SQL["select_versions"] + "\n" + SQL["versions_of_project"]
        rows = await self._db.rows(sql, {"project": name})
        if not rows:
            raise _unknown_project(name)
        return [_version(row) for row in rows]

    async def list(self, limit: int = 50, after: str | None = None) -> Page[ProjectVersion]:
        """The newest version of each project, by name."""
        sql = SQL["select_versions"] + "\n" + SQL["list_projects"]
        rows = await self._db.rows(sql, {"after": after or "", "limit": limit + 1})
        return page(rows, limit, _version, lambda row: str(row["project"]))

    async def set_active(self, name: str, active: bool, *, actor: str) -> ProjectVersion:
        """Lets new executions and batches of a project start, or not; what runs goes on.

        Raises:
            UnknownProject: There is no project of this name.
        """

        async def work(conn: Connection) -> None:
            if (await _there(conn, name))["active"] == active:
                return
            await conn.execute(SQL["set_active"], {"project": name, "active": active})
            event = events.ProjectActivated() if active else events.ProjectDeactivated()
            await append_many(conn, [Entry(actor, event, project=name)])

        await transact(self._db, work)
        return await self.get(name)

    async def remove(self, name: str, *, actor: str) -> ProjectVersion:
        """Takes a project away, by its newest version; what it ran can be read as before.

        Raises:
            UnknownProject: There is no project of this name.
            ProjectInUse: Executions or batches of it have not ended; names them.
        """

        async def work(conn: Connection) -> str:
            row = await _there(conn, name)
            await _refuse_in_use(conn, name)
            await conn.execute(SQL["remove_project"], {"project": name})
            event = events.ProjectRemoved(version=row["version"])
            await append_many(conn, [Entry(actor, event, project=name)])
            return str(row["version"])

        return await self.by_version(await transact(self._db, work))

    async def check(self, name: str, *, new: bool) -> None:
        """Refuses what cannot start, before anything is done for it.

        Raises:
            ProjectInactive: It is `new`, and the project is deactivated.
            ProjectRemoved: The project was removed.
        """
        async with self._db.transaction() as conn:
            await (may_start if new else may_go_on)(conn, name)


async def may_start(conn: Connection, name: str) -> None:
    """Refuses what is new of a project that takes nothing; it stays so until the transaction ends.

    Raises:
        ProjectInactive: It is deactivated.
        ProjectRemoved: It was removed.
    """
    if not await _is_active(conn, name):
        raise errors.ProjectInactive(
            f"project {name!r} is deactivated: nothing new of it may start",
            field="project",
            reason="deactivated",
            project=name,
        )


async def may_go_on(conn: Connection, name: str) -> None:
    """Refuses to bring an ended execution of a removed project back, as `may_start` does.

    Raises:
        ProjectRemoved: It was removed.
    """
    await _is_active(conn, name)


async def _is_active(conn: Connection, name: str) -> bool:
    row = await (await conn.execute(SQL["share_project"], {"project": name})).fetchone()
    if row is None or row["removed_at"] is not None:
        raise errors.ProjectRemoved(
            f"project {name!r} was removed: what it ran can only be read, until a project of this"
            " name is registered again",
            field="project",
            reason="removed",
            project=name,
        )
    return bool(row["active"])


async def _locked(conn: Connection, name: str) -> DictRow | None:
    rows = await (await conn.execute(SQL["lock_project"], {"project": name})).fetchall()
    return next(iter(in_order(rows)), None)


async def _there(conn: Connection, name: str) -> DictRow:
    row = await _locked(conn, name)
    if row is None or row["removed_at"] is not None:
        raise _unknown_project(name)
    return row


async def _refuse_in_use(conn: Connection, name: str) -> None:
    found = {}
    for kind, query in (("executions", "unended_of_project"), ("batches", "open_of_project")):
        rows = await (await conn.execute(SQL[query], {"project": name})).fetchall()
        found[kind] = [str(row["id"]) for row in rows]
    counts = [f"{len(ids)} {kind}" for kind, ids in found.items() if ids]
    if counts:
        raise errors.ProjectInUse(
            f"{' and '.join(counts)} of project {name!r} have not ended: wait for them, or stop"
            " them",
            field="project",
            reason="in use",
            **{kind: ids[:NAMED] for kind, ids in found.items()},
            **{f"{kind}_in_all": len(ids) for kind, ids in found.items()},
        )


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
        active=row["active"],
    )


def _unknown_project(name: str) -> errors.UnknownProject:
    return errors.UnknownProject(f"there is no project {name!r}", field="project", reason="unknown")
