"""Splits: cells that shared an execution go on apart, each part from a copy of the same checkpoint.

A split is one transaction: copies, branches, executions, the cells' new executions, one event for all of
it and one for each new branch. The first part stays where it is; so whatever was done before is done
once, and stands in the history of all. Whoever calls holds the lock of the execution that is split.
"""

import asyncio
from collections.abc import Sequence

import orjson
from psycopg.rows import DictRow

from wtb_ray import errors, events
from wtb_ray.batch_tree import BatchTree, BranchRow, StepRow, WayRow, tree
from wtb_ray.db import Connection, Database
from wtb_ray.events import SplitPart
from wtb_ray.model import Execution, canonical, new_id, thread_id
from wtb_ray.sharing import Part
from wtb_ray.states import ExecutionStatus, Wanted
from wtb_ray.store.branches import Mode, Origin, begin, branch_event, locked
from wtb_ray.store.changes import legal
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.history import get_execution
from wtb_ray.store.sql import SQL
from wtb_ray.store.stopping import stop
from wtb_ray.store.transactions import in_order, transact

REASON = "split"
RESTING = (ExecutionStatus.PENDING, ExecutionStatus.PAUSED)
"""In which nothing of an execution runs, and it has not ended."""


async def split(
    conn: Connection,
    row: DictRow,
    parts: Sequence[Part],
    actor: str,
    *,
    status: ExecutionStatus = ExecutionStatus.PENDING,
    mode: Mode = "as_it_stands",
) -> list[SplitPart]:
    """Splits a locked execution by variants; gives its parts as they go on, the one that stays first.

    A variant whose cell has ended meanwhile has no part. The others are in `status`, and have what
    was finished in the present super-step unless the mode is `clean`.
    """
    trunk = await _trunk(conn, row["id"])
    cells = await _open_cells(conn, row["id"])
    bindings = orjson.loads(trunk["bindings"])
    there = [found for part in parts if (found := tuple(v for v in part if v in cells))]
    made = [
        SplitPart(
            execution=row["id"] if place == 0 else new_id("e"),
            variants=list(part),
            cells=[cells[variant] for variant in part],
        )
        for place, part in enumerate(there)
    ]
    if made:
        stays = canonical(bindings[made[0].variants[0]])
        await conn.execute(SQL["bind"], {"id": row["id"], "binding": stays})
    if len(made) > 1:
        origin = Origin(trunk["thread_id"], trunk["head"], trunk["head_step"], ())
        await _make(conn, row["id"], origin, made[1:], bindings, status, mode)
        await _tell(conn, row, origin, made, actor)
    return made


async def _make(
    conn: Connection,
    id: str,
    origin: Origin,
    parts: Sequence[SplitPart],
    bindings: Sequence[dict[str, str]],
    status: ExecutionStatus,
    mode: Mode,
) -> None:
    ids = [part.execution for part in parts]
    params = {
        "id": id,
        "ids": ids,
        "bindings": [canonical(bindings[part.variants[0]]) for part in parts],
        "status": str(status),
        "reason": REASON,
        "cells": [cell for part in parts for cell in part.cells],
        "executions": [part.execution for part in parts for _ in part.cells],
    }
    await conn.execute(SQL["insert_parts"], params)
    if origin.checkpoint_id is None:  # it had not begun
        await conn.execute(SQL["insert_first_branches"], params)
    else:
        await begin(conn, origin, [(id, 0) for id in ids], mode, REASON)
    await conn.execute(SQL["move_cells"], params)


async def _tell(
    conn: Connection, row: DictRow, origin: Origin, parts: Sequence[SplitPart], actor: str
) -> None:
    told = events.ExecutionSplit(
        thread_id=origin.thread_id,
        checkpoint_id=origin.checkpoint_id,
        step=origin.step,
        parts=list(parts),
    )
    entries = [Entry(actor, told, row["project"], row["id"], row["batch_id"])]
    for part in parts[1:] if origin.checkpoint_id is not None else ():
        begun = branch_event(thread_id(part.execution, 0), origin, REASON)
        entries.append(Entry(actor, begun, row["project"], part.execution, row["batch_id"]))
    await append_many(conn, entries)


async def _trunk(conn: Connection, id: str) -> DictRow:
    row = await (await conn.execute(SQL["standing_of_trunk"], {"id": id})).fetchone()
    if row is None:
        raise errors.Conflict(
            f"execution {id} is no batch's: it has no cells",
            field="execution_id",
            reason="of no batch",
        )
    return row


async def _open_cells(conn: Connection, id: str) -> dict[int, int]:
    """The cells that an execution still runs for, by variant."""
    rows = await (await conn.execute(SQL["open_cells"], {"id": id})).fetchall()
    return {row["variant"]: row["id"] for row in rows}


