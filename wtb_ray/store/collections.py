"""Collections of garbage in rows: what is condemned, what is being deleted, what came of it.

Every statement of a collector is one transaction with the renewal of its lease under its fencing
number: one that has lost the lease changes nothing any more. Also here: what was found damaged, and
the weights of trees.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson
from psycopg.rows import tuple_row

from wtb_ray import errors, events
from wtb_ray.db import Connection, Database
from wtb_ray.model import Frozen
from wtb_ray.states import CollectionStatus
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import transact

LEASE: Final = "collector"
FETCHED: Final = 20_000


class Fence(NamedTuple):
    """A collector's lease, under its fencing number."""

    holder: str
    epoch: int
    ttl_s: float


class Row(Frozen):
    """A collection."""

    id: int
    status: CollectionStatus
    grace_s: float
    done: float
    """The share of the present stage."""
    counts: dict[str, Any]
    swept: int
    swept_bytes: int
    error: str | None
    actor: str
    started_at: datetime
    ended_at: datetime | None


class Open(NamedTuple):
    """The collection that a collector goes on with."""

    id: int
    resumed: bool
    """What is to be deleted is chosen already."""
    owners: dict[str, Any]
    """Processes that had it, by their fencing numbers."""


class Doomed(NamedTuple):
    """What a collector was about to delete when it was last heard of."""

    digest: bytes
    size: int
    doomed: int
    """Its fencing number."""
    sure: bool
    """It has been so long that it cannot delete it any more, whatever has become of it."""
    settled: bool
    """It has been so long that what it has sent to the store has been carried out."""


