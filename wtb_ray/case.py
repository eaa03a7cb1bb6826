"""A test case: what a cell runs on, what it should come to, and what it says when it is asked."""

from typing import Any, Final

from pydantic import Field

from wtb_ray.frozen import Frozen

MOST_ANSWERS: Final = 1000
ANSWERS_KB: Final = 1024
"""Most that the answers of a case may take, as JSON."""


class Case(Frozen):
    """One test case of a batch."""

    id: str = Field(min_length=1, max_length=200)
    input: dict[str, Any]
    expected: Any = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    answers: tuple[Any, ...] = ()
    """To what its nodes ask: the n-th question on the way of an execution gets the n-th of them."""
