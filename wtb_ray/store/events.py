"""The event log: append inside a writer's transaction, read in the order of the cursor.

Readers see an event only when no older transaction can still add one before it, so following the
cursor misses nothing. Nothing here changes or deletes an event.
"""

from collections.abc import Sequence
from typing import NamedTuple

import orjson
from psycopg.rows import DictRow

from wtb_ray.db import Connection, Database
from wtb_ray.events import Cursor, Event, EventRow
from wtb_ray.store.sql import SQL


class Entry(NamedTuple):
    """An event with the ids that it is found by."""

    actor: str
    event: Event
    project: str | None = None
    execution_id: str | None = None
    batch_id: str | None = None


async def append_many(conn: Connection, entries: Sequence[Entry]) -> None:
    """Adds events in this order, within the caller's transaction, in one statement."""
    if not entries:
        return
    await conn.execute(
        SQL["append_events"],
        {
            "types": [e.event.type for e in entries],
            "projects": [e.project for e in entries],
            "execution_ids": [e.execution_id for e in entries],
            "batch_ids": [e.batch_id for e in entries],
            "actors": [e.actor for e in entries],
            "payloads": [e.event.payload() for e in entries],
        },
    )


class Events:
    """Reads of the event log, and appends for writers outside the store."""

    def __init__(self, db: Database):
        self._db = db

    async def append(
        self,
        conn: Connection,
        actor: str,
        event: Event,
        *,
        project: str | None = None,
        execution_id: str | None = None,
        batch_id: str | None = None,
    ) -> None:
        """Adds one event within the caller's transaction."""
        await append_many(conn, [Entry(actor, event, project, execution_id, batch_id)])

    async def append_many(self, conn: Connection, entries: Sequence[Entry]) -> None:
        """Adds events in this order, within the caller's transaction."""
        await append_many(conn, entries)

    async def read(
        self,
        after: Cursor,
        limit: int = 500,
        execution_id: str | None = None,
        batch_id: str | None = None,
        types: Sequence[str] | None = None,
    ) -> list[EventRow]:
        """The next events after the cursor that nothing can come before any more."""
        sql = SQL["read_events"]
        if execution_id is not None:
            sql += " AND execution_id = %(execution_id)s"
        if batch_id is not None:
            sql += " AND batch_id = %(batch_id)s"
        if types is not None:
            sql += " AND type = ANY(%(types)s::text[])"
        rows = await self._db.rows(
            sql + " " + SQL["order_of_events"],
            {
                "xid": str(after.xid),
                "seq": after.seq,
                "limit": limit,
                "execution_id": execution_id,
                "batch_id": batch_id,
                "types": list(types or ()),
            },
        )
        return [event_row(row) for row in rows]

    async def latest(self) -> Cursor:
        """The cursor of the newest event that `read` can give; following it starts now."""
        row = await self._db.row(SQL["latest_event"])
        return Cursor.START if row is None else Cursor(xid=int(row["xid"]), seq=row["seq"])


def event_row(row: DictRow) -> EventRow:
    """An event of its columns."""
    return EventRow(
        cursor=f"{row['xid']}.{row['seq']}",
        at=row["at"],
        type=row["type"],
        project=row["project"],
        execution_id=row["execution_id"],
        batch_id=row["batch_id"],
        actor=row["actor"],
        payload=orjson.loads(row["payload"]),
    )
