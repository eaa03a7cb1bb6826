"""What becomes of waiting work when no runner can be had for its version."""

from wtb_ray import errors, events
from wtb_ray.db import Connection, Database
from wtb_ray.model import Fault
from wtb_ray.store.changes import Change, apply, cancel_pending_cells, change_batch
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import in_order, transact


async def abandon(db: Database, version: str, error: errors.WTBError, actor: str) -> int:
    """Fails the waiting executions and open batches of a version; gives how many executions."""
    fault = Fault(code=error.code, type=type(error).__name__, message=error.message)

    async def work(conn: Connection) -> int:
        params = {"version": version}
        cursor = await conn.execute(SQL["lock_batches_of_version"], params)
        for batch in in_order(await cursor.fetchall()):
            await change_batch(conn, batch, "fail", events.BatchFailed(reason=error.message), actor)
            await cancel_pending_cells(conn, batch["id"])
        cursor = await conn.execute(SQL["lock_waiting"], params)
        rows = in_order(await cursor.fetchall())
        await apply(
            conn, [Change(row, "fail", actor, reason=error.code, fault=fault) for row in rows]
        )
        return len(rows)

    return await transact(db, work)
