"""Results of batches as frames: rows in Postgres are the truth, Parquet parts spare reading them.

An exporter seals ended cells with their scores into parts in the object store and registers them;
readers take the registered parts plus the rows that are in none, as one snapshot shows them, so
that no cell is missing or double. A part holds what it says in `cell_ids` only: a cell that is
taken back (rescored, run again) leaves it by `unseal`. A part whose object is lost or damaged is
forgotten and its cells are read from the rows again. Nothing here changes cells or scores.

A part has one row a cell, compressed by zstd:
  cell            i64     id of the cell
  ordinal         i32     its place in the order of work
  variant, case   str     name of the variant, id of the case
  repetition      i32     from 0
  status          str     DONE, FAILED, EXCLUDED or CANCELLED
  execution_id    str?
  latency_ms      f64?    of the whole path through the graph
  error, message  str?    code and text of the fault of a failed cell
  ended_at        datetime[us, UTC]?
  node_runs       i32?    of the whole path, as the latency
  usage           str?    JSON object: what its nodes said that they used, sums by key
  shared_failure  bool?   failed together with others in one execution
  scores          list of {scorer str, scorer_digest str, metric str, value f64?, explanation str?}
"""

import asyncio
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from psycopg.rows import tuple_row

from wtb_ray import errors, scoring
from wtb_ray.api import Leaderboard
from wtb_ray.db import Connection, Database, queries
from wtb_ray.events import LeaderboardComputed
from wtb_ray.leaderboard import summarise
from wtb_ray.model import Batch, digest
from wtb_ray.objects import ObjectStore
from wtb_ray.states import TERMINAL_CELL, BatchStatus, CellStatus
from wtb_ray.store import Store
from wtb_ray.store.holds import still_held

log = logging.getLogger(__name__)

SQL: Final = queries("results")
PART_CELLS: Final = 100_000
"""Most cells of one part."""
ENDED: Final = sorted(str(status) for status in TERMINAL_CELL)

CELLS: Final[Mapping[str, Any]] = {
    "cell": pl.Int64,
    "ordinal": pl.Int32,
    "variant": pl.String,
    "case": pl.String,
    "repetition": pl.Int32,
    "status": pl.String,
    "execution_id": pl.String,
    "latency_ms": pl.Float64,
    "error": pl.String,
    "message": pl.String,
    "ended_at": pl.Datetime("us", "UTC"),
    "node_runs": pl.Int32,
    "usage": pl.String,
    "shared_failure": pl.Boolean,
}
SCORES: Final[Mapping[str, Any]] = {
    "cell": pl.Int64,
    "scorer": pl.String,
    "scorer_digest": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "explanation": pl.String,
}


class Frames(NamedTuple):
    """A batch's results at one moment; `cells` has all cells, `scores` one row a score."""

    cells: pl.DataFrame
    scores: pl.DataFrame
    digest: str
    status: BatchStatus


@dataclass(frozen=True)
class Part:
    """A registered part."""

    number: int
    digest: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class _Rows:
    """Cells that are in no part, with their scores and the versions they were read in."""

    cells: pl.DataFrame
    scores: pl.DataFrame
    versions: list[int]


async def export(
    db: Database,
    objects: ObjectStore,
    batch_id: str,
    *,
    at_least: int = 1,
    lease: str | None = None,
) -> list[Part]:
    """Seals the ended cells that are in no part yet; gives the parts that it made.

    They are stored under `lease`.

    Any number may run at once: a cell is registered by one of them. With fewer cells than
    `at_least` nothing is done.

    Raises:
        UnknownBatch: There is no such batch.
    """
    made: list[Part] = []
    while True:
        async with db.snapshot() as conn:
            if not await (await conn.execute(SQL["batch"], {"batch_id": batch_id})).fetchone():
                raise _unknown(batch_id)
            rows = await _unsealed(conn, batch_id, ENDED, PART_CELLS)
        if rows.cells.height < max(at_least, 1):
            return made
        data = await asyncio.to_thread(_encoded, rows, batch_id)
        part = await _register(db, batch_id, rows, await objects.put(data), len(data), lease)
        made += [part] if part else []


