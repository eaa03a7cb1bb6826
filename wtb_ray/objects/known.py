"""Digests of which this process knows something, the last used ones."""

from collections import OrderedDict

_MOST = 32_768


class Known:
    """A bounded set; what is known may hold in one generation of the store only."""

    def __init__(self) -> None:
        self._digests: OrderedDict[str, int | None] = OrderedDict()

    def __contains__(self, digest: str) -> bool:
        return digest in self._digests

    def holds(self, digest: str, generation: int | None) -> bool:
        """Whether it was added in this generation."""
        return digest in self._digests and self._digests[digest] == generation

    def add(self, digest: str, generation: int | None = None) -> None:
        self._digests[digest] = generation
        self._digests.move_to_end(digest)
        while len(self._digests) > _MOST:
            self._digests.popitem(last=False)

    def discard(self, digest: str) -> None:
        self._digests.pop(digest, None)
