"""How far a batch is, and how long it may still take.

The rate is that of the recent past: of the last minute at least, of so many cells at least, and of
twice the longest of them at least, since they end in waves; never from before the batch was
started or resumed last.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from psycopg.rows import DictRow

from wtb_ray import states
from wtb_ray.api import Progress
from wtb_ray.model import Budget, Cost
from wtb_ray.states import BatchStatus

WINDOW_S: Final = 60.0
WINDOW_CELLS: Final = 20
LEAST: Final = 3
"""Ended cells from which on something can be said."""
Z: Final = 1.96

WINDOW: Final = {"window_s": WINDOW_S, "window_cells": WINDOW_CELLS}


def progress_of(
    id: str, row: DictRow, counts: dict[str, int], cost: Cost, incurred: Cost
) -> Progress:
    """The progress of a batch from its row, with what ended in the window of its rate."""
    finished = sum(counts.get(status, 0) for status in states.TERMINAL_CELL)
    total = row["cells"]
    return Progress(
        id=id,
        status=row["status"],
        total=total,
        counts=counts,
        finished=finished,
        percent=100.0 * finished / total if total else 100.0,
        cost=cost,
        cost_incurred=incurred,
        budget=None if row["budget"] is None else Budget.model_validate_json(row["budget"]),
        **_pace(row, total - finished),
    )


def _pace(row: DictRow, left: int) -> Mapping[str, Any]:
    """Rate and remaining time. Ends that come by chance scatter as the root of their number."""
    ended, elapsed = row["ended"], row["elapsed_s"]
    if row["status"] in states.TERMINAL_BATCH:
        return {"rate": None, "remaining_s": 0.0}
    if row["status"] != BatchStatus.RUNNING or ended < LEAST or not elapsed:
        return {"rate": None, "remaining_s": None}
    rate, spread = ended / elapsed, Z / math.sqrt(ended)
    return {
        "rate": rate,
        "remaining_s": left / rate,
        "remaining_low_s": left / (rate * (1 + spread)),
        "remaining_high_s": left / (rate * (1 - spread)) if spread < 1 else None,
    }
