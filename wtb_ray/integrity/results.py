"""Batches, cells and scores: does every cell say what its execution does, and is it counted?"""

from typing import Final

from wtb_ray.db import queries
from wtb_ray.integrity.checking import Check, Walk, of_rows

SQL: Final = queries("checks_results")
CELLS: Final = Walk("cells", "id", -1)
BATCHES: Final = Walk("batches", "id")

CHECKS: Final[tuple[Check, ...]] = (
    *of_rows(
        SQL,
        CELLS,
        "open_cell_adrift",
        "ended_cell_adrift",
        "cell_mismatch",
        "scores_missing",
        "case_missing__cells",
        "scoring_stuck",
    ),
    *of_rows(SQL, Walk("scores", "cell_id", -1), "scores_foreign"),
    *of_rows(
        SQL,
        BATCHES,
        "batch_counts",
        "batch_ended_early",
        "cells_left_waiting",
        "part_outdated",
        "batch_not_closed",
    ),
)
