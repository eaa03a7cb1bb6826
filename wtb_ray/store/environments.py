"""Environments that were asked for, and where each is built.

What an environment came down to is written once: whoever builds it later, on whatever host, builds
the same. Only the process that holds an environment's lock on a host changes its row to BUILDING.
"""

import builtins
from collections.abc import Mapping
from typing import Any

import orjson
from psycopg.rows import DictRow

from wtb_ray import errors, events, states
from wtb_ray.api import Page
from wtb_ray.db import Connection, Database
from wtb_ray.environment import Environment, EnvSpec, Pins, VenvInfo
from wtb_ray.model import canonical
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.pages import newest_after, newest_token, page, where
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import transact


class Environments:
    """All changes and reads of environments."""

    def __init__(self, db: Database):
        self._db = db

    async def register(self, digest: str, venv: str, spec: EnvSpec, *, actor: str) -> Environment:
        """The environment with this digest, made if it is not there yet."""
        params = {"digest": digest, "venv": venv, "spec": canonical(spec.model_dump(mode="json"))}

        async def work(conn: Connection) -> None:
            if await (await conn.execute(SQL["insert_environment"], params)).fetchone():
                event = events.EnvironmentRegistered(digest=digest, venv=venv)
                await append_many(conn, [Entry(actor, event)])

        await transact(self._db, work)
        return await self.get(digest)

    async def settle(self, venv: str, pins: Pins) -> Pins:
        """Says what environments came down to, unless that has been said before; gives what holds."""
        async with self._db.transaction() as conn:
            params = {"venv": venv, "pins": pins.model_dump_json()}
            await conn.execute(SQL["settle_pins"], params)
            row = await (await conn.execute(SQL["pins_of_venv"], params)).fetchone()
        return pins if row is None else Pins.model_validate_json(row["pins"])

    async def pins(self, venv: str) -> Pins | None:
        """What environments with this digest of what is installed come down to, if it is known."""
        row = await self._db.row(SQL["pins_of_venv"], {"venv": venv})
        return None if row is None else Pins.model_validate_json(row["pins"])

    async def get(self, digest: str) -> Environment:
        """The environment with this digest.

        Raises:
            UnknownEnvironment: There is none.
        """
        sql = SQL["select_environments"] + " WHERE digest = %(digest)s"
        row = await self._db.row(sql, {"digest": digest})
        if row is None:
            raise _unknown(digest)
        return _environment(row)

    async def list(self, limit: int = 50, after: str | None = None) -> Page[Environment]:
        """Environments, newest first."""
        rows = await self._db.rows(
            SQL["select_environments"]
            + (" WHERE (created_at, digest) < (%(at)s, %(last)s) " if after is not None else " ")
            + SQL["newest_environments"],
            {"limit": limit + 1, **newest_after(after)},
        )
        return page(rows, limit, _environment, newest_token)

    async def delete(self, digest: str, *, actor: str) -> None:
        """Forgets an environment: asked for again, it is resolved anew if no other shares its packages.

        Raises:
            UnknownEnvironment: There is none with this digest.
            Conflict: Executions that have not ended run in it; says how many.
        """
        params = {"digest": digest, "ended": [str(s) for s in states.TERMINAL_EXECUTION]}

        async def work(conn: Connection) -> None:
            if await (await conn.execute(SQL["lock_environment"], params)).fetchone() is None:
                raise _unknown(digest)
            row = await (await conn.execute(SQL["count_users"], params)).fetchone()
            if row is not None and row["users"]:
                raise errors.Conflict(
                    f"{row['users']} executions that have not ended run in environment {digest}",
                    field="environment",
                    reason="in_use",
                    executions=row["users"],
                )
            await conn.execute(SQL["delete_environment"], params)
            await append_many(conn, [Entry(actor, events.EnvironmentDeleted(digest=digest))])

        await transact(self._db, work)


