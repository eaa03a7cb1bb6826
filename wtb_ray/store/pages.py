"""Cursors of lists: where the next page of a list begins, as opaque text."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString, TypeVar

from psycopg.rows import DictRow

from wtb_ray import errors
from wtb_ray.api import Page

Item = TypeVar("Item")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


def page(
    rows: Sequence[DictRow],
    limit: int,
    make: Callable[[DictRow], Item],
    token: Callable[[DictRow], str],
) -> Page[Item]:
    """A page of `limit` items from rows that were read with a limit one higher."""
    kept = rows[:limit]
    more = len(rows) > limit
    return Page(items=[make(row) for row in kept], next=token(kept[-1]) if more else None)


def newest_token(row: DictRow) -> str:
    """The cursor of a list that is ordered by `created_at` and id, newest first."""
    return f"{(row['created_at'] - EPOCH) // MICROSECOND}.{row['id']}"


def newest_after(after: str | None) -> dict[str, Any]:
    """The parameters `at` and `last` of such a cursor; none for the first page.

    Raises:
        InvalidRequest: The text is no cursor.
    """
    if after is None:
        return {}
    micros, dot, last = after.partition(".")
    if not (dot and last and micros.isdecimal() and len(micros) < 18):
        raise bad_cursor(after)
    return {"at": EPOCH + int(micros) * MICROSECOND, "last": last}


def number_after(after: str | None) -> int:
    """The number that a cursor of a numbered list holds; -1 for the first page.

    Raises:
        InvalidRequest: The text is no cursor.
    """
    if after is None:
        return -1
    if not (after.isdecimal() and len(after) < 10):
        raise bad_cursor(after)
    return int(after)


def bad_cursor(after: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(
        f"after={after!r} is not a cursor of this list",
        field="after",
        reason="take it from `next` of the page before",
    )


def where(*conditions: LiteralString | None) -> LiteralString:
    """A WHERE clause of the conditions that are asked for, or nothing."""
    asked = [c for c in conditions if c is not None]
    return " WHERE " + " AND ".join(asked) + " " if asked else " "
