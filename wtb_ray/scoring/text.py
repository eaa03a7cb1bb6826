"""Scorers of one value: exact, includes, regex, numeric, token_f1.

All take `field`, the dotted path of the state's value (default `answer`), and `expected_field`, that
of the expected one (see `scoring.fields`). A list of expected texts holds alternatives: the best
counts.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, SupportsFloat, TypeGuard

from pydantic import AfterValidator, Field

from wtb_ray.model import Score
from wtb_ray.scoring.base import CellOutcome, scorer
from wtb_ray.scoring.fields import compare, shown

NUMBER: Final = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as e:
        raise ValueError(f"no regular expression: {e}") from e
    return text


Tolerance = Annotated[float, Field(ge=0)]
Pattern = Annotated[str, AfterValidator(_pattern)]


@scorer(metrics=["exact"])
async def exact(
    result: CellOutcome,
    *,
    field: str = "answer",
    expected_field: str | None = None,
    ignore_case: bool = False,
    strip: bool = True,
) -> Score:
    """1 if the value equals the expected one, else 0.

    Equal is what JSON calls equal: 1 is 1.0 but not true. `strip` and `ignore_case` apply where
    both are texts.

    Range: 0 or 1. Source: exact match of SQuAD (Rajpurkar et al. 2016) without its normalisation.
    """

    def form(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        value = value.strip() if strip else value
        return value.casefold() if ignore_case else value

    def judge(value: Any, expected: Any) -> tuple[float, str | None]:
        if any(_equal(form(value), form(option)) for option in _options(value, expected)):
            return 1.0, None
        return 0.0, f"{shown(value)} is not {shown(expected)}"

    return compare("exact", result, field, expected_field, judge)


@scorer(metrics=["includes"])
async def includes(
    result: CellOutcome,
    *,
    field: str = "answer",
    expected_field: str | None = None,
    ignore_case: bool = True,
    match: Literal["any", "all"] = "any",
) -> Score:
    """1 if the text contains the expected text, or the list the expected item, else 0.

    Of several expected ones any must be there, or with `match="all"` each.

    Range: 0 or 1. Source: `includes` of Inspect AI.
    """

    def form(value: Any) -> Any:
        return value.casefold() if ignore_case and isinstance(value, str) else value

    def there(value: Any, option: Any) -> bool:
        if isinstance(value, str):
            return form(option if isinstance(option, str) else str(option)) in form(value)
        return any(_equal(form(item), form(option)) for item in value)

    def judge(value: Any, expected: Any) -> tuple[float, str | None]:
        if not _is_list(value) and not isinstance(value, str):
            return 0.0, f"{shown(value)} is neither a text nor a list"
        options = _many(expected)
        missing = [option for option in options if not there(value, option)]
        if not missing or (match == "any" and len(missing) < len(options)):
            return 1.0, None
        return 0.0, f"not in it: {shown(missing)}"

    return compare("includes", result, field, expected_field, judge)


@scorer(metrics=["regex"])
async def regex(
    result: CellOutcome,
    *,
    field: str = "answer",
    expected_field: str | None = None,
    pattern: Pattern | None = None,
    ignore_case: bool = False,
    full: bool = False,
) -> Score:
    """1 if the pattern is found in the text (`full`: matches all of it), else 0.

    The pattern, in Python's syntax, is the argument `pattern`, else the expected value.

    Range: 0 or 1. Source: Python's `re.search` and `re.fullmatch`.
    """

    def judge(value: Any, expected: Any) -> tuple[float, str | None]:
        if not isinstance(value, str):
            return 0.0, f"{shown(value)} is no text"
        compiled = [re.compile(one, re.IGNORECASE * ignore_case) for one in _texts(expected)]
        if any(one.fullmatch(value) if full else one.search(value) for one in compiled):
            return 1.0, None
        return 0.0, f"{shown(value)} does not match {shown(expected)}"

    return compare("regex", result, field, expected_field, judge, pattern)


@scorer(metrics=["numeric"])
async def numeric(
    result: CellOutcome,
    *,
    field: str = "answer",
    expected_field: str | None = None,
    absolute: Tolerance = 1e-9,
    relative: Tolerance = 1e-9,
    extract: bool = False,
) -> Score:
    """1 if |value - expected| <= max(absolute, relative * |expected|), else 0.

    Both may be numbers or texts that are a number, with commas between thousands; with `extract`
    the last number in the state's text is taken.

    Range: 0 or 1. Source: tolerances as in `numpy.isclose`, the larger instead of the sum;
    the last number as in GSM8K's scoring (Cobbe et al. 2021).
    """

    def judge(value: Any, expected: Any) -> tuple[float | None, str | None]:
        right = [number for one in _many(expected) if (number := _number(one, False)) is not None]
        found = _number(value, extract)
        if not right:
            return None, f"{shown(expected)}, which the case expects, is no number"
        if found is None:
            return 0.0, f"{shown(value)} is no number"
        if any(abs(found - one) <= max(absolute, relative * abs(one)) for one in right):
            return 1.0, None
        return 0.0, f"{found:g} is not {shown(expected)}"

    return compare("numeric", result, field, expected_field, judge)


@scorer(metrics=["token_f1"])
async def token_f1(
    result: CellOutcome, *, field: str = "answer", expected_field: str | None = None
) -> Score:
    """F1 of the words that the text and the expected one share: 2PR / (P + R).

    P and R are the shared words over the words of the text and of the expected one, counted as
    multisets, after lower-casing and without punctuation and the articles a, an, the. If either
    has no words the score is 1 when both have none, else 0.

    Range: 0 to 1. Source: evaluation script of SQuAD 2.0 (Rajpurkar et al. 2018).
    """

    def judge(value: Any, expected: Any) -> tuple[float, str | None]:
        if not isinstance(value, str):
            return 0.0, f"{shown(value)} is no text"
        return max((_f1(words(value), words(one)) for one in _texts(expected)), default=0.0), None

    return compare("token_f1", result, field, expected_field, judge)


def words(text: str) -> list[str]:
    """The words of a text by SQuAD's normalisation."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def _f1(found: list[str], expected: list[str]) -> float:
    if not found or not expected:
        return float(found == expected)
    shared = (Counter(found) & Counter(expected)).total()
    return 2 * shared / (len(found) + len(expected))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool) and a == b
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if _is_list(a) and _is_list(b):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def _number(value: Any, extract: bool) -> float | None:
    if isinstance(value, str):
        match = NUMBER.findall(value)[-1:] if extract else [value.strip()]
        if not match or not NUMBER.fullmatch(match[0]):
            return None
        return float(match[0].replace(",", ""))
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _options(value: Any, expected: Any) -> Sequence[Any]:
    """What may be expected of the value: a list's items, unless a list itself is expected."""
    return [expected] if _is_list(value) else _many(expected)


def _many(expected: Any) -> Sequence[Any]:
    return expected if _is_list(expected) else [expected]


def _texts(expected: Any) -> list[str]:
    return [one if isinstance(one, str) else str(one) for one in _many(expected)]


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
