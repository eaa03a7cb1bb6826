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


class Measured(NamedTuple):
    """What one execution has cost and spent by now."""

    batch_id: str | None
    path: Cost
    spent: Cost
    spent_tokens: float
    cut_off: dict[str, float]
    """What was used in steps that are not stored."""
    more: Cost
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
    cursor = await conn.execute(SQL["measure_executions"], {"ids": list(cut_off)})
    return {row["id"]: _measured(row, cut_off[row["id"]]) for row in await cursor.fetchall()}


def _measured(row: DictRow, cut_off: Usage) -> Measured:
    before = Cost() if row["spent"] is None else Cost.model_validate_json(row["spent"])
    lost = summed([orjson.loads(row["cut_off"]), cut_off])
    own = _usages(row["own_nodes"])
    spent = Cost(
        node_runs=row["own_runs"] or 0,
        duration_ms=row["own_ms"] or 0.0,
        usage=summed([*own, lost]),
    )
    tokens = sum(map(tokens_of, own)) + tokens_of(lost)
    negative = {key: -amount for key, amount in before.usage.items()}
    return Measured(
        batch_id=row["batch_id"],
        path=Cost(
            node_runs=row["path_runs"] or 0,
            duration_ms=row["path_ms"] or 0.0,
            usage=summed([*_usages(row["path_nodes"]), cut_off]),
        ),
        spent=spent,
        spent_tokens=tokens,
        cut_off=lost,
        more=Cost(
            node_runs=spent.node_runs - before.node_runs,
            duration_ms=spent.duration_ms - before.duration_ms,
            usage=summed([spent.usage, negative]),
        ),
        more_tokens=tokens - row["spent_tokens"],
        stored=row["path_runs"] is not None,
    )


def _usages(nodes: Sequence[str] | None) -> list[Usage]:
    runs = (run for text in nodes or () for run in orjson.loads(text))
    return [run["usage"] for run in runs if run.get("usage")]


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
        if one.batch_id is not None and one.more != Cost():
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
