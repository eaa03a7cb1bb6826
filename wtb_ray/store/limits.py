"""Limits that all processes share: set by operators, reserved from by runners.

A reservation is one compare-and-set by the database's clock. It takes what a process asks for at
once, into debt if need be, and says how much debt there is: the process waits that out by itself.
Reservations are served in the order in which they were made, whoever made them.
"""

from collections.abc import Mapping
from typing import Any, Final

from psycopg.rows import DictRow

from wtb_ray import errors, events
from wtb_ray.db import Connection, Database
from wtb_ray.model import canonical
from wtb_ray.rates import Limit, LimitSpec, Rate, Reserved, Slots, more_slots
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import transact

FRESH_S: Final = 3.0
"""Who has not asked for slots within this time does not stand in the way of others."""


class Limits:
    """All changes and reads of limits."""

    def __init__(self, db: Database):
        self._db = db

    async def set(self, name: str, spec: LimitSpec, *, actor: str) -> Limit:
        """Makes a limit, or changes it; what is in its buckets stays there."""
        params = {
            "name": name,
            "units": list(spec.units),
            "per_minute": [float(rate.per_minute) for rate in spec.units.values()],
            "burst": [float(rate.burst) for rate in spec.units.values()],
            "concurrency": spec.concurrency,
        }

        async def work(conn: Connection) -> None:
            await conn.execute(SQL["set_limit"], params)
            event = events.LimitSet(
                name=name, spec=LimitSpec(units=spec.units, concurrency=spec.concurrency)
            )
            await append_many(conn, [Entry(actor, event)])

        await transact(self._db, work)
        return await self.get(name)

    async def remove(self, name: str, *, actor: str) -> Limit:
        """Removes a limit; who waits for it is refused. Gives what it was.

        Raises:
            UnknownLimit: There is none of this name.
        """

        removed = await self.get(name)

        async def work(conn: Connection) -> None:
            if await (await conn.execute(SQL["delete_limit"], {"name": name})).fetchone() is None:
                raise _unknown(name)
            await append_many(conn, [Entry(actor, events.LimitRemoved(name=name))])

        await transact(self._db, work)
        return removed

    async def get(self, name: str) -> Limit:
        """The limit as it stands.

        Raises:
            UnknownLimit: There is none of this name.
        """
        sql = SQL["select_limits"] + " WHERE l.name = %(name)s"
        row = await self._db.row(sql, {"name": name})
        if row is None:
            raise _unknown(name)
        return _limit(row)

    async def list(self) -> list[Limit]:
        """All limits by name."""
        return [_limit(row) for row in await self._db.rows(SQL["select_limits"] + " ORDER BY name")]

    async def reserve(self, name: str, amounts: Mapping[str, float]) -> Reserved | None:
        """Takes the amounts out of the buckets; None: nothing was taken.

        Then there is no such limit, or one of its buckets is smaller than what was asked for.
        """
        asked = {"name": name, "asked": canonical(dict(amounts))}
        row = await self._db.row(SQL["reserve_limit"], asked)
        if row is None:
            return None
        levels = dict(zip(row["units"], row["levels"], strict=True))
        return Reserved(spec=_spec(row), levels=levels)

    async def slots(self, name: str, holder: str, held: int, wanted: int) -> int | None:
        """Keeps the slots that a process has, and gives it more of them; how many more.

        Args:
            name: Of the limit.
            holder: The lease of the process's runner; its slots end with it.
            held: How many it has; others than these go back. So asking again does no harm.
            wanted: How many more it wants.

        Returns:
            How many it got; None: the limit is gone, or any number may be inside.
        """
        place = {"name": name, "holder": holder}

        async def work(conn: Connection) -> int | None:
            row = await (await conn.execute(SQL["lock_limit"], place)).fetchone()
            if row is None or row["concurrency"] is None:
                return None
            await conn.execute(SQL["forget_slots"], place)
            cursor = await conn.execute(SQL["select_slots"], {**place, "fresh_s": FRESH_S})
            known = [Slots(**found) async for found in cursor]
            waits_s = next((s.waits_s for s in known if s.holder == holder), 0.0)
            others = [s for s in known if s.holder != holder]
            got = more_slots(row["concurrency"], held, wanted, waits_s, others)
            more = {"held": held + got, "waits": got < wanted, "served": got > 0}
            await conn.execute(SQL["put_slots"], {**place, **more})
            return got

        return await transact(self._db, work)


def _unknown(name: str) -> errors.UnknownLimit:
    return errors.UnknownLimit(
        f"there is no limit {name!r}: set one with `wtb limit set {name} --requests N`",
        field="limit",
        reason="unknown",
        limit=name,
    )


def _units(row: DictRow) -> dict[str, Rate]:
    rates = zip(row["units"], row["per_minute"], row["burst"], strict=True)
    return {unit: Rate(per_minute=rate, burst=burst) for unit, rate, burst in rates}


def _spec(row: DictRow) -> LimitSpec:
    return LimitSpec(units=_units(row), concurrency=row["concurrency"])


def _limit(row: DictRow) -> Limit:
    fields: dict[str, Any] = {k: row[k] for k in Limit.model_fields if k in row}
    levels = dict(zip(row["units"], row["levels"], strict=True))
    return Limit(**{**fields, "units": _units(row), "levels": levels})
