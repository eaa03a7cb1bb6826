"""What happens to batches and their cells."""

from typing import Literal

from wtb_ray.events.base import Event
from wtb_ray.model import Budget, Fault


class BatchCreated(Event):
    type: Literal["batch.created"] = "batch.created"
    version: str
    variants: list[str]
    cases: int
    cells: int


class BatchStarted(Event):
    type: Literal["batch.started"] = "batch.started"


class BatchPaused(Event):
    type: Literal["batch.paused"] = "batch.paused"


class BatchResumed(Event):
    type: Literal["batch.resumed"] = "batch.resumed"


class BatchCompleted(Event):
    type: Literal["batch.completed"] = "batch.completed"
    counts: dict[str, int]


class BudgetExceeded(Event):
    type: Literal["batch.budget_exceeded"] = "batch.budget_exceeded"
    budget: str
    """Which of them: a field of `Budget`."""
    limit: float
    spent: float
    excluded: int
    """Cells that will not run."""


class BudgetChanged(Event):
    type: Literal["batch.budget_changed"] = "batch.budget_changed"
    before: Budget
    after: Budget


class BatchRerun(Event):
    type: Literal["batch.rerun"] = "batch.rerun"
    cells: int
    reopened: bool


class BatchExtended(Event):
    type: Literal["batch.extended"] = "batch.extended"
    variants: list[str]
    """Names of those that are new."""
    cases: int
    """How many are new."""
    repetitions: int
    """How many there are now."""
    cells: int
    """How many are new."""
    reopened: bool


class BatchFailed(Event):
    type: Literal["batch.failed"] = "batch.failed"
    reason: str


class BatchCancelled(Event):
    type: Literal["batch.cancelled"] = "batch.cancelled"
    reason: str | None = None


class VariantStopped(Event):
    type: Literal["batch.variant_stopped"] = "batch.variant_stopped"
    variant: str
    cells: int
    """Those that had not ended."""
    reason: str | None = None


class CellScored(Event):
    type: Literal["cell.scored"] = "cell.scored"
    cell: int
    variant: str
    case: str
    repetition: int
    scores: dict[str, float | None]


class CellFailed(Event):
    type: Literal["cell.failed"] = "cell.failed"
    cell: int
    variant: str
    case: str
    repetition: int
    error: Fault
    shared_failure: bool = False
    """Whether the execution that failed was shared with other cells, which failed with it."""


class LeaderboardComputed(Event):
    type: Literal["leaderboard.computed"] = "leaderboard.computed"
    digest: str