class Venvs:
    """All changes and reads of what is built of environments on hosts."""

    def __init__(self, db: Database):
        self._db = db

    async def get(self, host: str, venv: str) -> VenvInfo | None:
        """How it stands on a host; None: it is not there."""
        sql = SQL["select_venvs"] + " WHERE host = %(host)s AND venv = %(venv)s"
        row = await self._db.row(sql, {"host": host, "venv": venv})
        return None if row is None else _venv(row)

    async def list(
        self, *, host: str | None = None, venv: str | None = None
    ) -> builtins.list[VenvInfo]:
        """What is on all hosts or one, of all environments or one."""
        conditions = where(
            "host = %(host)s" if host is not None else None,
            "venv = %(venv)s" if venv is not None else None,
        )
        rows = await self._db.rows(
            SQL["select_venvs"] + conditions + " ORDER BY host, venv", {"host": host, "venv": venv}
        )
        return [_venv(row) for row in rows]

    async def hosts_with(self, spec: EnvSpec) -> set[str]:
        """The hosts where what was asked for in these words is ready."""
        params = {"spec": canonical(spec.model_dump(mode="json"))}
        return {row["host"] for row in await self._db.rows(SQL["hosts_with"], params)}

    async def begin(self, host: str, venv: str) -> None:
        """Somebody builds it there, and has the lock for it."""
        params = {"host": host, "venv": venv, "status": str(states.VENV["build"][1])}
        async with self._db.connection() as conn:
            await conn.execute(SQL["begin_venv"], params)

    async def ready(
        self,
        host: str,
        venv: str,
        path: str,
        *,
        bytes: int,
        seconds: float,
        packages: Mapping[str, str],
        actor: str,
    ) -> None:
        """It is built there; what has been said already is not said again."""
        params = {"path": path, "bytes": bytes, "build_s": seconds}
        event = events.VenvBuilt(
            host=host, venv=venv, path=path, bytes=bytes, seconds=seconds, packages=dict(packages)
        )
        await self._change("ready_venv", "ready", host, venv, event, actor, **params)

    async def fail(
        self, host: str, venv: str, error: errors.WTBError, *, permanent: bool, actor: str
    ) -> None:
        """It could not be built there; a permanent error is the answer from now on."""
        event = events.VenvFailed(host=host, venv=venv, error=error.body(), permanent=permanent)
        params = {"error": canonical(error.body()), "permanent": permanent}
        await self._change("fail_venv", "fail", host, venv, event, actor, **params)

    async def retry(self, host: str, venv: str, *, actor: str) -> bool:
        """A failure is forgotten; whether there was one."""
        event = events.VenvInvalidated(host=host, venv=venv)
        return await self._change("invalidate_venv", "retry", host, venv, event, actor)

    async def invalidate(self, host: str, venv: str, *, actor: str) -> bool:
        """It is not to be used any more; whether there was something to be used, or a failure."""
        event = events.VenvInvalidated(host=host, venv=venv)
        return await self._change("invalidate_venv", "invalidate", host, venv, event, actor)

    async def evicted(
        self, host: str, venv: str, path: str, *, bytes: int, reason: str, actor: str
    ) -> None:
        """Its directory was removed there."""
        event = events.VenvEvicted(host=host, venv=venv, path=path, bytes=bytes, reason=reason)

        async def work(conn: Connection) -> None:
            await conn.execute(SQL["evict_venv"], {"host": host, "venv": venv, "path": path})
            await append_many(conn, [Entry(actor, event)])

        await transact(self._db, work)

    async def used(self, host: str, hits: Mapping[str, int]) -> None:
        """Adds to how often they were found there."""
        params = {"host": host, "venvs": list(hits), "hits": list(hits.values())}
        async with self._db.connection() as conn:
            await conn.execute(SQL["use_venvs"], params)

    async def _change(
        self,
        statement: str,
        command: str,
        host: str,
        venv: str,
        event: events.Event,
        actor: str,
        **more: Any,
    ) -> bool:
        sources, to = states.VENV[command]
        params = {"from": [str(s) for s in sources], "status": str(to)}

        async def work(conn: Connection) -> bool:
            cursor = await conn.execute(
                SQL[statement], {"host": host, "venv": venv, **params, **more}
            )
            changed = await cursor.fetchone() is not None
            if changed:
                await append_many(conn, [Entry(actor, event)])
            return changed

        return await transact(self._db, work)


def _environment(row: DictRow) -> Environment:
    pins = None if row["pins"] is None else Pins.model_validate_json(row["pins"])
    return Environment(
        digest=row["digest"],
        venv=row["venv"],
        spec=EnvSpec.model_validate_json(row["spec"]),
        packages=None if pins is None else pins.packages,
        created_at=row["created_at"],
    )


def _venv(row: DictRow) -> VenvInfo:
    error = None if row["error"] is None else orjson.loads(row["error"])
    return VenvInfo(**{**row, "error": error})


def _unknown(digest: str) -> errors.UnknownEnvironment:
    return errors.UnknownEnvironment(
        f"there is no environment {digest}", field="environment", reason="unknown"
    )
