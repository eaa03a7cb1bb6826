"""Budgets of batches: when one is used up, nothing more of the batch begins.

What runs goes on to its end, so that somewhat more may be spent than the budget says.
"""

from collections.abc import Mapping

from psycopg.rows import DictRow
from pydantic import ValidationError

from wtb_ray import errors, events, spending, states
from wtb_ray.db import Connection, Database
from wtb_ray.model import Budget, Cost, Fault, canonical
from wtb_ray.spending import BudgetName
from wtb_ray.states import BatchStatus
from wtb_ray.store import costs
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import transact


async def change(
    conn: Connection, batch: DictRow, changes: Mapping[BudgetName, float | None], actor: str
) -> None:
    """Changes budgets of a batch whose row is locked; None lifts one.

    Raises:
        InvalidTransition: It was stopped or has failed.
        InvalidRequest: An amount is none.
        Conflict: More than an amount is used already.
    """
    id = batch["id"]
    if batch["status"] in (BatchStatus.CANCELLED, BatchStatus.FAILED):
        raise errors.InvalidTransition(
            f"batch {id} is {batch['status']}: its budget does not change any more",
            field="status",
            reason="budget does not apply",
            state=batch["status"],
            command="budget",
        )
    row = await (await conn.execute(SQL["budget_of_batch"], {"id": id})).fetchone()
    assert row is not None
    before = Budget() if row["budget"] is None else Budget.model_validate_json(row["budget"])
    after = _changed(before, changes)
    used = _used(row, *(await costs.incurred(conn, [id])).get(id, (Cost(), 0.0)))
    for name, amount in changes.items():
        if amount is not None and amount < used[name]:
            raise errors.Conflict(
                f"batch {id} has used {used[name]:g} {name} already",
                field=f"budget.{name}",
                reason=f"is below {used[name]:g}",
                used=used[name],
            )
    if after == before:
        return
    text = None if after == Budget() else canonical(after.model_dump(mode="json"))
    await conn.execute(SQL["set_budget"], {"id": id, "budget": text})
    event = events.BudgetChanged(before=before, after=after)
    await append_many(conn, [Entry(actor, event, batch["project"], None, id)])


def _changed(before: Budget, changes: Mapping[BudgetName, float | None]) -> Budget:
    try:
        return Budget.model_validate({**before.model_dump(), **changes})
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        where = ".".join(["budget", *map(str, first["loc"])])
        raise errors.InvalidRequest(
            f"{where}: {first['msg']}", field=where, reason=first["msg"]
        ) from e


async def enforce(db: Database, actor: str) -> list[str]:
    """Excludes the waiting cells of running batches that have used up a budget; gives their ids."""
    async with db.connection() as conn:
        over = await used_up(conn)
    return [id for id in over if await _exclude(db, id, actor)]


async def used_up(
    conn: Connection, id: str | None = None, *, paused: bool = False
) -> dict[str, spending.Exceeded]:
    """The budgets that keep waiting cells from beginning, by batch: of all that run, or of this one.

    Args:
        conn: The connection.
        id: Of the one batch that is meant.
        paused: Whether a paused one is meant too.
    """
    statuses = [str(BatchStatus.RUNNING), *([str(BatchStatus.PAUSED)] if paused else [])]
    params = {"id": id, "statuses": statuses}
    rows = await (await conn.execute(SQL["open_budgets"], params)).fetchall()
    if not rows:
        return {}
    incurred = await costs.incurred(conn, [row["id"] for row in rows])
    found = {}
    for row in rows:
        used = _used(row, *incurred.get(row["id"], (Cost(), 0.0)))
        over = spending.exceeded(Budget.model_validate_json(row["budget"]), used)
        if over is not None:
            found[row["id"]] = over
    return found


def _used(row: DictRow, cost: Cost, tokens: float) -> dict[BudgetName, float]:
    return {
        "cells": row["cells"],
        "node_runs": cost.node_runs,
        "tokens": tokens,
        "cost": cost.usage.get("cost", 0.0),
        "wall_time_s": row["ran_s"],
    }


async def _exclude(db: Database, id: str, actor: str) -> bool:
    async def work(conn: Connection) -> bool:
        batch = await (await conn.execute(SQL["lock_batch"], {"id": id})).fetchone()
        # Cells that run again meanwhile have given back what they took of a budget of cells.
        over = (await used_up(conn, id)).get(id)
        if batch is None or over is None:
            return False
        fault = _fault(over)
        params = {
            "batch_id": id,
            "status": str(states.CELL["exclude"][1]),
            "error": canonical(fault.model_dump(mode="json")),
        }
        excluded = (await conn.execute(SQL["exclude_pending_cells"], params)).rowcount
        reason = f"{fault.code}: {fault.message}"
        await conn.execute(SQL["say_reason"], {"id": id, "reason": reason})
        event = events.BudgetExceeded(**over._asdict(), excluded=excluded)
        await append_many(conn, [Entry(actor, event, batch["project"], None, id)])
        return True

    return await transact(db, work)


def _fault(over: spending.Exceeded) -> Fault:
    return Fault(
        code=errors.BudgetExceeded.code,
        type=errors.BudgetExceeded.__name__,
        message=f"the budget of {over.limit:g} {over.budget} is used up: {over.spent:g}",
    )
