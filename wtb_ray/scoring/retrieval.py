"""Scorers of a ranked list: recall_at_k, mrr.

`field` is the dotted path of the state's list, best first (default `documents`); the expected value
is one relevant item or a list of them. `key` is the dotted path of the id within an item that is
an object. A case for which nothing is relevant is not scored: both formulas divide by it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from wtb_ray.model import Score
from wtb_ray.scoring.base import CellOutcome, scorer
from wtb_ray.scoring.fields import MISSING, Judge, at, compare, shown

Depth = Annotated[int, Field(ge=1)]


@scorer(metrics=["recall_at_{k}"])
async def recall_at_k(
    result: CellOutcome,
    *,
    k: Depth = 10,
    field: str = "documents",
    expected_field: str | None = None,
    key: str | None = None,
) -> Score:
    """|relevant items among the first k| / |relevant items|.

    An item that is listed twice counts once and takes two places.

    Range: 0 to 1. Source: Manning, Raghavan, Schuetze, Introduction to Information Retrieval, 8.4.
    """

    def measure(ranked: list[str], relevant: set[str]) -> float:
        return len(relevant.intersection(ranked[:k])) / len(relevant)

    return compare(f"recall_at_{k}", result, field, expected_field, _ranking(key, measure))


@scorer(metrics=["mrr"])
async def mrr(
    result: CellOutcome,
    *,
    k: Depth | None = None,
    field: str = "documents",
    expected_field: str | None = None,
    key: str | None = None,
) -> Score:
    """1 / the place of the first relevant item, 0 if there is none (among the first k, if given).

    Its mean over cases is the mean reciprocal rank.

    Range: 0 to 1. Source: Voorhees, The TREC-8 Question Answering Track Report, 1999.
    """

    def measure(ranked: list[str], relevant: set[str]) -> float:
        places = (place for place, item in enumerate(ranked[:k], 1) if item in relevant)
        return 1 / next(places, float("inf"))

    return compare("mrr", result, field, expected_field, _ranking(key, measure))


def _ranking(key: str | None, measure: Callable[[list[str], set[str]], float]) -> Judge:
    def judge(value: Any, expected: Any) -> tuple[float | None, str | None]:
        relevant, unnamed = _ids(expected if _is_list(expected) else [expected], key)
        if unnamed is not None:
            return None, f"the relevant item {shown(unnamed)} has no id: see key"
        if not relevant:
            return None, "nothing is relevant"
        if not _is_list(value):
            return 0.0, f"{shown(value)} is no list"
        ranked, unnamed = _ids(value, key)
        if unnamed is not None:
            return 0.0, f"the item {shown(unnamed)} has no id: see key"
        return measure(ranked, set(relevant)), None

    return judge


def _ids(items: Sequence[Any], key: str | None) -> tuple[list[str], Any]:
    """The ids of the items as text, and the first item that has none."""
    found: list[str] = []
    for item in items:
        scalar = item if key is None or isinstance(item, str | int) else at(item, key)
        if scalar is MISSING or not isinstance(scalar, str | int):
            return found, item
        found.append(str(scalar))
    return found, None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | Mapping)