async def frame(db: Database, objects: ObjectStore, batch_id: str) -> Frames:
    """The results of a batch: registered parts plus the rows in none, as of one moment.

    Raises:
        UnknownBatch: There is no such batch.
        Unavailable: The object store does not answer.
    """
    while True:
        async with db.snapshot() as conn:
            status, found = await _digest(conn, batch_id)
            parts = await (await conn.execute(SQL["parts"], {"batch_id": batch_id})).fetchall()
            tail = await _unsealed(conn, batch_id, list(CellStatus), None)
        try:
            sealed = [
                await asyncio.to_thread(_decoded, await objects.get(part["digest"]), part)
                for part in parts
            ]
        except (errors.UnknownObject, errors.ObjectCorrupt) as e:
            log.warning("part of %s is lost: %s", batch_id, e, extra={"action": "part_lost"})
            await _forget(db, batch_id, e.details["digest"])
            continue
        cells, scores = zip((tail.cells, tail.scores), *sealed, strict=True)
        return Frames(pl.concat(cells).sort("cell"), pl.concat(scores), found, status)


async def digest_of(db: Database, batch_id: str) -> str:
    """A digest that changes whenever an ended cell, its scores or the batch's status change.

    It costs one pass over the batch's cells in the database, and does not depend on parts.

    Raises:
        UnknownBatch: There is no such batch.
    """
    async with db.connection() as conn:
        return (await _digest(conn, batch_id))[1]


async def unseal(conn: Connection, batch_id: str, cells: Sequence[int]) -> None:
    """Takes cells out of the parts, in the transaction that makes them no longer ended.

    The caller has locked the batch's row before it changed the cells.
    """
    await conn.execute(SQL["unseal"], {"batch_id": batch_id, "cells": list(cells)})


async def stored(db: Database, batch_id: str, found: str) -> Leaderboard | None:
    """The leaderboard that was computed from the results with this digest, if there is one."""
    row = await db.row(SQL["stored_leaderboard"], {"batch_id": batch_id, "digest": found})
    return None if row is None else Leaderboard.model_validate_json(row["body"])


async def compute_leaderboard(
    db: Database, objects: ObjectStore, batch_id: str, *, actor: str = "leaderboard"
) -> Leaderboard:
    """Computes and stores the leaderboard of the results as they are now.

    Those of older results are dropped. Computing the same one twice stores it, and says so in the
    log, once.

    Raises:
        UnknownBatch: There is no such batch.
    """
    store = Store(db)
    frames = await frame(db, objects, batch_id)
    batch = (await store.batches.get(batch_id)).model_copy(update={"status": frames.status})
    board = await asyncio.to_thread(
        summarise, frames.cells, frames.scores, batch, frames.digest, _declared(batch)
    )
    params = {"batch_id": batch_id, "digest": board.digest, "body": board.model_dump_json()}
    async with db.transaction() as conn:
        await conn.execute(SQL["drop_other_leaderboards"], params)
        if await (await conn.execute(SQL["insert_leaderboard"], params)).fetchone():
            event = LeaderboardComputed(digest=board.digest)
            await store.events.append(conn, actor, event, project=batch.project, batch_id=batch_id)
    return board


def _declared(batch: Batch) -> dict[str, tuple[str, ...]]:
    """Metrics by scorer digest, of the scorers that can be asked without the project's code."""
    found = {}
    for spec in batch.scorers:
        if spec.name in scoring.BUILT_IN:
            found[spec.digest()] = scoring.check(spec)
    return found


def _unknown(batch_id: str) -> errors.UnknownBatch:
    return errors.UnknownBatch(f"there is no batch {batch_id}", field="batch_id", reason="unknown")


