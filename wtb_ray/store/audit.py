"""Seals as rows, and what the audit reads from the event log: exact rows, filters, sums.

A seal is added by a compare-and-set on its number and on the chain value before it, so any number
of sealers may run: one wins. Nothing here changes or deletes a seal or an event.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg.rows import DictRow, tuple_row

from wtb_ray.api import AuditCount, AuditError, AuditSummary, Page
from wtb_ray.db import Database
from wtb_ray.events import Cursor, EventRow
from wtb_ray.seals import Place, Row, Seal
from wtb_ray.store.events import event_row
from wtb_ray.store.sql import SQL


class Poll(NamedTuple):
    """How the log stands to the newest seal."""

    number: int
    """Of the newest seal; 0 when there is none."""
    waiting: int
    """Events behind a place that a seal may cover now, counted up to the limit asked for."""
    now: str
    """The database's clock."""


class Filter(NamedTuple):
    """Which events are asked for; None is all."""

    execution_id: str | None = None
    batch_id: str | None = None
    project: str | None = None
    actor: str | None = None
    """Exactly this one, or with a `*` at the end all that begin so."""
    types: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    """Types left out."""
    since: datetime | None = None
    until: datetime | None = None
    """Exclusive."""

    def where(self) -> tuple[LiteralString, dict[str, Any]]:
        """Further conditions, and their parameters."""
        given: list[tuple[LiteralString, Any]] = [
            (" AND execution_id = %(execution_id)s", self.execution_id),
            (" AND batch_id = %(batch_id)s", self.batch_id),
            (" AND project = %(project)s", self.project),
            (" AND type = ANY(%(types)s::text[])", list(self.types) if self.types else None),
            (" AND type <> ALL(%(without)s::text[])", list(self.without) or None),
            (" AND at >= %(since)s", self.since),
            (" AND at < %(until)s", self.until),
        ]
        sql: LiteralString = ""
        for condition, value in given:
            if value is not None:
                sql += condition
        params = {**self._asdict(), "types": list(self.types or ()), "without": list(self.without)}
        if self.actor is not None and self.actor.endswith("*"):
            sql += " AND starts_with(actor, %(actor)s)"
            params["actor"] = self.actor[:-1]
        elif self.actor is not None:
            sql += " AND actor = %(actor)s"
        return sql, params


class Audit:
    """The audit's view of the log."""

    def __init__(self, db: Database):
        self._db = db

    async def poll(self, behind: Place, limit: int) -> Poll:
        """One small question: is there anything to seal, and did somebody else seal meanwhile?"""
        row = await self._db.row(SQL["audit_poll"], {**_after(behind), "limit": limit})
        if row is None:
            raise AssertionError("a SELECT without FROM gives one row")
        return Poll(row["number"] or 0, row["waiting"], row["now"])

    async def settled(self, behind: Place, limit: int) -> list[Row]:
        """The next events that nothing can come between any more."""
        return await self._rows(SQL["audit_settled"], {**_after(behind), "limit": limit})

    async def between(self, behind: Place, to: Place, limit: int) -> list[Row]:
        """The next events up to a place; final below a place that is sealed."""
        last = {"to_xid": str(to.xid), "to_seq": to.seq, "limit": limit}
        return await self._rows(SQL["audit_between"], {**_after(behind), **last})

    async def _rows(self, sql: LiteralString, params: Mapping[str, Any]) -> list[Row]:
        async with self._db.connection() as conn, conn.cursor(row_factory=tuple_row) as cursor:
            return await (await cursor.execute(sql, params)).fetchall()

    async def insert(self, seal: Seal) -> bool:
        """Adds a seal if it is the next one; False when another sealer was faster."""
        after, to = Place.parse(seal.after), Place.parse(seal.to)
        params = {"after_xid": str(after.xid), "after_seq": after.seq}
        params |= {"to_xid": str(to.xid), "to_seq": to.seq, **seal.model_dump()}
        return await self._db.row(SQL["audit_insert"], params) is not None

    async def seals(self, first: int, limit: int) -> list[Seal]:
        """Seals from a number on, in their order."""
        rows = await self._db.rows(SQL["audit_seals"], {"first": first, "limit": limit})
        return [Seal(**row) for row in rows]

    async def newest(self) -> tuple[Seal, float] | None:
        """The seal with the highest number, and its age in seconds."""
        row = await self._db.row(SQL["audit_newest"])
        if row is None:
            return None
        age: float = row.pop("age_s")
        return Seal(**row), age

    async def unsealed(self, behind: Place) -> tuple[int, str | None]:
        """How many events no seal covers, and since when."""
        row = await self._db.row(SQL["audit_unsealed"], _after(behind))
        return (0, None) if row is None else (row["events"], row["since"])

    async def events(
        self, wanted: Filter, limit: int, after: Cursor | None = None, *, newest_first: bool = False
    ) -> Page[EventRow]:
        """A page of the log in its order, or against it."""
        sql, params = wanted.where()
        if after is not None:
            sql += " AND (xid, seq) < " if newest_first else " AND (xid, seq) > "
            sql += "(%(xid)s::text::xid8, %(seq)s::bigint)"
            params |= _after(Place(after.xid, after.seq))
        order: LiteralString = (
            " ORDER BY events.xid DESC, events.seq DESC"
            if newest_first
            else " ORDER BY events.xid, events.seq"
        )
        rows = await self._db.rows(
            SQL["audit_events"] + sql + order + " LIMIT %(limit)s", {**params, "limit": limit + 1}
        )
        items = [event_row(row) for row in rows[:limit]]
        return Page(items=items, next=items[-1].cursor if len(rows) > limit else None)

    async def summary(self, wanted: Filter) -> AuditSummary:
        """Events counted by type, by actor, and failures by what failed."""
        sql, params = wanted.where()
        sums = await self._db.rows(
            SQL["audit_summary"] + sql + " GROUP BY GROUPING SETS ((), (type), (actor))", params
        )
        failures = await self._db.rows(
            SQL["audit_errors"] + sql + " GROUP BY 1, 2, 3 ORDER BY events DESC, 1, 2, 3", params
        )
        [total] = [row for row in sums if row["all_types"] and row["all_actors"]]
        return AuditSummary(
            events=total["events"],
            first=total["first"],
            last=total["last"],
            types=_counts(sums, "type", "all_actors"),
            actors=_counts(sums, "actor", "all_types"),
            errors=[AuditError(**row) for row in failures],
        )


def _after(place: Place) -> dict[str, Any]:
    return {"xid": str(place.xid), "seq": place.seq}


def _counts(rows: list[DictRow], name: str, folded: str) -> list[AuditCount]:
    of_this = [row for row in rows if row[folded] and row[name] is not None]
    return [
        AuditCount(name=row[name], events=row["events"], first=row["first"], last=row["last"])
        for row in sorted(of_this, key=lambda row: (-row["events"], row[name]))
    ]
