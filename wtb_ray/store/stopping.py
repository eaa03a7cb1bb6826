"""Stopping executions: what waits is cancelled at once, what runs at its next boundary."""

from collections.abc import Sequence

from psycopg.rows import DictRow

from wtb_ray import events
from wtb_ray.db import Connection
from wtb_ray.states import ExecutionStatus, Wanted
from wtb_ray.store.changes import Change, apply
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.sql import SQL


async def stop(conn: Connection, rows: Sequence[DictRow], reason: str | None, actor: str) -> None:
    """Cancels what waits and asks the owners of what runs; the rows are locked and unended."""
    running = [row["id"] for row in rows if row["status"] == ExecutionStatus.RUNNING]
    if running:
        await conn.execute(SQL["want_stop"], {"ids": running, "reason": reason})
        told = events.StopRequested(reason=reason)
        asked = [row for row in rows if row["id"] in set(running) and row["wanted"] != Wanted.STOP]
        entries = [Entry(actor, told, r["project"], r["id"], r["batch_id"]) for r in asked]
        await append_many(conn, entries)
    waiting = [row for row in rows if row["status"] != ExecutionStatus.RUNNING]
    await apply(conn, [Change(row, "stop", actor, reason=reason, epoch=1) for row in waiting])
