"""What executions cost and spent, summed up for their batches.

The cost of an execution is that of its path: all steps that led to where it is, on whichever
branches they were made. What it spent are the steps on its own branches, those that were abandoned
too, and what nodes said that they used in steps that were cut off. Executions that share a prefix
share its cost; it was spent once.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from psycopg.rows import DictRow

from wtb_ray.db import Connection
from wtb_ray.model import Cost, canonical
from wtb_ray.spending import tokens_of
from wtb_ray.store.sql import SQL

Usage = Mapping[str, float]


class Sum(NamedTuple):
    """As `Cost`, for sums that are made in great numbers."""

    node_runs: int
    duration_ms: float
    usage: dict[str, float]


class Measured(NamedTuple):
    """What one execution has cost and spent by now."""

    batch_id: str | None
    path: Sum
    spent: Sum
    spent_tokens: float
    cut_off: dict[str, float]
    """What was used in steps that are not stored."""
    more: Sum
    """What it has spent since it was measured the last time."""
    more_tokens: float
    stored: bool
    """Whether any step stands on its path."""


async def measure(conn: Connection, cut_off: Mapping[str, Usage]) -> dict[str, Measured]:
    """Measures executions whose rows are locked.

    Args:
        conn: The transaction.
        cut_off: By execution, what nodes have used in a step that will not be stored.
    """
    threads: dict[str, list[DictRow]] = {}
    async for row in await conn.execute(SQL["measure_executions"], {"ids": list(cut_off)}):
        threads.setdefault(row["id"], []).append(row)
    return {id: _measured(rows, cut_off[id]) for id, rows in threads.items()}


def _measured(threads: Sequence[DictRow], cut_off: Usage) -> Measured:
    first = threads[0]
    before = Sum(0, 0.0, {}) if first["spent"] is None else Sum(**orjson.loads(first["spent"]))
    lost = summed([orjson.loads(first["cut_off"]), cut_off])
    own = _usages(threads, "own_nodes")
    spent = _sum(threads, "own", [*own, lost])
    tokens = sum(map(tokens_of, own)) + tokens_of(lost)
    return Measured(
        batch_id=first["batch_id"],
        path=_sum(threads, "path", [*_usages(threads, "path_nodes"), cut_off]),
        spent=spent,
        spent_tokens=tokens,
        cut_off=lost,
        more=Sum(
            spent.node_runs - before.node_runs,
            spent.duration_ms - before.duration_ms,
            summed([spent.usage, {key: -amount for key, amount in before.usage.items()}]),
        ),
        more_tokens=tokens - first["spent_tokens"],
        stored=any(row["path_runs"] is not None for row in threads),
    )


def _sum(threads: Sequence[DictRow], what: str, usages: Sequence[Usage]) -> Sum:
    return Sum(
        sum(row[f"{what}_runs"] or 0 for row in threads),
        sum(row[f"{what}_ms"] or 0.0 for row in threads),
        summed(usages),
    )


def _usages(threads: Sequence[DictRow], column: str) -> list[Usage]:
    texts = (text for row in threads for text in row[column] or ())
    return [run["usage"] for text in texts for run in orjson.loads(text) if run.get("usage")]


def summed(usages: Iterable[Usage]) -> dict[str, float]:
    """The sums of amounts by key."""
    total: dict[str, float] = {}
    for usage in usages:
        for key, amount in usage.items():
            total[key] = total.get(key, 0.0) + amount
    return total


async def spend(conn: Connection, measured: Iterable[Measured]) -> None:
    """Adds what executions have spent to the sums of their batches."""
    batches: dict[str, list[Measured]] = {}
    for one in measured:
        if one.batch_id is not None and (any(one.more[:2]) or one.more.usage):
            batches.setdefault(one.batch_id, []).append(one)
    if not batches:
        return
    found = batches.values()
    params: dict[str, Any] = {
        "batches": list(batches),
        "node_runs": [sum(one.more.node_runs for one in ones) for ones in found],
        "durations": [sum(one.more.duration_ms for one in ones) for ones in found],
        "tokens": [sum(one.more_tokens for one in ones) for ones in found],
        "usages": [canonical(summed(one.more.usage for one in ones)) for ones in found],
    }
    await conn.execute(SQL["add_spendings"], params)


async def incurred(conn: Connection, ids: Sequence[str]) -> dict[str, tuple[Cost, float]]:
    """What the executions of batches have really spent, and how many tokens that are.

    What runs at the moment is not in it yet.
    """
    found: dict[str, list[DictRow]] = {}
    async for row in await conn.execute(SQL["spent_of_batches"], {"ids": list(ids)}):
        found.setdefault(row["batch_id"], []).append(row)
    return {id: (_total(rows), sum(row["tokens"] for row in rows)) for id, rows in found.items()}


def _total(rows: Sequence[DictRow]) -> Cost:
    return Cost(
        node_runs=sum(row["node_runs"] for row in rows),
        duration_ms=sum(row["duration_ms"] for row in rows),
        usage=summed(orjson.loads(row["usage"]) for row in rows),
    )


async def of_cells(conn: Connection, ids: Sequence[str]) -> dict[str, Cost]:
    """The sums over the cells of batches, each with the whole cost of its path."""
    cursor = await conn.execute(SQL["cost_of_batches"], {"ids": list(ids)})
    return {row["batch_id"]: _total([row]) for row in await cursor.fetchall()}
