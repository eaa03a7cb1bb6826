"""Parking: what paused executions keep, the processes that are kept for them, and who is due.

A process belongs to a paused execution by its lease, which is the one place that says so: its
runner gets no other work, and nobody else gets the execution while that lease holds.
"""

import builtins
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg.rows import DictRow

from wtb_ray import errors, events
from wtb_ray.db import Connection, Database
from wtb_ray.model import Parking
from wtb_ray.parking import PROCESS
from wtb_ray.states import PauseStrategy
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.holds import still_held
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import transact


@dataclass(frozen=True)
class Due:
    """A paused execution that is to be parked colder."""

    execution_id: str
    epoch: int
    version: str
    binding: dict[str, str]
    strategy: PauseStrategy
    runner: str
    """The one that had it."""
    alive: bool
    """Whether that one's lease is not buried."""
    host: str | None


class Parkings:
    """How paused executions are parked."""

    def __init__(self, db: Database):
        self._db = db

    async def asked(self, id: str) -> PauseStrategy | None:
        """The strategy that was asked for with the pause, if one was."""
        row = await self._db.row(SQL["asked_strategy"], {"id": id})
        return None if row is None or row["strategy"] is None else PauseStrategy(row["strategy"])

    async def reserve(self, runner: str, id: str, most: int) -> bool:
        """Keeps a ready runner for one execution, unless as many of its pool are kept already."""
        params = {"runner": runner, "id": id, "most": most}
        return await self._db.row(SQL["reserve_runner"], params) is not None

    async def free(self) -> builtins.list[str]:
        """Gives back the processes that are kept for executions which do not need them any more."""
        return [row["id"] for row in await self._db.rows(SQL["free_reserved"], {})]

    async def due(self, *, warm_after_s: float, cold_after_s: float, limit: int) -> list[Due]:
        """Paused executions that are to be parked colder now, those that wait longest first."""
        params = {"warm_after_s": warm_after_s, "cold_after_s": cold_after_s, "limit": limit}
        rows = await self._db.rows(SQL["due_for_parking"], params)
        return [_due(row) for row in rows]

    async def park(self, id: str, epoch: int, parking: Parking, *, actor: str) -> bool:
        """Says how a paused execution is parked from now on; a process that it gave back ends.

        False when it has been sent on, or moved, since.
        """

        async def work(conn: Connection) -> bool:
            params = {"id": id, "epoch": epoch, "parking": parking.model_dump_json()}
            if PROCESS in parking.released:  # leases are locked before executions
                await conn.execute(SQL["lock_reserved"], {"id": id})
            row = await (await conn.execute(SQL["park_colder"], params)).fetchone()
            if row is None:
                return False
            if PROCESS in parking.released:
                await conn.execute(SQL["end_reserved"], {"id": id})
            await append_many(conn, [entry(row, parking, actor)])
            return True

        return await transact(self._db, work)

    async def displace(
        self, id: str, epoch: int, found: str | None, lease: str | None = None
    ) -> None:
        """Says what was in a directory that goes, where that is not what the execution goes on with.

        That is stored under `lease`.

        Raises:
            Unavailable: The lease has run out.
            Fenced: It has been sent on, or moved, since.
        """

        async def work(conn: Connection) -> None:
            row = await (await conn.execute(SQL["rests"], {"id": id, "epoch": epoch})).fetchone()
            if row is None:
                raise errors.Fenced(
                    f"execution {id} does not rest under epoch {epoch} any more",
                    field="epoch",
                    reason="moved on",
                )
            await still_held(conn, lease)
            place = {"id": id}
            kept = await (await conn.execute(SQL["manifest_of_head"], place)).fetchone()
            after = None if kept is None else kept["manifest"]
            if found is not None and found != after:
                params = {"execution_id": id, "epoch": epoch, "before": found, "after": after}
                await conn.execute(SQL["insert_restore"], {**params, "reason": "parked"})

        await transact(self._db, work)

    async def left_alone(self, limit: int, *, actor: str) -> int:
        """Corrects the reports of executions whose own process has died; gives how many."""
        rows = await self._db.rows(SQL["parked_in_dead"], {"limit": limit})
        corrected = 0
        for row in rows:
            corrected += await self.park(row["id"], row["epoch"], _bereaved(row), actor=actor)
        return corrected


def entry(row: DictRow, parking: Parking, actor: str) -> Entry:
    """What the log says of it."""
    event = events.ExecutionParked(**parking.model_dump(mode="json"))
    return Entry(actor, event, row["project"], row["id"], row["batch_id"])


async def report(conn: Connection, row: DictRow, parking: Parking, actor: str) -> None:
    """Writes the report beside the pause that has just been written; the row is locked."""
    params: dict[str, Any] = {"id": row["id"], "parking": parking.model_dump_json()}
    await conn.execute(SQL["set_parking"], params)
    await append_many(conn, [entry(row, parking, actor)])


def _bereaved(row: DictRow) -> Parking:
    parking = Parking.model_validate_json(row["parking"])
    return parking.model_copy(
        update={
            "kept": tuple(name for name in parking.kept if name not in (PROCESS, "graph")),
            "left_out": {**parking.left_out, PROCESS: f"runner {parking.runner} died"},
        }
    )


def _due(row: DictRow) -> Due:
    return Due(
        execution_id=row["id"],
        epoch=row["epoch"],
        version=row["version"],
        binding=orjson.loads(row["binding"]),
        strategy=PauseStrategy(row["strategy"]),
        runner=row["ran_in"],
        alive=row["alive"],
        host=row["host"],
    )