async def _digest(conn: Connection, batch_id: str) -> tuple[BatchStatus, str]:
    params = {"batch_id": batch_id, "terminal": ENDED}
    row = await (await conn.execute(SQL["results_digest"], params)).fetchone()
    if row is None:
        raise _unknown(batch_id)
    return BatchStatus(row["status"]), digest({"batch": batch_id, **row})


async def _unsealed(
    conn: Connection, batch_id: str, statuses: Sequence[str], limit: int | None
) -> _Rows:
    cursor = conn.cursor(row_factory=tuple_row, binary=True)
    params = {"batch_id": batch_id, "statuses": list(statuses), "limit": limit}
    cells = await (await cursor.execute(SQL["unsealed_cells"], params)).fetchall()
    ids = [cell[0] for cell in cells]
    scores = await (await cursor.execute(SQL["scores_of_cells"], {"cells": ids})).fetchall()
    return await asyncio.to_thread(_as_rows, cells, scores)


def _as_rows(cells: Sequence[tuple[Any, ...]], scores: Sequence[tuple[Any, ...]]) -> _Rows:
    return _Rows(
        pl.DataFrame([cell[:-1] for cell in cells], CELLS, orient="row"),
        pl.DataFrame(scores, SCORES, orient="row"),
        [cell[-1] for cell in cells],
    )


async def _register(
    db: Database, batch_id: str, rows: _Rows, digest: str, size: int, lease: str | None
) -> Part | None:
    """Registers those cells of a stored part that are still as they were read, and in no part."""
    params: dict[str, Any] = {
        "batch_id": batch_id,
        "digest": digest,
        "bytes": size,
        "cells": rows.cells["cell"].to_list(),
        "versions": rows.versions,
    }
    async with db.transaction() as conn:
        await still_held(conn, lease)
        await conn.execute(SQL["lock_batch"], params)
        kept = await (await conn.execute(SQL["still_as_read"], params)).fetchall()
        if not kept:
            return None
        params |= {"cells": [row["id"] for row in kept], "rows": len(kept)}
        row = await (await conn.execute(SQL["insert_part"], params)).fetchone()
    return Part(row["number"], digest, len(kept), size) if row else None


async def _forget(db: Database, batch_id: str, digest: str) -> None:
    async with db.connection() as conn:
        await conn.execute(SQL["forget_part"], {"batch_id": batch_id, "digest": digest})


def _encoded(rows: _Rows, batch_id: str) -> bytes:
    fields = [name for name in SCORES if name != "cell"]
    nested = rows.scores.group_by("cell", maintain_order=True).agg(scores=pl.struct(fields))
    whole = rows.cells.join(nested, on="cell", how="left", maintain_order="left").with_columns(
        pl.col("scores").fill_null([])
    )
    buffer = io.BytesIO()
    whole.write_parquet(buffer, compression="zstd", metadata={"wtb_ray.batch": batch_id})
    return buffer.getvalue()


def _decoded(data: bytes, part: Mapping[str, Any]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The cells that the part still holds, and their scores."""
    whole = pl.read_parquet(io.BytesIO(data))
    whole = whole.filter(_within(whole["cell"].to_numpy(), part["starts"], part["ends"]))
    scores = whole.select("cell", "scores").explode("scores", empty_as_null=False).unnest("scores")
    # A part that was made before a column there was does not know it.
    lacking = [pl.lit(None, CELLS[name]).alias(name) for name in CELLS.keys() - set(whole.columns)]
    return whole.with_columns(lacking).select(list(CELLS)), scores


def _within(cells: NDArray[np.int64], starts: Sequence[int], ends: Sequence[int]) -> pl.Series:
    """Which cells lie in one of the ranges [start, end), which are in order."""
    place = np.searchsorted(starts, cells, side="right") - 1
    return pl.Series((place >= 0) & (cells < np.asarray(ends)[place]))
