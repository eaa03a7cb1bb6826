"""Batches: made whole or not at all, started, stopped, closed when their last cell has ended."""

import builtins
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
from psycopg.rows import DictRow

from wtb_ray import errors, events
from wtb_ray.api import Page, Progress
from wtb_ray.db import Connection, Database
from wtb_ray.model import (
    Batch,
    BatchSpec,
    Budget,
    Case,
    Cost,
    ProjectVersion,
    ScorerSpec,
    canonical,
    new_id,
)
from wtb_ray.spending import BudgetName
from wtb_ray.states import TERMINAL_CELL, BatchStatus
from wtb_ray.store import budgets, costs, projects
from wtb_ray.store.changes import cancel_pending_cells, change_batch, legal
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.matrix import Place, copy_cases, copy_cells, extend
from wtb_ray.store.pages import newest_after, newest_token, page, where
from wtb_ray.store.progress import WINDOW, progress_of
from wtb_ray.store.reruns import rerun
from wtb_ray.store.sql import SQL
from wtb_ray.store.stopping import stop
from wtb_ray.store.transactions import in_order, transact

log = logging.getLogger(__name__)

ANALYZED: Final = 1000
"""A batch of this many cells changes the statistics; plans made without them read all of it."""


class Batches:
    """All changes and reads of batches."""

    def __init__(self, db: Database):
        self._db = db

    async def create(
        self,
        spec: BatchSpec,
        version: ProjectVersion,
        names: Sequence[str],
        cells: Iterable[Place],
        *,
        recursion_limit: int,
        actor: str,
        id: str | None = None,
    ) -> Batch:
        """Makes a PENDING batch with its cases and cells in one transaction.

        With the `id` of a batch that is there already, nothing is made: it is that one.

        Raises:
            InvalidCases: A case id comes twice or holds what no text can.
            ProjectInactive: Nothing new of its project may start.
            ProjectRemoved: Its project was removed.
        """
        id = id or new_id("b")
        places = list(cells)
        params = {
            **_row(spec, version),
            "id": id,
            "variants": list(names),
            "cells": len(places),
            "recursion_limit": recursion_limit,
        }
        event = events.BatchCreated(
            version=version.version,
            variants=list(names),
            cases=len(spec.cases),
            cells=len(places),
        )

        async def work(conn: Connection) -> None:
            if await (await conn.execute(SQL["insert_batch"], params)).fetchone() is None:
                return
            await projects.may_start(conn, version.project)
            await copy_cases(conn, id, spec.cases)
            await copy_cells(conn, id, places)
            await append_many(conn, [Entry(actor, event, version.project, None, id)])

        await transact(self._db, work)
        if len(places) >= ANALYZED:
            await self._analyze()
        return await self.get(id)

    async def _analyze(self) -> None:
        try:
            async with self._db.connection() as conn:
                await conn.execute(SQL["analyze"])
        except errors.Unavailable as e:  # the batch is made all the same
            log.warning("statistics are old: %s", e, extra={"action": "analyze"})

    async def get(self, id: str) -> Batch:
        """The batch as it is now.

        Raises:
            UnknownBatch: There is none with this id.
        """
        async with self._db.connection() as conn:
            return await _get(conn, id)

    async def list(
        self,
        limit: int = 50,
        after: str | None = None,
        project: str | None = None,
        status: BatchStatus | None = None,
    ) -> Page[Batch]:
        """Batches, newest first."""
        conditions = where(
            "(b.created_at, b.id) < (%(at)s, %(last)s)" if after is not None else None,
            "b.project = %(project)s" if project is not None else None,
            "b.status = %(status)s" if status is not None else None,
        )
        params = {
            "limit": limit + 1,
            "project": project,
            "status": None if status is None else str(status),
            **newest_after(after),
        }
        sql = SQL["select_batches"] + conditions + SQL["newest_batches"]
        async with self._db.connection() as conn:
            rows = await (await conn.execute(sql, params)).fetchall()
            counts = await _counts(conn, [row["id"] for row in rows[:limit]])
        return page(rows, limit, lambda row: _batch(row, counts.get(row["id"], {})), newest_token)

    async def unstarted(self) -> builtins.list[str]:
        """Ids of PENDING batches by priority and age, for the scheduler, which asks often."""
        return [row["id"] for row in await self._db.rows(SQL["unstarted_batches"])]

    async def progress(self, id: str) -> Progress:
        """How far the batch is, how fast in the recent past, and how long it takes at that rate.

        Raises:
            UnknownBatch: There is none with this id.
        """
        async with self._db.connection() as conn:
            params = {"id": id, **WINDOW}
            row = await (await conn.execute(SQL["batch_progress"], params)).fetchone()
            if row is None:
                raise _unknown(id)
            counts = (await _counts(conn, [id])).get(id, {})
            return progress_of(id, row, counts, *await _costs(conn, id))

    async def start(self, id: str, *, actor: str) -> Batch:
        """PENDING becomes RUNNING.

        Raises:
            UnknownBatch: There is none with this id.
            InvalidTransition: It is not PENDING.
        """

        async def work(conn: Connection) -> Batch:
            row = await _lock(conn, id)
            legal(row, "batch", "start")
            await change_batch(conn, row, "start", events.BatchStarted(), actor)
            return await _get(conn, id)

        return await transact(self._db, work)

    async def stop(self, id: str, reason: str | None, *, actor: str) -> Batch:
        """Cancels the batch and what waits in it; what runs stops at its next boundary.

        Raises:
            UnknownBatch: There is none with this id.
            InvalidTransition: It has ended.
        """

        async def work(conn: Connection) -> Batch:
            row = await _lock(conn, id)
            legal(row, "batch", "stop")
            await change_batch(conn, row, "stop", events.BatchCancelled(reason=reason), actor)
            seen: builtins.list[str] = []
            while True:  # a split may have made some before its execution was locked
                params = {"batch_id": id, "seen": seen}
                cursor = await conn.execute(SQL["lock_unended"], params)
                rows = in_order(await cursor.fetchall())
                if not rows:
                    break
                await stop(conn, rows, reason, actor)
                seen += [row["id"] for row in rows]
            await cancel_pending_cells(conn, id)
            return await _get(conn, id)

        return await transact(self._db, work)

    async def pause(self, id: str, *, actor: str) -> Batch:
        """Starts nothing more of the batch; what runs is given back at its next boundary.

        Raises:
            UnknownBatch: There is none with this id.
            InvalidTransition: It neither waits nor runs.
        """

        async def work(conn: Connection) -> Batch:
            row = await _lock(conn, id)
            legal(row, "batch", "pause")
            await change_batch(conn, row, "pause", events.BatchPaused(), actor)
            await conn.execute(SQL["drain_batch"], {"batch_id": id})
            return await _get(conn, id)

        return await transact(self._db, work)

    async def resume(self, id: str, *, actor: str) -> Batch:
        """Goes on with a paused batch.

        Raises:
            UnknownBatch: There is none with this id.
            InvalidTransition: It is not PAUSED.
        """

        async def work(conn: Connection) -> Batch:
            row = await _lock(conn, id)
            legal(row, "batch", "resume")
            await change_batch(conn, row, "resume", events.BatchResumed(), actor)
            await conn.execute(SQL["undrain_batch"], {"batch_id": id})
            return await _get(conn, id)

        return await transact(self._db, work)

    async def rerun(
        self,
        id: str,
        statuses: Sequence[str],
        *,
        variant: str | None = None,
        case: str | None = None,
        actor: str,
    ) -> Batch:
        """Runs cells in these statuses again, all or those of a variant and a case.

        Raises:
            UnknownBatch: There is none with this id.
            InvalidRequest: It has no such variant or case.
            Conflict: It has no such cell in one of these statuses, or a budget that is used up
                would exclude them at once.
            ProjectInactive: Nothing new of its project may start.
            ProjectRemoved: Its project was removed.
        """

        async def work(conn: Connection) -> Batch:
            row = await _lock(conn, id, "lock_matrix")
            await rerun(conn, row, statuses, variant, case, actor)
            return await _get(conn, id)

        return await transact(self._db, work)

    async def extend(
        self,
        id: str,
        cases: Sequence[Case],
        bindings: Sequence[Mapping[str, str]],
        repetitions: int | None,
        *,
        max_cells: int,
        actor: str,
    ) -> Batch:
        """Adds cases, variants and repetitions; only cells that are not there are made.

        Raises:
            UnknownBatch: There is none with this id.
            InvalidTransition: It has failed.
            InvalidCases: A case id comes twice or holds what no text can.
            Conflict: A case or variant is known by this name as another one, or there would be
                fewer repetitions.
            TooManyCells: There would be more than `max_cells`; none is made.
            ProjectInactive: Nothing new of its project may start.
            ProjectRemoved: Its project was removed.
        """

        async def work(conn: Connection) -> tuple[Batch, int]:
            row = await _lock(conn, id, "lock_matrix")
            made = await extend(conn, row, cases, bindings, repetitions, max_cells, actor)
            return await _get(conn, id), made

        batch, made = await transact(self._db, work)
        if made >= ANALYZED:
            await self._analyze()
        return batch

    async def set_budget(
        self, id: str, changes: Mapping[BudgetName, float | None], *, actor: str
    ) -> Batch:
        """Changes budgets of a batch; None lifts one. Cells that are EXCLUDED stay so.

        Raises:
            UnknownBatch: There is none with this id.
            InvalidTransition: It was stopped or has failed.
            InvalidRequest: An amount is none.
            Conflict: More than an amount is used already.
        """

        async def work(conn: Connection) -> Batch:
            await budgets.change(conn, await _lock(conn, id), changes, actor)
            return await _get(conn, id)

        return await transact(self._db, work)

    async def enforce_budgets(self, *, actor: str) -> builtins.list[str]:
        """Lets nothing more begin in batches that have used up a budget; gives their ids."""
        return await budgets.enforce(self._db, actor)

    async def close(self, *, actor: str) -> builtins.list[str]:
        """Completes every RUNNING batch whose cells have all ended; gives their ids."""

        async def work(conn: Connection) -> builtins.list[str]:
            cursor = await conn.execute(SQL["lock_finished"])
            rows = in_order(await cursor.fetchall())
            counts = await _counts(conn, [row["id"] for row in rows])
            # One may have got more to do after it was looked at, before its row was locked.
            rows = [row for row in rows if counts.get(row["id"], {}).keys() <= TERMINAL_CELL]
            for row in rows:
                event = events.BatchCompleted(counts=counts.get(row["id"], {}))
                await change_batch(conn, row, "complete", event, actor)
            return [row["id"] for row in rows]

        return await transact(self._db, work)


