"""The object store as the rest of the package sees it: digests in, bytes out."""

import asyncio
import hashlib
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.utils import get_protocol

from wtb_ray import errors
from wtb_ray.objects.blobs import SMALL, Blob, Incoming, Stored, encoded, key_of
from wtb_ray.objects.guard import GUARD
from wtb_ray.objects.local import Local
from wtb_ray.objects.remote import Plain

Items = TypeVar("Items", Sequence[bytes], dict[str, bytes])
Done = TypeVar("Done")

DEADLINE_S = 120.0

_OFFLOAD = 64 << 10
"""From this size on hashing is slow enough to leave the event loop for it."""
_ROUND_BYTES, _ROUND_ITEMS = 16 << 20, 256
_WINDOW = 64
_PREFIX = re.compile(r"[0-9a-f]{0,64}")
SHARDS = tuple(f"{n:02x}" for n in range(256))
"""First bytes of digests, in order: work on all objects can be split and resumed by them."""


class ObjectStore:
    """Objects under one fsspec URL: `file:///path`, `memory://name`, `s3://bucket/prefix`, ...

    `deadline_s` bounds each request of at most 8 MiB to a remote store, retries included. An
    instance belongs to the event loop that it is first used in. All methods raise
    `ConfigurationError` (no such bucket, wrong credentials, no permission), `StorageFull` and
    `Unavailable`.
    """

    def __init__(self, url: str, *, deadline_s: float = DEADLINE_S, **storage_options: Any) -> None:
        self.url = url
        self._backend = _backend(url, storage_options, deadline_s)

    async def put(self, data: bytes) -> str:
        """Store `data` and return its digest; storing what is there already costs little."""
        return (await self._put([data]))[0]

    async def put_many(self, items: Iterable[bytes]) -> list[str]:
        """Store many, in few rounds; their digests in the same order."""
        digests: list[str] = []
        for some in _rounds(items):
            digests += await self._put(some)
        return digests

    async def put_file(self, path: Path) -> str:
        """Store a file of any size and return its digest.

        Raises:
            OSError: The file cannot be read.
            FilesRefused: It changes all the time while it is read.
        """
        return (await self.put_files([path]))[0][0]

    async def put_files(self, paths: Iterable[Path]) -> list[tuple[str, int]]:
        """Store files, the small ones in few rounds; digest and size of each in the same order.

        Raises:
            OSError: A file cannot be read.
            FilesRefused: One changes all the time while it is read.
        """
        stored: list[tuple[str, int]] = []
        reader = _reading(paths)
        while some := await asyncio.to_thread(next, reader, None):
            small = [data for data in some if isinstance(data, bytes)]
            digests = iter(await self._put(small) if small else ())
            for data in some:
                if isinstance(data, bytes):
                    stored.append((next(digests), len(data)))
                else:
                    stored.append(await self._upload(data))
        return stored

    async def mend(self, digest: str, path: Path) -> None:
        """Put a file in the place of an object that is damaged or missing.

        Raises:
            ObjectCorrupt: The file does not have this digest; nothing was replaced.
            OSError: It cannot be read.
        """
        if (found := await asyncio.to_thread(_digest_of, path)) == digest:
            self._backend.distrust(digest)
            found = await self.put_file(path)
        if found != digest:
            raise errors.ObjectCorrupt(
                f"{path} cannot replace object {digest}: it has the digest {found}",
                digest=digest,
                reason="other bytes",
            )

    async def get(self, digest: str) -> bytes:
        """The bytes of an object.

        Raises:
            UnknownObject: No such object is stored.
            ObjectCorrupt: The stored bytes are not those that were put.
        """
        incoming = Incoming(digest)
        await self._backend.fetch([incoming])
        return incoming.data

    async def get_many(self, digests: Iterable[str]) -> AsyncIterator[tuple[str, bytes]]:
        """Small objects, several on their way at a time; digest and bytes in the same order.

        Raises:
            UnknownObject: One is not stored.
            ObjectCorrupt: The stored bytes of one are not those that were put.
        """
        for some in _windows([Incoming(digest) for digest in digests]):
            await self._backend.fetch(some)
            for incoming in some:
                yield incoming.digest, incoming.data
                incoming.data = b""

    async def get_file(self, digest: str, target: Path, *, mode: int | None = None) -> None:
        """Write an object to `target`, which appears complete or not at all.

        Raises:
            UnknownObject: No such object is stored.
            ObjectCorrupt: The stored bytes are not those that were put.
            OSError: The target cannot be written (but for a lack of room: StorageFull).
        """
        await self.get_files([(digest, target, mode)])

    async def get_files(
        self, wanted: Iterable[tuple[str, Path, int | None]], *, durable: bool = False
    ) -> None:
        """Write objects to files: (digest, target, mode) each, with `durable` fsynced.

        Each target appears complete or not at all; directories are made but not fsynced.

        Raises:
            as `get_file`; some of the targets may have been written.
        """
        await self._backend.fetch(
            [Incoming(digest, target, mode, durable=durable) for digest, target, mode in wanted]
        )

    async def verify(self, digest: str) -> int:
        """Read an object and check its digest; gives its size. Memory does not grow with it.

        Raises:
            UnknownObject: No such object is stored.
            ObjectCorrupt: The stored bytes are not those that were put.
        """
        incoming = Incoming(digest, keep=False)
        await self._backend.fetch([incoming])
        return incoming.size

    async def secured(self, digests: Iterable[str], *, look: bool = True) -> list[str]:
        """Objects that the guard's work is to rely on without putting them; gives the missing ones.

        Args:
            digests: Which.
            look: Look at all of them: they were seen in another generation. If not, they were seen
                in this one, and only what a deletion under way may have chosen is looked at.

        Raises:
            Unavailable: They cannot be claimed.
        """
        guard, wanted = GUARD.get(), list(dict.fromkeys(digests))
        for digest in wanted:
            key_of(digest)
        careful = guard is not None and guard.careful
        if guard is not None and careful and wanted:
            await guard.claim(wanted)
        return await self._backend.missing(wanted) if wanted and (look or careful) else []

    async def exists(self, digest: str) -> bool:
        """Whether an object is stored under this digest."""
        key_of(digest)
        return await self._backend.size(digest) is not None

    async def listed(self, prefix: str = "") -> AsyncIterator[Stored]:
        """The objects whose digests begin with some hex digits, such as one of `SHARDS`.

        What is put or deleted meanwhile may be among them or not; what else lies there is not.
        """
        async for page in self.pages(prefix):
            for stored in page:
                yield stored

    async def pages(self, prefix: str = "") -> AsyncIterator[list[Stored]]:
        """What `listed` gives, many at a time."""
        if not _PREFIX.fullmatch(prefix):
            raise errors.InvalidRequest(
                f"{prefix!r} is no beginning of a SHA-256", field="prefix", reason="no hex digits"
            )
        async for page in self._backend.listed(prefix):
            yield page

    async def delete(self, digests: Iterable[str], *, within_s: float = math.inf) -> None:
        """Delete objects; those that are not there are no error.

        The caller knows that nobody needs them, and that nobody puts them meanwhile.

        Args:
            digests: Which.
            within_s: No deletion is begun later than this.

        Raises:
            Unavailable: The store does not answer, or it took too long; some may be deleted.
        """
        until = time.monotonic() + within_s
        wanted = list(digests)
        for digest in wanted:
            key_of(digest)
        await self._backend.delete(wanted, until)

    async def tidy(self, older_s: float) -> int:
        """Remove what was staged so many seconds ago and never became an object; gives how many.

        Parts of uploads to S3 are not listed: rules of the bucket expire them.
        """
        return await self._backend.tidy(older_s)

    async def now(self) -> float:
        """The time by the store's own clock, in seconds since 1970; it costs a small write."""
        return await self._backend.now()

    async def aclose(self) -> None:
        """Close the store's connections."""
        await self._backend.aclose()

    async def __aenter__(self) -> "ObjectStore":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def _put(self, items: Sequence[bytes]) -> list[str]:
        digests = await _offloaded(_digests, items)
        fresh = {
            digest: data
            for digest, data in zip(digests, items, strict=True)
            if not self._backend.holds(digest)
        }
        if fresh:
            await _claimed(fresh)
            await self._backend.write(await _offloaded(_blobs, fresh))
        return digests

    async def _upload(self, path: Path) -> tuple[str, int]:
        """Its digest is known at the end only, so that it is claimed behind the fact."""
        while True:
            digest, size = await self._backend.upload(path)
            guard = GUARD.get()
            if guard is None or not guard.careful:
                return digest, size
            await guard.claim([digest])
            if not await self._backend.missing([digest]):
                return digest, size


