"""What things cost, and the most that a batch may spend."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field

from wtb_ray.frozen import Frozen


class Cost(Frozen):
    """What something took: runs of nodes, their time, and what they said that they used."""

    node_runs: int = 0
    duration_ms: float = 0.0
    usage: dict[str, float] = Field(default_factory=dict)
    """Sums of what nodes said by `wtb_ray.usage`, by key."""


def tokens_of(usage: Mapping[str, float]) -> float:
    """`tokens`; where a node said none, its `input_tokens` and `output_tokens`."""
    if "tokens" in usage:
        return usage["tokens"]
    return usage.get("input_tokens", 0.0) + usage.get("output_tokens", 0.0)


class Budget(Frozen):
    """The most that a batch may use; None is no limit.

    When one of them is used up, no further cell begins, and what runs goes on to its end.
    """

    cells: int | None = Field(default=None, gt=0)
    """Cells that have begun."""
    node_runs: int | None = Field(default=None, gt=0)
    """Runs of nodes; a shared one counts once, and so does all that follows."""
    tokens: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """What nodes said by `wtb_ray.usage` as `tokens`, or else as `input_tokens` and `output_tokens`."""
    cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """What they said as `cost`, in whatever currency that is."""
    wall_time_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds in which it was RUNNING."""


BudgetName = Literal["cells", "node_runs", "tokens", "cost", "wall_time_s"]


class Exceeded(NamedTuple):
    """A budget that is used up."""

    budget: str
    limit: float
    spent: float


def exceeded(budget: Budget, used: Mapping[BudgetName, float]) -> Exceeded | None:
    """The first of the budgets of which as much is used as there is."""
    for name, spent in used.items():
        limit = getattr(budget, name)
        if limit is not None and spent >= limit:
            return Exceeded(name, limit, spent)
    return None
