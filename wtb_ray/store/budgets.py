"""Budgets of batches: when one is used up, nothing more of the batch begins.

What runs goes on to its end, so that somewhat more may be spent than the budget says.
"""

from psycopg.rows import DictRow

from wtb_ray import errors, events, spending, states
from wtb_ray.db import Connection, Database
from wtb_ray.model import Budget, Cost, Fault, canonical
from wtb_ray.states import BatchStatus
from wtb_ray.store import costs
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.sql import SQL
from wtb_ray.store.transactions import transact


async def enforce(db: Database, actor: str) -> list[str]:
    """Excludes the waiting cells of running batches that have used up a budget; gives their ids."""
    async with db.connection() as conn:
        rows = await (await conn.execute(SQL["open_budgets"])).fetchall()
        if not rows:
            return []
        incurred = await costs.incurred(conn, [row["id"] for row in rows])
    stopped = []
    for row in rows:
        cost, tokens = incurred.get(row["id"], (Cost(), 0.0))
        used = {
            "cells": row["cells"],
            "node_runs": cost.node_runs,
            "tokens": tokens,
            "cost": cost.usage.get("cost", 0.0),
            "wall_time_s": row["ran_s"],
        }
        over = spending.exceeded(Budget.model_validate_json(row["budget"]), used)
        if over is not None and await _exclude(db, row, over, actor):
            stopped.append(row["id"])
    return stopped


async def _exclude(db: Database, row: DictRow, over: spending.Exceeded, actor: str) -> bool:
    message = f"the budget of {over.limit:g} {over.budget} is used up: {over.spent:g}"
    fault = Fault(
        code=errors.BudgetExceeded.code, type=errors.BudgetExceeded.__name__, message=message
    )
    params = {
        "batch_id": row["id"],
        "status": str(states.CELL["exclude"][1]),
        "error": canonical(fault.model_dump(mode="json")),
    }

    async def work(conn: Connection) -> bool:
        batch = await (await conn.execute(SQL["lock_batch"], {"id": row["id"]})).fetchone()
        if batch is None or batch["status"] != BatchStatus.RUNNING:
            return False
        excluded = (await conn.execute(SQL["exclude_pending_cells"], params)).rowcount
        if not excluded:
            return False
        reason = f"{fault.code}: {message}"
        await conn.execute(SQL["say_reason"], {"id": row["id"], "reason": reason})
        event = events.BudgetExceeded(**over._asdict(), excluded=excluded)
        await append_many(conn, [Entry(actor, event, batch["project"], None, row["id"])])
        return True

    return await transact(db, work)
