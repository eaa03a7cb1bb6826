"""Scorers as a project has them, found by import path."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from wtb_ray.model import Score
from wtb_ray.scoring import CellOutcome, scorer

if TYPE_CHECKING:
    from decimal import Decimal


@scorer(metrics=["length"])
async def length(result: CellOutcome, *, field: str, scale: float = 1.0) -> float:
    return len(result.state[field]) * scale


@scorer(metrics=["precision_at_{k}", "recall_at_{k}"])
async def both(result: CellOutcome, *, k: Annotated[int, Field(ge=1)] = 3) -> dict[str, float]:
    return {f"precision_at_{k}": 0.5, f"recall_at_{k}": 1.0}


@scorer(metrics=["given"])
async def given(result: CellOutcome) -> Any:
    """Gives whatever the state holds."""
    return result.state["give"]


@scorer(metrics=["a", "b"])
async def pair(result: CellOutcome) -> Any:
    return result.state["give"]


@scorer(metrics=["explained"])
async def explained(result: CellOutcome) -> Score:
    return Score(metric="explained", value=1.0, explanation="nul \x00 and surrogate \ud800")


@scorer(metrics=["open"])
async def open_ended(
    result: CellOutcome, *, price: "Decimal | None" = None, count: "int" = 1, **more: Any
) -> bool:
    return bool(more)


async def bare(result: CellOutcome) -> float:
    return 1.0


@scorer(metrics=["leaving"])
async def leaving(result: CellOutcome, how: str) -> float:
    """Raises what is no `Exception`, or never ends."""
    if how == "SystemExit":
        raise SystemExit(3)
    waiting = asyncio.ensure_future(asyncio.sleep(60))
    if how == "CancelledError":
        waiting.cancel()
    await waiting
    return 0.0
