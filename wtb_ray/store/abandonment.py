"""What becomes of waiting work when no runner can be had for its version."""

from collections.abc import Sequence

from psycopg.rows import DictRow

from wtb_ray import errors, events
from wtb_ray.db import Connection, Database
from wtb_ray.model import Fault
from wtb_ray.states import ExecutionStatus
from wtb_ray.store.changes import Change, apply, cancel_pending_cells, change_batch
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import in_order, transact


async def abandon(db: Database, version: str, error: errors.WTBError, actor: str) -> int:
    """Fails the waiting executions and open batches of a version; gives how many executions.

    What runs in those batches is to stop: given back, it would wait for ever in an ended batch.
    """
    fault = Fault(code=error.code, type=type(error).__name__, message=error.message)

    async def work(conn: Connection) -> int:
        cursor = await conn.execute(SQL["lock_batches_of_version"], {"version": version})
        batches = in_order(await cursor.fetchall())
        for batch in batches:
            await change_batch(conn, batch, "fail", events.BatchFailed(reason=error.message), actor)
            await cancel_pending_cells(conn, batch["id"])
        failed, seen = 0, list[str]()
        while True:  # a split may have made some before its execution was locked
            params = {"version": version, "batches": [b["id"] for b in batches], "seen": seen}
            rows = await (await conn.execute(SQL["lock_given_up"], params)).fetchall()
            if not rows:
                return failed
            failed += await _give_up(conn, rows, fault, actor)
            seen += [row["id"] for row in rows]

    return await transact(db, work)


async def _give_up(conn: Connection, rows: Sequence[DictRow], fault: Fault, actor: str) -> int:
    """Has what runs stop, and fails what waits; gives how many those are."""
    running = [row["id"] for row in rows if row["status"] == ExecutionStatus.RUNNING]
    await conn.execute(SQL["want_stop"], {"ids": running, "reason": fault.code})
    waiting = in_order([row for row in rows if row["status"] == ExecutionStatus.PENDING])
    changes = [Change(row, "fail", actor, reason=fault.code, fault=fault) for row in waiting]
    await apply(conn, changes)
    return len(waiting)
