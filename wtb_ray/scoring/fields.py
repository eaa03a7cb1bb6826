"""How built-in scorers find the value to judge and the value it should have.

A path is dotted: each part is a key of a mapping, an index of a list (`-1` is the last), or an
attribute. A state without the field scores 0; a case without an expected value is not scored, for
that is no fault of the variant.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from wtb_ray.model import Score
from wtb_ray.scoring.base import CellOutcome

MISSING: Final = object()

Judge = Callable[[Any, Any], tuple[float | None, str | None]]
"""From the value found and the value expected to a score and, where it helps, its reason."""


def compare(
    metric: str,
    result: CellOutcome,
    field: str,
    expected_field: str | None,
    judge: Judge,
    given: Any = None,
    *,
    objects: bool = False,
) -> Score:
    """The judge's score, or the one for what is missing.

    The expected value is `given`; without it the entry `expected_field` of the case's `expected`;
    without that name the entry `field`, if there is one, else `expected` itself: which is taken for
    a mistake if it is an object and the state's value is none, unless `objects` says otherwise.
    """
    value, reason = at(result.state, field), None
    if given is None:
        whole = objects or value is MISSING or isinstance(value, Mapping)
        given, reason = _expected(result, field, expected_field, whole=whole)
    if given is MISSING:
        return Score(metric=metric, value=None, explanation=reason)
    if value is MISSING:
        return Score(metric=metric, value=0.0, explanation=f"state has no field {field!r}")
    number, explanation = judge(value, given)
    return Score(metric=metric, value=number, explanation=explanation)


def at(value: Any, path: str) -> Any:
    """What a dotted path leads to, or MISSING."""
    if isinstance(value, Mapping) and path in value:
        return value[path]
    for part in path.split("."):
        value = _entry(value, part)
        if value is MISSING:
            break
    return value


def _entry(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(part, MISSING)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        try:
            return value[int(part)]
        except (ValueError, IndexError):
            return MISSING
    return MISSING if part.startswith("_") else getattr(value, part, MISSING)


def _expected(
    result: CellOutcome, field: str, expected_field: str | None, *, whole: bool
) -> tuple[Any, str | None]:
    expected = result.case.expected
    if expected is None:
        return MISSING, f"case {result.case.id!r} expects nothing"
    name = expected_field or field
    found = at(expected, name) if isinstance(expected, Mapping) else MISSING
    if found is not MISSING:
        return found, None
    if expected_field is None and (whole or not isinstance(expected, Mapping)):
        return expected, None
    return MISSING, f"what case {result.case.id!r} expects has no {name!r}: see expected_field"


def plain(value: Any) -> Any:
    """The value as JSON has it: tuples are lists, models and dataclasses are objects.

    Raises:
        TypeError: The value has no JSON form.
    """
    return orjson.loads(orjson.dumps(value, default=_model))


def _model(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return dump(mode="json")


def shown(value: Any, limit: int = 200) -> str:
    """The value for an explanation, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
