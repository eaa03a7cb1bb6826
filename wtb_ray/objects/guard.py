"""What whoever relies on stored objects agrees on with whoever deletes them.

Work that puts objects in order to name them in a row is done within a `Guard`, the one of the
context that it runs in. Nothing that was seen to be stored within a generation is deleted while a
guard of that generation stands, but for what a deletion under way has chosen before: so that is
claimed first. What was seen in another generation has to be looked at again.
"""

from collections.abc import Collection
from contextvars import ContextVar
from typing import Final, Protocol


class Guard(Protocol):
    """Protects what is put and found while it stands."""

    @property
    def generation(self) -> int:
        """How often objects may have been deleted before it stood."""

    @property
    def careful(self) -> bool:
        """Whether a deletion may be under way that does not wait for it."""

    async def claim(self, digests: Collection[str]) -> None:
        """After this, nothing under way deletes these; what it has deleted is gone.

        Raises:
            Unavailable: It cannot be had.
        """

    async def protect(self, manifests: Collection[str]) -> str:
        """Protects trees beyond the end of this process, for days; gives what ends it.

        Raises:
            Unavailable: It cannot be had.
        """

    async def unprotect(self, key: str) -> None:
        """Ends what `protect` has begun."""


GUARD: Final[ContextVar[Guard | None]] = ContextVar("wtb_guard", default=None)
"""That of the work at hand; without one, only their age protects objects that no row names."""


def generation() -> int | None:
    """That of the work at hand, None without a guard: what is known of one holds in no other."""
    guard = GUARD.get()
    return None if guard is None else guard.generation
