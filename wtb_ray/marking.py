"""Which objects can be reached from the digests that rows and leases name.

Each directory object is read once, however many trees share it. Memory grows by eight bytes an
object and sixteen a directory: a digest is taken for reached if one that begins with the same eight
bytes is, which can only keep more. Reads only, and never what other work remembers.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wtb_ray import errors, manifests
from wtb_ray.manifests import EMPTY
from wtb_ray.objects import ObjectStore

SIZE: Final = 32
"""Bytes of a digest."""
_WAITING: Final = 1 << 20
"""Digests that wait, unsorted, to be added; repeated ones cost memory until then."""
_READ: Final = 256
"""Directory objects that are held at a time."""


class Reached:
    """Digests by their first eight bytes."""

    def __init__(self) -> None:
        self._sorted: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._waiting: list[NDArray[np.uint64]] = []
        self._count = 0

    def add(self, raw: bytes) -> None:
        """Adds digests, one behind the other."""
        if raw:
            self._waiting.append(_prefixes(raw))
            self._count += len(raw) // SIZE
            if self._count >= _WAITING:
                self._settle()

    def among(self, raw: bytes) -> NDArray[np.bool_]:
        """Which of these digests are there."""
        self._settle()
        wanted = _prefixes(raw)
        if not self._sorted.size:
            return np.zeros(wanted.size, np.bool_)
        places = np.searchsorted(self._sorted, wanted)
        places[places == self._sorted.size] = 0
        return np.asarray(self._sorted[places] == wanted)

    def __len__(self) -> int:
        self._settle()
        return int(self._sorted.size)

    def _settle(self) -> None:
        if self._waiting:
            self._sorted = np.sort(np.concatenate([self._sorted, *self._waiting]))
            self._sorted = self._sorted[_first_of_equal(self._sorted)]
            self._waiting, self._count = [], 0


class Marker:
    """Walks from roots to all that they reach."""

    def __init__(self, objects: ObjectStore) -> None:
        self.reached = Reached()
        self.damaged: dict[str, str] = {}
        """Directory objects that could not be read, with the reason: what they name is unknown."""
        self._objects = objects
        self._walked: NDArray[np.bytes_] = _heads(bytes.fromhex(EMPTY))

    async def mark(self, roots: bytes, trees: bytes, *, strict: bool = True) -> None:
        """Adds single objects, and trees with all that is in them; digests, one behind the other.

        Args:
            roots: Objects that are no directories.
            trees: Manifests.
            strict: Note what cannot be read; if not, nobody promised that it is there.

        Raises:
            Unavailable: The object store does not answer.
        """
        self.reached.add(roots)
        level = trees
        while level:
            self.reached.add(level)
            fresh = self._unwalked(level)
            below = bytearray()
            for start in range(0, len(fresh), _READ):
                for files, directories in await self._read(fresh[start : start + _READ], strict):
                    self.reached.add(files)
                    below += directories
                    if len(below) > _WAITING * SIZE:
                        below = bytearray(_distinct(below))
            level = bytes(below)

    def _unwalked(self, raw: bytes) -> list[str]:
        """Those directories that were not walked yet, which they are from now on."""
        distinct = _distinct(raw)
        heads = _heads(distinct)
        places = np.searchsorted(self._walked, heads)
        places[places == self._walked.size] = 0
        fresh = np.asarray(self._walked[places] != heads)
        self._walked = np.sort(np.concatenate([self._walked, heads[fresh]]))
        return [distinct[i * SIZE : (i + 1) * SIZE].hex() for i in np.flatnonzero(fresh).tolist()]

    async def _read(self, digests: Sequence[str], strict: bool) -> list[tuple[bytes, bytes]]:
        try:
            found = [item async for item in self._objects.get_many(digests)]
            return await asyncio.to_thread(lambda: [_below(*item) for item in found])
        except (errors.UnknownObject, errors.ObjectCorrupt):
            return [await self._read_one(digest, strict) for digest in digests]

    async def _read_one(self, digest: str, strict: bool) -> tuple[bytes, bytes]:
        try:
            return _below(digest, await self._objects.get(digest))
        except (errors.UnknownObject, errors.ObjectCorrupt) as e:
            if strict:
                self.damaged[digest] = e.message
            unread = _heads(bytes.fromhex(digest))[0]
            self._walked = self._walked[self._walked != unread]  # it may be stored yet
            return b"", b""


def _below(digest: str, data: bytes) -> tuple[bytes, bytes]:
    """The files and the directories that a directory object names."""
    listing = manifests.decoded(digest, data)
    try:
        files = bytes.fromhex("".join(e.value for e in listing if e.kind == "file"))
        directories = bytes.fromhex("".join(e.value for e in listing if e.kind == "dir"))
    except ValueError as e:
        raise _no_digests(digest) from e
    if any(len(e.value) != 2 * SIZE for e in listing if e.kind != "link"):
        raise _no_digests(digest)
    return files, directories


def _no_digests(digest: str) -> errors.ObjectCorrupt:
    return errors.ObjectCorrupt(
        f"object {digest} is not a directory: it names what is no digest",
        digest=digest,
        reason="not a directory",
    )


def _prefixes(raw: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(raw, ">u8").reshape(-1, SIZE // 8)[:, 0].astype(np.uint64)


def _heads(raw: bytes | bytearray) -> NDArray[np.bytes_]:
    return np.ascontiguousarray(np.frombuffer(raw, "S16").reshape(-1, SIZE // 16)[:, 0])


def _distinct(raw: bytes | bytearray) -> bytes:
    """Each digest once, in order."""
    digests = np.sort(np.frombuffer(raw, "S32"))
    return digests[_first_of_equal(digests)].tobytes()


def _first_of_equal(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of sorted values differ from the one before."""
    first = np.ones(values.size, np.bool_)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return first
