"""What becomes of waiting work when no runner can be had for its version."""

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
        params = {"version": version, "batches": [batch["id"] for batch in batches]}
        rows = await (await conn.execute(SQL["lock_given_up"], params)).fetchall()
        running = [row["id"] for row in rows if row["status"] == ExecutionStatus.RUNNING]
        await conn.execute(SQL["want_stop"], {"ids": running, "reason": error.code})
        waiting = in_order([row for row in rows if row["status"] == ExecutionStatus.PENDING])
        await apply(
            conn, [Change(row, "fail", actor, reason=error.code, fault=fault) for row in waiting]
        )
        return len(waiting)

    return await transact(db, work)