class _Backend(Protocol):
    async def size(self, digest: str) -> int | None:
        """The size of the stored form, None where there is none."""

    async def missing(self, digests: Sequence[str], /) -> list[str]:
        """Those that are not stored."""

    def distrust(self, digest: str) -> None:
        """What is stored there is damaged: the next one to store it replaces it."""

    async def write(self, blobs: Sequence[Blob]) -> None:
        """Store small objects durably."""

    async def upload(self, path: Path, /) -> tuple[str, int]:
        """Store a large file; its digest and size."""

    async def fetch(self, wanted: Sequence[Incoming]) -> None:
        """Give each its object."""

    def listed(self, prefix: str, /) -> AsyncIterator[list[Stored]]:
        """The objects whose digests begin with the prefix, in pages that are not empty."""

    async def delete(self, digests: Sequence[str], until: float, /) -> None:
        """Delete them, beginning no deletion after `until` of the monotonic clock."""

    async def tidy(self, older_s: float, /) -> int:
        """Remove what was staged so long ago."""

    async def now(self) -> float:
        """The store's time."""

    def holds(self, digest: str) -> bool:
        """Whether it is certain, without a look, that the object is stored."""

    async def aclose(self) -> None: ...


def _backend(url: str, options: dict[str, Any], deadline_s: float) -> _Backend:
    protocol = get_protocol(url)
    if protocol in ("file", "local"):
        path = unquote(urlsplit(url).path) if "://" in url else url
        return Local(Path(path).resolve())
    if protocol not in fsspec.available_protocols():
        raise errors.ConfigurationError(
            f"objects_url={url!r}: fsspec knows no protocol {protocol!r}", setting="objects_url"
        )
    if protocol in ("s3", "s3a"):
        from wtb_ray.objects.s3 import S3  # noqa: PLC0415  # with s3fs it takes most of a start

        return S3(url, options, deadline_s)
    return Plain(url, options, deadline_s)


