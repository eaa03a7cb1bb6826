"""Cells as results: pages for people, all rows for frames. Cells are changed by executions only."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import orjson
from psycopg.rows import DictRow

from wtb_ray import errors
from wtb_ray.api import CellResult, Page
from wtb_ray.db import Database
from wtb_ray.states import CellStatus
from wtb_ray.store.pages import number_after, page
from wtb_ray.store.sql import SQL

CHUNK: Final = 2000
"""Cells read by one statement of `frame_rows`: short ones, so that no snapshot is held long."""


class Cells:
    """Reads of cells and their scores."""

    def __init__(self, db: Database):
        self._db = db

    async def list(
        self,
        batch_id: str,
        limit: int = 100,
        after: str | None = None,
        status: CellStatus | None = None,
    ) -> Page[CellResult]:
        """The cells of a batch in the order of work.

        Raises:
            UnknownBatch: There is no such batch.
        """
        last = number_after(after)
        rows = await self._rows(batch_id, last, limit + 1, None if status is None else str(status))
        bindings = await self._bindings(batch_id)  # read last: those of rows just added are in it
        return page(
            rows, limit, lambda row: _result(row, bindings), lambda row: str(row["ordinal"])
        )

    async def frame_rows(self, batch_id: str) -> AsyncIterator[dict[str, Any]]:
        """Each cell of a batch as a flat row, in the order of work.

        Its `scores` are rows of scorer, scorer_digest, metric, value and explanation; `error` is
        the stored fault or None.

        Raises:
            UnknownBatch: There is no such batch.
        """
        await self._bindings(batch_id)
        last = -1
        while rows := await self._rows(batch_id, last, CHUNK, None):
            scores = await self._scores([row["id"] for row in rows])
            for row in rows:
                yield _frame_row(row, scores.get(row["id"], []))
            last = rows[-1]["ordinal"]

    async def _bindings(self, batch_id: str) -> Sequence[dict[str, str]]:
        row = await self._db.row(SQL["bindings_of_batch"], {"id": batch_id})
        if row is None:
            raise errors.UnknownBatch(
                f"there is no batch {batch_id}", field="batch_id", reason="unknown"
            )
        bindings: Sequence[dict[str, str]] = orjson.loads(row["bindings"])
        return bindings

    async def _rows(
        self, batch_id: str, after: int, limit: int, status: str | None
    ) -> Sequence[DictRow]:
        condition = " AND c.status = %(status)s " if status is not None else " "
        return await self._db.rows(
            SQL["list_cells"] + condition + SQL["order_of_cells"],
            {"batch_id": batch_id, "after": after, "limit": limit, "status": status},
        )

    async def _scores(self, cells: Sequence[int]) -> dict[int, Sequence[dict[str, Any]]]:
        scores: dict[int, Any] = {}
        for row in await self._db.rows(SQL["scores_of_cells"], {"cells": list(cells)}):
            scores.setdefault(row.pop("cell_id"), []).append(row)
        return scores


def _result(row: DictRow, bindings: Sequence[dict[str, str]]) -> CellResult:
    return CellResult(
        id=row["id"],
        variant=row["variant"],
        binding=bindings[row["variant_index"]],
        case_id=row["case_id"],
        repetition=row["repetition"],
        status=row["status"],
        execution_id=row["execution_id"],
        scores=dict(zip(row["metrics"] or (), row["values"] or (), strict=True)),
        latency_ms=row["latency_ms"],
        node_runs=row["node_runs"],
        usage=_usage(row),
        shared_failure=row["shared_failure"],
        error=None if row["error"] is None else orjson.loads(row["error"]),
    )


def _frame_row(row: DictRow, scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    flat = {k: v for k, v in row.items() if k not in ("metrics", "values")}
    error = None if row["error"] is None else orjson.loads(row["error"])
    return {**flat, "error": error, "usage": _usage(row), "scores": scores}


def _usage(row: DictRow) -> dict[str, float]:
    found: dict[str, float] = {} if row["usage"] is None else orjson.loads(row["usage"])
    return found
