"""Executions, branches and LangGraph's rows: does everything that is named exist, and is it ours?"""

from typing import Final

from wtb_ray.db import queries
from wtb_ray.integrity.checking import Check, Walk, of_rows

SQL: Final = queries("checks_lineage")

EXECUTIONS: Final = Walk("executions", "id")
BRANCHES: Final = Walk("branches", "thread_id")
STEPS: Final = Walk("steps", "thread_id")
CHECKPOINTS: Final = Walk("checkpoints", "thread_id")

CHECKS: Final[tuple[Check, ...]] = (
    *of_rows(SQL, EXECUTIONS, "branch_missing", "head_missing", "fork_source_missing"),
    *of_rows(SQL, BRANCHES, "lineage_cycle", "parent_missing"),
    *of_rows(SQL, STEPS, "step_without_checkpoint", "step_holes"),
    *of_rows(
        SQL,
        CHECKPOINTS,
        "branch_missing__threads",
        "checkpoint_without_step",
        "blobs_missing",
        "orphan_checkpoint",
    ),
    *of_rows(SQL, Walk("checkpoint_blobs", "thread_id"), "orphan_checkpoint__blobs"),
    *of_rows(SQL, Walk("checkpoint_writes", "thread_id"), "orphan_checkpoint__writes"),
    *of_rows(SQL, Walk("answers", "thread_id"), "answer_dangling"),
    *of_rows(SQL, Walk("restore_points", "thread_id"), "point_dangling"),
)