async def _claimed(digests: Collection[str]) -> None:
    guard = GUARD.get()
    if guard is not None and guard.careful:
        await guard.claim(digests)


async def _offloaded(work: Callable[[Items], Done], items: Items) -> Done:
    """In a thread where it would hold up the event loop."""
    data = items.values() if isinstance(items, dict) else items
    if sum(map(len, data)) < _OFFLOAD:
        return work(items)
    return await asyncio.to_thread(work, items)


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(items: Sequence[bytes]) -> list[str]:
    return [hashlib.sha256(data).hexdigest() for data in items]


def _blobs(items: dict[str, bytes]) -> list[Blob]:
    return [Blob(digest, encoded(data)) for digest, data in items.items()]


def _rounds(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Groups that fit into memory beside all else."""
    group: list[bytes] = []
    size = 0
    for data in items:
        if group and (size + len(data) > _ROUND_BYTES or len(group) == _ROUND_ITEMS):
            yield group
            group, size = [], 0
        group.append(data)
        size += len(data)
    if group:
        yield group


def _reading(paths: Iterable[Path]) -> Iterator[list[bytes | Path]]:
    """Groups of small files' contents, and of paths of files too large for that."""
    group: list[bytes | Path] = []
    size = 0
    for path in paths:
        with path.open("rb") as file:
            large = os.fstat(file.fileno()).st_size > SMALL
            data = b"" if large else file.read(SMALL + 1)
        item: bytes | Path = path if large or len(data) > SMALL else data
        length = 0 if item is path else len(data)
        if group and (size + length > _ROUND_BYTES or len(group) == _ROUND_ITEMS):
            yield group
            group, size = [], 0
        group.append(item)
        size += length
    if group:
        yield group


def _windows(items: list[Incoming]) -> Iterator[list[Incoming]]:
    for start in range(0, len(items), _WINDOW):
        yield items[start : start + _WINDOW]
