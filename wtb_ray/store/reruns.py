"""Cells that run again: they lose their execution, scores and place in the parts of results.

What the execution did stays in the history, and what it spent with the batch.
"""

from collections.abc import Sequence

from psycopg.rows import DictRow

from wtb_ray import errors, events, states
from wtb_ray.db import Connection
from wtb_ray.states import CellStatus
from wtb_ray.store import projects
from wtb_ray.store.budgets import used_up
from wtb_ray.store.changes import change_batch
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.sql import SQL


async def rerun(
    conn: Connection,
    batch: DictRow,
    statuses: Sequence[str],
    variant: str | None,
    case: str | None,
    actor: str,
) -> None:
    """Puts cells of a batch, whose row is locked, back to PENDING; a batch that has ended goes on.

    Raises:
        InvalidRequest: The batch has no such variant or case.
        Conflict: It has no such cell in one of these statuses, or a budget that is used up would
            exclude them at once.
        ProjectInactive: Nothing new of its project may start.
        ProjectRemoved: Its project was removed.
    """
    sources, to = states.CELL["rerun"]
    params = {
        "batch_id": batch["id"],
        "from": sorted(sources & set(statuses)),
        "status": str(to),
        "variant": _variant(batch, variant),
        "case_ordinal": await _case(conn, batch["id"], case),
    }
    rows = await (await conn.execute(SQL["rerun_cells"], params)).fetchall()
    if not rows:
        raise errors.Conflict(
            f"no cell of batch {batch['id']} that is meant is {' or '.join(params['from'])}",
            field="status",
            reason="no cells",
            state=batch["status"],
        )
    await projects.may_start(conn, batch["project"])
    await conn.execute(SQL["delete_scores"], {"cells": [row["id"] for row in rows]})
    await conn.execute(SQL["unseal_open_cells"], {"id": batch["id"]})
    ended = batch["status"] in states.TERMINAL_BATCH
    await go_on(conn, batch, events.BatchRerun(cells=len(rows), reopened=ended), actor)
    await _may_begin(conn, batch)


async def _may_begin(conn: Connection, batch: DictRow) -> None:
    """Refuses what a budget that is used up would exclude again."""
    over = (await used_up(conn, batch["id"], paused=True)).get(batch["id"])
    if over is not None:
        raise errors.Conflict(
            f"batch {batch['id']} has used up its budget of {over.limit:g} {over.budget}: raise it first",
            field="status",
            reason="budget used up",
            budget=over.budget,
            limit=over.limit,
            used=over.spent,
        )


async def go_on(conn: Connection, batch: DictRow, event: events.Event, actor: str) -> None:
    """Says in the log that a locked batch has more to do; one that has ended is reopened.

    That a budget is used up stays its reason as long as it has cells excluded.
    """
    if batch["status"] in states.TERMINAL_BATCH:
        await change_batch(conn, batch, "reopen", event, actor)
    else:
        await append_many(conn, [Entry(actor, event, batch["project"], None, batch["id"])])
    reason: str = batch["reason"] or ""
    if reason.startswith(errors.BudgetExceeded.code):
        params = {"id": batch["id"], "reason": reason, "status": str(CellStatus.EXCLUDED)}
        await conn.execute(SQL["say_reason_of_cells"], params)


def _variant(batch: DictRow, name: str | None) -> int | None:
    if name is None:
        return None
    if name not in batch["variants"]:
        raise errors.InvalidRequest(
            f"batch {batch['id']} has no variant {name!r}",
            field="variant",
            reason=f"variants are {batch['variants']}",
        )
    place: int = batch["variants"].index(name)
    return place


async def _case(conn: Connection, batch_id: str, case: str | None) -> int | None:
    if case is None:
        return None
    params = {"batch_id": batch_id, "ids": [case]}
    row = await (await conn.execute(SQL["known_cases"], params)).fetchone()
    if row is None:
        raise errors.InvalidRequest(
            f"batch {batch_id} has no case {case!r}", field="case", reason="unknown"
        )
    place: int = row["ordinal"]
    return place
