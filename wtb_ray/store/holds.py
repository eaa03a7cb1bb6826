"""Leases on stored objects: of writers, who rely on what no row names yet, and of readers.

A writer's lease has the generation in which it began. Rows that name what it has stored commit only
while it stands: those of runners are fenced by the claims, all others ask `still_held` in their
transaction.
"""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from wtb_ray import errors
from wtb_ray.db import Connection, Database
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import transact

AT_ONCE: Final = 5_000
"""Digests of one statement."""


class Collecting(NamedTuple):
    """How far deletions are."""

    generation: int
    sweeping: bool


class ByRunner(NamedTuple):
    """The runner, under the epoch of its lease, with which a lease stands and falls."""

    id: str
    epoch: int


class Holding:
    """Rows of leases on objects."""

    def __init__(self, db: Database):
        self._db = db

    async def begin_writing(
        self, id: str, holder: str, ttl_s: float, runner: ByRunner | None = None
    ) -> Collecting:
        """A writer's lease; gives the generation that it stands in."""
        params = {"id": id, "holder": holder, "ttl_s": ttl_s, **_of(runner)}
        row = await self._db.row(SQL["begin_writing"], params)
        if row is None:
            raise errors.DatabaseUnavailable("the database has lost its row of `collecting`")
        return Collecting(**row)

    async def begin_reading(
        self,
        id: str,
        holder: str,
        ttl_s: float,
        *,
        manifests: Collection[str] = (),
        digests: Collection[str] = (),
        runner: ByRunner | None = None,
    ) -> None:
        """A reader's lease: trees and objects that stay while it stands, whatever rows say."""
        params = {
            "id": id,
            "holder": holder,
            "ttl_s": ttl_s,
            **_of(runner),
            "manifests": list(manifests),
            "digests": list(digests),
        }
        async with self._db.connection() as conn:
            await conn.execute(SQL["begin_reading"], params)

    async def renew(self, ids: Sequence[str], ttl_s: float) -> tuple[set[str], Collecting]:
        """Those that still stand, now for `ttl_s` more, and how far deletions are."""
        rows = await self._db.rows(SQL["renew_holds"], {"ids": list(ids), "ttl_s": ttl_s})
        return {row["id"] for row in rows}, await self.collecting()

    async def end(self, ids: Sequence[str]) -> None:
        """Ends leases; ending one twice does nothing."""
        async with self._db.connection() as conn:
            await conn.execute(SQL["end_holds"], {"ids": list(ids)})

    async def collecting(self) -> Collecting:
        """How far deletions are."""
        row = await self._db.row(SQL["collecting"])
        if row is None:
            raise errors.DatabaseUnavailable("the database has lost its row of `collecting`")
        return Collecting(**row)

    async def take_back(self, digests: Collection[str]) -> int:
        """Takes objects off the list of what is deleted; gives how many are past taking back.

        Those are being deleted at this moment, and gone from the list once that is done.
        """
        raw = sorted(bytes.fromhex(digest) for digest in digests)
        doomed = 0
        for start in range(0, len(raw), AT_ONCE):
            some = {"digests": raw[start : start + AT_ONCE]}

            async def work(conn: Connection, some: dict[str, list[bytes]] = some) -> None:
                await conn.execute(SQL["take_back"], some)

            await transact(self._db, work)
            row = await self._db.row(SQL["doomed_among"], some)
            doomed += row["doomed"] if row is not None else 0
        return doomed


async def still_held(conn: Connection, hold: str | None) -> None:
    """Makes the transaction the last thing that a writer's lease has seen, if it stands.

    Raises:
        Unavailable: It has run out: what was stored under it may be gone. Trying again helps.
    """
    if hold is None:
        return
    if await (await conn.execute(SQL["still_held"], {"id": hold})).fetchone() is None:
        raise errors.Unavailable(
            "it took so long that what was stored may be gone again: try again", reason="lease"
        )


def _of(runner: ByRunner | None) -> dict[str, str | int | None]:
    return {
        "runner": runner.id if runner is not None else None,
        "runner_epoch": runner.epoch if runner is not None else None,
    }