class Collections:
    """All rows of collections."""

    def __init__(self, db: Database):
        self._db = db

    async def roots(self, *, held: bool = False) -> AsyncIterator[tuple[bytes, bool]]:
        """What rows name, each once: a digest, and whether it is a tree.

        Args:
            held: What leases name instead.
        """
        async with self._db.transaction() as conn:
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            async with conn.cursor("roots", row_factory=tuple_row) as cursor:
                await cursor.execute(SQL["held_roots" if held else "roots"])
                while rows := await cursor.fetchmany(FETCHED):
                    for digest, kind in rows:
                        yield bytes.fromhex(digest), kind == "tree"

    async def open(
        self, fence: Fence, grace_s: float, owner: Mapping[str, Any], actor: str
    ) -> Open:
        """Begins a collection, or goes on with one that has chosen what it deletes.

        Raises:
            Fenced: The lease is another collector's.
        """

        async def work(conn: Connection) -> Open:
            await _fenced(conn, fence)
            row = await (await conn.execute(SQL["open_collection"])).fetchone()
            mine = {str(fence.epoch): dict(owner)}
            if row is not None and row["sweeping"]:
                owners = {**orjson.loads(row["owners"] or "{}"), **mine}
                params = {"id": row["id"], "owners": orjson.dumps(owners).decode()}
                await conn.execute(SQL["own_collection"], params)
                return Open(row["id"], True, owners)
            await conn.execute(SQL["expire_holds"])
            await conn.execute(SQL["abandon_collections"])
            await conn.execute(SQL["clear_condemned"])
            params = {"grace_s": grace_s, "owners": orjson.dumps(mine).decode(), "actor": actor}
            made = await (await conn.execute(SQL["begin_collection"], params)).fetchone()
            assert made is not None
            return Open(made["id"], False, mine)

        return await transact(self._db, work)

    async def condemn(self, fence: Fence, found: Sequence[tuple[bytes, int]]) -> None:
        """Lists objects, with their sizes, as to be deleted.

        Raises:
            Fenced: The lease is another collector's.
        """
        params = {"digests": [raw for raw, _ in found], "sizes": [size for _, size in found]}
        await self._do(fence, "condemn", params)

    async def advance(self, fence: Fence, id: int, done: float, counts: Mapping[str, Any]) -> None:
        """Says how far a collection is.

        Raises:
            Fenced: The lease is another collector's.
        """
        params = {"id": id, "done": done, "counts": orjson.dumps(counts).decode()}
        await self._do(fence, "advance_collection", params)

    async def next_generation(self, fence: Fence, id: int, counts: Mapping[str, Any]) -> int:
        """The choice is made: whoever begins to write from now on takes back what it needs.

        Raises:
            Fenced: The lease is another collector's.
        """

        async def work(conn: Connection) -> int:
            await _fenced(conn, fence)
            params = {"id": id, "counts": orjson.dumps(counts).decode()}
            await conn.execute(SQL["sweep_collection"], params)
            row = await (await conn.execute(SQL["next_generation"])).fetchone()
            assert row is not None
            return int(row["generation"])

        return await transact(self._db, work)

    async def writers_before(self, fence: Fence, generation: int) -> list[str]:
        """Who still works in an earlier generation; leases that have run out are ended first.

        Raises:
            Fenced: The lease is another collector's.
        """

        async def work(conn: Connection) -> list[str]:
            await _fenced(conn, fence)
            await conn.execute(SQL["expire_holds"])
            params = {"generation": generation}
            rows = await (await conn.execute(SQL["writers_before"], params)).fetchall()
            return [row["holder"] for row in rows]

        return await transact(self._db, work)

    async def condemned(self) -> int:
        """How many objects are still to be deleted."""
        row = await self._db.row(SQL["count_condemned"])
        return 0 if row is None else int(row["condemned"])

    async def next_condemned(self, after: bytes, limit: int) -> list[tuple[bytes, int]]:
        """The next ones, with their sizes, by digest; those that are being deleted are left out."""
        rows = await self._db.rows(SQL["next_condemned"], {"after": after, "limit": limit})
        return [(row["digest"], row["size"]) for row in rows]

    async def doom(self, fence: Fence, digests: Sequence[bytes]) -> list[tuple[bytes, int]]:
        """Says that these are being deleted now; gives those that nobody has taken back.

        Raises:
            Fenced: The lease is another collector's.
        """
        params = {"digests": list(digests), "epoch": fence.epoch}
        rows = await self._do(fence, "doom", params)
        return [(row["digest"], row["size"]) for row in rows]

    async def pardon(self, fence: Fence, digests: Sequence[bytes]) -> None:
        """Takes those off the list that can be reached after all.

        Raises:
            Fenced: The lease is another collector's.
        """
        await self._do(fence, "pardon", {"digests": list(digests)})

    async def doomed_by_others(
        self, fence: Fence, *, sure_s: float, settled_s: float
    ) -> list[Doomed]:
        """What collectors before this one were deleting when they were last heard of."""
        params = {"epoch": fence.epoch, "sure_s": sure_s, "settled_s": settled_s}
        return [Doomed(**row) for row in await self._db.rows(SQL["doomed_by_others"], params)]

    async def deleted(self, fence: Fence, id: int, digests: Sequence[bytes], done: float) -> None:
        """Says that these are gone.

        Raises:
            Fenced: The lease is another collector's.
        """

        async def work(conn: Connection) -> None:
            await _fenced(conn, fence)
            cursor = await conn.execute(SQL["forget_doomed"], {"digests": list(digests)})
            sizes = [row["size"] for row in await cursor.fetchall()]
            swept = {"id": id, "swept": len(sizes), "bytes": sum(sizes), "done": done}
            await conn.execute(SQL["count_swept"], swept)

        await transact(self._db, work)

    async def finish(
        self, fence: Fence, id: int, counts: Mapping[str, Any], error: str | None, actor: str
    ) -> Row:
        """Ends a collection; one that has deleted something says so in the log.

        Raises:
            Fenced: The lease is another collector's.
        """

        async def work(conn: Connection) -> None:
            await _fenced(conn, fence)
            params: dict[str, Any] = {"id": id, "error": error}
            params["counts"] = orjson.dumps(counts).decode()
            status = CollectionStatus.DONE if error is None else CollectionStatus.FAILED
            params["status"] = str(status)
            row = await (await conn.execute(SQL["end_collection"], params)).fetchone()
            await conn.execute(SQL["end_sweeping"])
            await conn.execute(SQL["clear_condemned"])
            if row is not None and row["swept"]:
                event = events.ObjectsCollected(
                    collection=id, marked=counts.get("marked", 0), **row
                )
                await append_many(conn, [Entry(actor, event)])

        await transact(self._db, work)
        async with self._db.connection() as conn:
            await conn.execute(SQL["forget_weights"])
        return await self.get(id)

    async def get(self, id: int) -> Row:
        """A collection as it is now."""
        row = await self._db.row(SQL["collection"], {"id": id})
        if row is None:
            raise errors.NotFound(f"there is no collection {id}", field="id", reason="unknown")
        return _row(row)

    async def newest(self, limit: int) -> list[Row]:
        """The newest collections, newest first."""
        return [_row(r) for r in await self._db.rows(SQL["newest_collections"], {"limit": limit})]

    async def since(self) -> tuple[CollectionStatus, float] | None:
        """Status of the newest collection, and how many seconds ago it ended or began."""
        row = await self._db.row(SQL["since_collection"])
        return None if row is None else (CollectionStatus(row["status"]), row["age_s"])

    async def damaged(self, digest: str, reason: str, *, actor: str) -> bool:
        """Writes down that an object is damaged or missing; False if that is known."""
        event = events.ObjectsDamaged(digest=digest, reason=reason)
        return await self._note("damage", {"digest": digest, "reason": reason}, event, actor)

    async def repaired(self, digest: str, source: str, *, actor: str) -> bool:
        """Writes down that an object is whole again; False if nothing was known against it."""
        event = events.ObjectsRepaired(digest=digest, source=source)
        return await self._note("repaired", {"digest": digest, "source": source}, event, actor)

    async def all_damaged(self, limit: int) -> list[dict[str, Any]]:
        """Digest, reason and time of what is damaged and not repaired, oldest first."""
        return [dict(row) for row in await self._db.rows(SQL["damaged"], {"limit": limit})]

    async def weigh(self, weights: Mapping[str, tuple[int, int]]) -> None:
        """Writes down how many files and bytes trees have."""
        params = {
            "manifests": list(weights),
            "files": [files for files, _ in weights.values()],
            "bytes": [size for _, size in weights.values()],
        }
        async with self._db.connection() as conn:
            await conn.execute(SQL["weigh"], params)

    async def unweighed(self, limit: int) -> list[str]:
        """Trees that checkpoints name and that were not weighed yet."""
        return [r["manifest"] for r in await self._db.rows(SQL["unweighed"], {"limit": limit})]

    async def stats(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Counts of trees and damaged objects; and the leases that stand, oldest first."""
        row = await self._db.row(SQL["tracker_stats"])
        return dict(row or {}), [dict(r) for r in await self._db.rows(SQL["live_holds"])]

    async def _do(self, fence: Fence, name: str, params: Mapping[str, Any]) -> list[Any]:
        async def work(conn: Connection) -> list[Any]:
            await _fenced(conn, fence)
            cursor = await conn.execute(SQL[name], params)
            return await cursor.fetchall() if cursor.description else []

        return await transact(self._db, work)

    async def _note(
        self, name: str, params: Mapping[str, Any], event: events.Event, actor: str
    ) -> bool:
        async def work(conn: Connection) -> bool:
            if await (await conn.execute(SQL[name], params)).fetchone() is None:
                return False
            await append_many(conn, [Entry(actor, event)])
            return True

        return await transact(self._db, work)


async def _fenced(conn: Connection, fence: Fence) -> None:
    """Renews the lease; its row is locked until the transaction ends."""
    params = {"name": LEASE, "holder": fence.holder, "epoch": fence.epoch, "ttl_s": fence.ttl_s}
    if await (await conn.execute(SQL["hold_singleton"], params)).fetchone() is None:
        raise errors.Fenced(
            "another collector has taken over",
            field="epoch",
            reason="taken over",
            epoch=fence.epoch,
        )


def _row(row: Mapping[str, Any]) -> Row:
    return Row(**{**row, "counts": orjson.loads(row["counts"])})