async def _lock(conn: Connection, id: str, how: str = "lock_batch") -> DictRow:
    row = await (await conn.execute(SQL[how], {"id": id})).fetchone()
    if row is None:
        raise _unknown(id)
    return row


async def _get(conn: Connection, id: str) -> Batch:
    sql = SQL["select_batches"] + " WHERE b.id = %(id)s"
    row = await (await conn.execute(sql, {"id": id})).fetchone()
    if row is None:
        raise _unknown(id)
    cost, incurred = await _costs(conn, id)
    counts = (await _counts(conn, [id])).get(id, {})
    return _batch(row, counts, cost=cost, cost_incurred=incurred)


async def _costs(conn: Connection, id: str) -> tuple[Cost, Cost]:
    """The cost of its cells, and what was really spent."""
    incurred = await costs.incurred(conn, [id])
    of_cells = await costs.of_cells(conn, [id])
    return of_cells.get(id, Cost()), incurred.get(id, (Cost(), 0.0))[0]


async def _counts(conn: Connection, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    if ids:
        async for row in await conn.execute(SQL["count_cells"], {"ids": list(ids)}):
            counts.setdefault(row["batch_id"], {})[row["status"]] = row["n"]
    return counts


def _unknown(id: str) -> errors.UnknownBatch:
    return errors.UnknownBatch(f"there is no batch {id}", field="batch_id", reason="unknown")


def _row(spec: BatchSpec, version: ProjectVersion) -> dict[str, Any]:
    return {
        "project": version.project,
        "version": version.version,
        "bindings": canonical(spec.variants),
        "scorers": canonical([s.model_dump(mode="json") for s in spec.scorers]),
        "repetitions": spec.repetitions,
        "cases": len(spec.cases),
        "node_errors": spec.node_errors,
        "priority": spec.priority,
        "share_prefix": spec.share_prefix,
        "interrupts": spec.interrupts,
        "deadline_s": spec.deadline_s,
        "budget": None if spec.budget is None else canonical(spec.budget.model_dump(mode="json")),
    }


def _batch(row: DictRow, counts: dict[str, int], **costs_of: Cost) -> Batch:
    fields: dict[str, Any] = {k: row[k] for k in Batch.model_fields if k in row}
    return Batch(
        **{
            **fields,
            "bindings": orjson.loads(row["bindings"]),
            "scorers": [ScorerSpec(**s) for s in orjson.loads(row["scorers"])],
            "budget": None if row["budget"] is None else Budget.model_validate_json(row["budget"]),
            "counts": counts,
            **costs_of,
        }
    )
