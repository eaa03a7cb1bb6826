"""Reports of integrity checks: stored whole with their event, read a page at a time."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson
from psycopg.rows import DictRow

from wtb_ray import errors, events
from wtb_ray.db import Connection, Database
from wtb_ray.model import canonical
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.pages import number_after
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import transact

KEPT: Final = 50
"""Reports that are remembered."""


class NewFinding(NamedTuple):
    """A finding that is to be stored."""

    id: str
    problem: str
    place: Any
    """The key that its check finds it again by; JSON."""
    body: str


class NewReport(NamedTuple):
    """A report that is to be stored."""

    id: str
    started_at: datetime
    deep: bool
    only: list[str]
    healthy: bool
    kinds: dict[str, int]
    severities: dict[str, int]
    truncated: list[str]
    findings: Sequence[NewFinding]


class Integrity:
    """What checks have found."""

    def __init__(self, db: Database):
        self._db = db

    async def add(self, report: NewReport, *, actor: str) -> None:
        """Stores a report with its event, and forgets the oldest."""
        found = report.findings
        row = report._asdict() | {
            "kinds": canonical(report.kinds),
            "severities": canonical(report.severities),
            "findings": len(found),
        }
        columns = {
            "report_id": report.id,
            "numbers": list(range(len(found))),
            "ids": [one.id for one in found],
            "problems": [one.problem for one in found],
            "places": [canonical(one.place) for one in found],
            "bodies": [one.body for one in found],
        }
        event = events.IntegrityChecked(
            report=report.id,
            deep=report.deep,
            healthy=report.healthy,
            kinds=report.kinds,
            severities=report.severities,
        )

        async def work(conn: Connection) -> None:
            await conn.execute(SQL["insert_report"], row)
            await conn.execute(SQL["insert_findings"], columns)
            await conn.execute(SQL["drop_old_reports"], {"kept": KEPT})
            await append_many(conn, [Entry(actor, event)])

        await transact(self._db, work)

    async def age_s(self) -> float | None:
        """How long ago everything was checked; None: never."""
        row = await self._db.row(SQL["report_age"])
        return None if row is None else row["age_s"]

    async def report(self, id: str | None = None) -> DictRow:
        """A report without its findings; the newest, unless one is named.

        Raises:
            NotFound: There is none.
        """
        row = await self._db.row(SQL["report"], {"id": id})
        if row is None:
            what = "no check has ended yet" if id is None else f"there is no report {id}"
            raise errors.NotFound(what, field="report", reason="unknown")
        counts = {name: orjson.loads(row[name]) for name in ("kinds", "severities")}
        return {**row, **counts}

    async def findings(
        self, report: str, limit: int, after: str | None = None
    ) -> tuple[list[DictRow], str | None]:
        """A page of the findings of a report, the worst first, and where the next one begins."""
        params = {"id": report, "after": number_after(after), "limit": limit + 1}
        rows = await self._db.rows(SQL["findings_of_report"], params)
        following = str(rows[limit - 1]["number"]) if len(rows) > limit else None
        return [_finding(row) for row in rows[:limit]], following

    async def named(self, report: str, ids: Sequence[str]) -> list[DictRow]:
        """The findings of a report with these ids."""
        rows = await self._db.rows(SQL["findings_by_id"], {"id": report, "ids": list(ids)})
        return [_finding(row) for row in rows]

    async def set_outcome(self, report: str, id: str, outcome: str) -> None:
        """Notes what became of the repair of a finding."""
        async with self._db.connection() as conn:
            await note_outcome(conn, report, id, outcome)


async def note_outcome(conn: Connection, report: str, id: str, outcome: str) -> None:
    """Notes it in the caller's transaction."""
    await conn.execute(SQL["set_outcome"], {"report_id": report, "id": id, "outcome": outcome})


def _finding(row: DictRow) -> DictRow:
    return {**row, "place": orjson.loads(row["place"]), "body": orjson.loads(row["body"])}
