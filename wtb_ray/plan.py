"""The matrix of a batch as cells, the names of its variants, and when work is tried again.

Pure: no clock, no I/O, no chance but a seeded one. The count is known, and refused, before the
first cell is made.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Final, NamedTuple

from wtb_ray import errors
from wtb_ray.bindings import NAME

SEED: Final = 20_240_411
"""Of the order of cases; fixed, so that a batch is planned the same way wherever it is planned."""
FIRST_DELAY_S: Final = 0.25
LONGEST_DELAY_S: Final = 30.0


class Sides(NamedTuple):
    """How large a matrix is."""

    variants: int
    cases: int
    repetitions: int


FIELDS: Final = ("variant_matrix", "test_cases", "repetitions")
"""What a request calls them."""


class PlannedCell(NamedTuple):
    """A cell to be made; `variant` and `case_ordinal` are places in the batch's lists, from 0."""

    ordinal: int
    variant: int
    case_ordinal: int
    repetition: int


def expand(
    bindings: Sequence[Mapping[str, str]], cases: Sized, repetitions: int, max_cells: int
) -> tuple[list[str], Iterator[PlannedCell]]:
    """The variants' names, and the cells one by one in the order of work.

    That order is case, repetition, variant, so that the variants of a case run near each other in
    time; cases come in one random order, the same for all variants, so that a batch that was
    stopped has a fair sample of them.

    Raises:
        EmptyMatrix: There is no variant, case or repetition.
        TooManyCells: There are more than `max_cells`; none is made.
        InvalidRequest: Two variants are the same or have the same name.
    """
    sides = Sides(len(bindings), len(cases), repetitions)
    for field, size in zip(FIELDS, sides, strict=True):
        if size < 1:
            reason = f"is {size}" if field == "repetitions" else "is empty"
            raise errors.EmptyMatrix(
                f"a batch needs at least one variant, one case and one repetition; {field} {reason}",
                field=field,
                reason=reason,
            )
    _check_size(sides, max_cells, FIELDS)
    return variant_names(bindings), _cells(sides)


def added(had: Sides, wanted: Sides, ordinal: int, max_cells: int) -> Iterator[PlannedCell]:
    """The cells that a batch has not which grows to these sides, with ordinals from `ordinal` on.

    Raises:
        TooManyCells: The whole batch would have more than `max_cells`; none is made.
    """
    _check_size(wanted, max_cells, ("variants", "cases", "repetitions"))
    fresh = (
        cell
        for cell in _cells(wanted)
        if cell.variant >= had.variants
        or cell.case_ordinal >= had.cases
        or cell.repetition >= had.repetitions
    )
    return (cell._replace(ordinal=place) for place, cell in enumerate(fresh, ordinal))


def _check_size(sides: Sides, max_cells: int, fields: Sequence[str]) -> None:
    count = math.prod(sides)
    if count > max_cells:
        raise errors.TooManyCells(
            f"{sides.variants:,} variants x {sides.cases:,} cases x {sides.repetitions:,} repetitions"
            f" are {count:,} cells; the limit is {max_cells:,} (WTB_MAX_CELLS)",
            field=fields[sides.index(max(sides))],
            reason=f"{count} cells, {max_cells} allowed",
            count=count,
            limit=max_cells,
        )


def _cells(sides: Sides) -> Iterator[PlannedCell]:
    order = list(range(sides.cases))
    random.Random(SEED).shuffle(order)  # noqa: S311  an order, no secret
    ordinal = 0
    for case in order:
        for repetition in range(sides.repetitions):
            for variant in range(sides.variants):
                yield PlannedCell(ordinal, variant, case, repetition)
                ordinal += 1


def variant_names(bindings: Sequence[Mapping[str, str]], field: str = FIELDS[0]) -> list[str]:
    """A readable, unique name for each binding: its `_name`, else what it binds.

    Equal bindings are refused unless `_name` tells them apart, as in a test of a variant against
    itself.

    Raises:
        InvalidRequest: Two bindings are the same or have the same name, or a name is blank.
    """
    names: dict[str, int] = {}
    unnamed: dict[frozenset[tuple[str, str]], int] = {}
    for i, binding in enumerate(bindings):
        entries = frozenset(binding.items())
        if NAME not in binding and (first := unnamed.setdefault(entries, i)) != i:
            _refuse(field, i, f"is the same as {field}.{first}; give one a '{NAME}'")
        name = _name(field, i, binding)
        if (first := names.setdefault(name, i)) != i:
            _refuse(field, i, f"has the name {name!r} of {field}.{first} too")
    return list(names)


def _name(field: str, i: int, binding: Mapping[str, str]) -> str:
    if NAME in binding:
        name = binding[NAME].strip()
        if not name or len(name) > 200 or not name.isprintable():
            _refuse(field, i, f"'{NAME}' is up to 200 printable characters")
        return name
    parts = [f"{key.removeprefix('_')}={value}" for key, value in binding.items()]
    return ", ".join(parts) or "default"


def _refuse(field: str, i: int, reason: str) -> None:
    raise errors.InvalidRequest(f"{field}.{i} {reason}", field=f"{field}.{i}", reason=reason)


WAIT_S: Final = 10.0
"""How long an execution that asks for resources which no host has waits until it asks again."""


FIRST_OVERLOAD_DELAY_S: Final = 1.0
LONGEST_OVERLOAD_DELAY_S: Final = 60.0


def overload_delay(attempt: int, retry_after_s: float | None, chance: float) -> float:
    """Seconds to wait after the `attempt`-th answer that somebody is overloaded.

    Doubling, up to a limit, and spread at random, so that not all come back together; never shorter
    than what was asked for.

    Args:
        attempt: Counts from 1.
        retry_after_s: What was asked for, if anything.
        chance: From 0 to 1, at random.
    """
    doubled = FIRST_OVERLOAD_DELAY_S * 2.0 ** min(max(attempt, 1) - 1, 32)
    spread = min(LONGEST_OVERLOAD_DELAY_S, doubled) * (0.5 + chance / 2)
    return spread if retry_after_s is None else retry_after_s + spread / 2


def retry_delay(attempt: int) -> float:
    """Seconds to wait after the `attempt`-th infrastructure error: doubling, up to a limit."""
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(max(attempt, 1) - 1, 32))
