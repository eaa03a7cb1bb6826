"""Batches: made whole or not at all, started, stopped, closed when their last cell has ended."""

import builtins
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson
import psycopg
from psycopg.rows import DictRow

from wtb_ray import errors, events, states
from wtb_ray.api import Page, Progress
from wtb_ray.db import Connection, Database
from wtb_ray.model import Batch, BatchSpec, Case, ProjectVersion, ScorerSpec, canonical, new_id
from wtb_ray.model import digest as digest_of
from wtb_ray.states import BatchStatus
from wtb_ray.store import projects
from wtb_ray.store.changes import cancel_pending_cells, change_batch, legal
from wtb_ray.store.events import Entry, append_many
from wtb_ray.store.pages import newest_after, newest_token, page, where
from wtb_ray.store.sql import SQL
from wtb_ray.store.stopping import stop
from wtb_ray.store.transactions import in_order, transact

log = logging.getLogger(__name__)

Place = tuple[int, int, int, int]
"""Of a cell: ordinal, variant, case ordinal, repetition."""

COUNTED: Final = 1000
"""Waiting cells of an open batch above this are not counted for the scheduler."""
ANALYZED: Final = 1000
"""A batch of this many cells changes the statistics; plans made without them read all of it."""
COPIED: Final = 4096
"""Rows in one buffer of a COPY."""


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
            await _copy_cases(conn, id, spec.cases)
            await _copy_cells(conn, id, places)
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

    async def open(self) -> builtins.list[Batch]:
        """PENDING and RUNNING batches by priority and age, for the scheduler, which asks often.

        Their `counts` has only PENDING, and stops at some hundreds.
        """
        rows = await self._db.rows(SQL["open_batches"], {"most": COUNTED})
        return [_batch(row, {"PENDING": row["waiting"]}) for row in rows]

    async def progress(self, id: str) -> Progress:
        """How far the batch is, how fast, and how long it still takes at that rate.

        Raises:
            UnknownBatch: There is none with this id.
        """
        async with self._db.connection() as conn:
            row = await (await conn.execute(SQL["batch_progress"], {"id": id})).fetchone()
            if row is None:
                raise _unknown(id)
            counts = (await _counts(conn, [id])).get(id, {})
        return _progress(id, row, counts)

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
            cursor = await conn.execute(SQL["lock_unended"], {"batch_id": id})
            await stop(conn, in_order(await cursor.fetchall()), reason, actor)
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

    async def close(self, *, actor: str) -> builtins.list[str]:
        """Completes every RUNNING batch whose cells have all ended; gives their ids."""

        async def work(conn: Connection) -> builtins.list[str]:
            cursor = await conn.execute(SQL["lock_finished"])
            rows = in_order(await cursor.fetchall())
            counts = await _counts(conn, [row["id"] for row in rows])
            for row in rows:
                event = events.BatchCompleted(counts=counts.get(row["id"], {}))
                await change_batch(conn, row, "complete", event, actor)
            return [row["id"] for row in rows]

        return await transact(self._db, work)


async def _lock(conn: Connection, id: str) -> DictRow:
    row = await (await conn.execute(SQL["lock_batch"], {"id": id})).fetchone()
    if row is None:
        raise _unknown(id)
    return row


async def _get(conn: Connection, id: str) -> Batch:
    sql = SQL["select_batches"] + " WHERE b.id = %(id)s"
    row = await (await conn.execute(sql, {"id": id})).fetchone()
    if row is None:
        raise _unknown(id)
    return _batch(row, (await _counts(conn, [id])).get(id, {}))


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
    }


async def _copy_cases(conn: Connection, id: str, cases: Sequence[Case]) -> None:
    try:
        async with conn.cursor() as cursor, cursor.copy(SQL["copy_cases"]) as copy:
            for ordinal, case in enumerate(cases):
                await copy.write_row((id, ordinal, *_case(case)))
    except (psycopg.DataError, UnicodeError, orjson.JSONEncodeError) as e:
        raise errors.InvalidCases(
            f"a case cannot be stored: {e}", field="cases", reason=str(e)
        ) from e
    except psycopg.errors.UniqueViolation as e:
        raise errors.InvalidCases(
            f"a case id comes twice: {e.diag.message_detail}", field="cases", reason="twice"
        ) from e


def _case(case: Case) -> tuple[str, str, str, str, str]:
    digest = digest_of({"input": case.input, "expected": case.expected})
    return (
        case.id,
        digest,
        canonical(case.input),
        canonical(case.expected),
        canonical(case.metadata),
    )


async def _copy_cells(conn: Connection, id: str, places: Sequence[Place]) -> None:
    async with conn.cursor() as cursor, cursor.copy(SQL["copy_cells"]) as copy:
        for start in range(0, len(places), COPIED):
            lines = (
                f"{id}\t{ordinal}\t{variant}\t{case}\t{repetition}\n"
                for ordinal, variant, case, repetition in places[start : start + COPIED]
            )
            await copy.write("".join(lines))


def _batch(row: DictRow, counts: dict[str, int]) -> Batch:
    fields: dict[str, Any] = {k: row[k] for k in Batch.model_fields if k in row}
    return Batch(
        **{
            **fields,
            "bindings": orjson.loads(row["bindings"]),
            "scorers": [ScorerSpec(**s) for s in orjson.loads(row["scorers"])],
            "counts": counts,
        }
    )


def _progress(id: str, row: DictRow, counts: dict[str, int]) -> Progress:
    finished = sum(counts.get(status, 0) for status in states.TERMINAL_CELL)
    total, elapsed = row["cells"], row["elapsed_s"]
    rate = finished / elapsed if elapsed else None
    return Progress(
        id=id,
        status=row["status"],
        total=total,
        counts=counts,
        finished=finished,
        percent=100.0 * finished / total if total else 100.0,
        rate=rate,
        remaining_s=(total - finished) / rate if rate else None,
    )