class Splits:
    """Taking cells out of what they share, before something is done to them alone."""

    def __init__(self, db: Database):
        self._db = db

    async def cells(self, id: str) -> list[int]:
        """Ids of the cells that an execution still runs for; none where it is no batch's."""
        rows = await self._db.rows(SQL["open_cells"], {"id": id})
        return [row["id"] for row in rows]

    async def tree(
        self, batch_id: str, case: str | None = None, repetition: int | None = None
    ) -> BatchTree:
        """The ways of a batch's cells as they are now; of one case or repetition, if told.

        Raises:
            UnknownBatch: There is none with this id.
        """
        params = {"batch_id": batch_id, "case": case, "repetition": repetition}
        async with self._db.snapshot() as conn:
            found = await conn.execute(SQL["bindings_of_batch"], {"id": batch_id})
            if await found.fetchone() is None:
                raise _unknown(batch_id)
            ways, branches, steps = [
                await (await conn.execute(SQL[name] + " " + SQL["of_ways"], params)).fetchall()
                for name in ("ways", "branches_of_ways", "steps_of_ways")
            ]
        return await asyncio.to_thread(
            tree,
            batch_id,
            [WayRow(r["thread_id"], orjson.loads(r["binding"]), r["cells"] or {}) for r in ways],
            [BranchRow(**row) for row in branches],
            [StepRow(**row) for row in steps],
        )

    async def split_off(
        self, id: str, cell: int, *, running: bool = False, actor: str
    ) -> Execution:
        """Gives a cell an execution of its own, which stands where the shared one does.

        One that has its own already keeps it, also when it was taken out of this one before. Taken
        out of one that runs, it waits to go on from the last super-step that has ended.

        Args:
            id: The execution that it shares.
            cell: Its id.
            running: Whether it may be taken out of one that runs.
            actor: Who does it.

        Raises:
            UnknownExecution: There is none with this id.
            Conflict: The execution does not run for this cell.
            InvalidTransition: It has ended or is to stop, or it runs and may not.
        """
        states = (*RESTING, ExecutionStatus.RUNNING) if running else RESTING

        async def work(conn: Connection) -> Execution:
            row = await locked(conn, id)
            cells = {} if row["batch_id"] is None else await _open_cells(conn, id)
            variant = next((v for v, found in cells.items() if found == cell), None)
            if variant is None:
                return await _taken_out(conn, id, cell, list(cells.values()))
            others = tuple(v for v in cells if v != variant)
            if not others:
                return await get_execution(conn, id)
            if row["status"] not in states or row["wanted"] == Wanted.STOP:
                raise _cannot_part(row, states)
            runs = row["status"] == ExecutionStatus.RUNNING
            parts = await split(
                conn,
                row,
                [others, (variant,)],
                actor,
                status=ExecutionStatus.PENDING if runs else ExecutionStatus(row["status"]),
                mode="clean" if runs else "as_it_stands",
            )
            return await get_execution(conn, parts[1].execution)

        return await transact(self._db, work)

    async def stop_variant(
        self, batch_id: str, name: str, *, actor: str, reason: str | None = None
    ) -> int:
        """Stops all that is done for one variant of a batch; gives how many cells that were.

        What it shares with others goes on for them. Cells that have ended stay as they are.

        Raises:
            UnknownBatch: There is none with this id.
            UnknownVariant: It has no such variant.
            InvalidTransition: It has ended.
        """

        async def work(conn: Connection) -> int:
            row = await (await conn.execute(SQL["lock_batch_whole"], {"id": batch_id})).fetchone()
            if row is None:
                raise _unknown(batch_id)
            legal(row, "batch", "stop")
            if name not in row["variants"]:
                raise errors.UnknownVariant(
                    f"batch {batch_id} has no variant {name!r}",
                    field="variant",
                    reason=f"known are {row['variants']}",
                )
            variant, stopped = row["variants"].index(name), 0
            bindings = orjson.loads(row["bindings"])
            params = {"batch_id": batch_id, "variant": variant}
            seen: list[str] = []
            while True:  # a split may have moved some before their executions were locked
                found = await conn.execute(SQL["begun_of_variant"], {**params, "seen": seen})
                ids = [row["execution_id"] for row in await found.fetchall()]
                if not ids:
                    break
                stopped += await _prune(conn, ids, variant, bindings, reason, actor)
                seen += ids
            waiting = await conn.execute(SQL["cancel_waiting_of_variant"], params)
            stopped += waiting.rowcount
            event = events.VariantStopped(variant=name, cells=stopped, reason=reason)
            await append_many(conn, [Entry(actor, event, row["project"], None, batch_id)])
            return stopped

        return await transact(self._db, work)


def _cannot_part(row: DictRow, states: Sequence[ExecutionStatus]) -> errors.InvalidTransition:
    stops = row["wanted"] == Wanted.STOP
    return errors.InvalidTransition(
        f"execution {row['id']} is {'to stop' if stops else row['status']}: no cell can be taken out",
        field="status",
        reason="split does not apply",
        state=row["status"],
        command="split",
        allowed=[str(s) for s in states],
    )


def _unknown(batch_id: str) -> errors.UnknownBatch:
    return errors.UnknownBatch(f"there is no batch {batch_id}", field="batch_id", reason="unknown")


async def _prune(
    conn: Connection,
    ids: Sequence[str],
    variant: int,
    bindings: Sequence[dict[str, str]],
    reason: str | None,
    actor: str,
) -> int:
    """Takes a variant out of executions that others share, and stops those that are its alone."""
    cursor = await conn.execute(SQL["lock_executions"], {"ids": list(ids)})
    alone, out = [], []
    for row in in_order(await cursor.fetchall()):
        members = await _open_cells(conn, row["id"])
        cell = members.pop(variant, None)
        if cell is None:
            continue
        if not members:
            alone.append(row)
            continue
        out.append(cell)
        stays = canonical(bindings[min(members)])
        await conn.execute(SQL["bind"], {"id": row["id"], "binding": stays})
    await conn.execute(SQL["cancel_cells"], {"cells": out})
    await stop(conn, alone, reason, actor)
    return len(out) + len(alone)


async def _taken_out(conn: Connection, id: str, cell: int, cells: Sequence[int]) -> Execution:
    """The execution that a cell got when it was taken out of this one."""
    row = await (await conn.execute(SQL["own_of_cell"], {"cell": cell, "id": id})).fetchone()
    if row is None:
        raise errors.Conflict(
            f"execution {id} does not run for cell {cell}",
            field="cell",
            reason="another execution's",
            cells=list(cells),
        )
    return await get_execution(conn, row["id"])
