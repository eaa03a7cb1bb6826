"""Objects in a directory.

fsspec's local files are neither atomic nor fsynced, so these are our own: staged in `tmp/` of the
same file system, fsynced, renamed, and the directories fsynced, for many objects in one round.
"""

import asyncio
import errno
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from wtb_ray import errors
from wtb_ray.objects.blobs import (
    CHUNK,
    Blob,
    Incoming,
    Source,
    Stored,
    created,
    digest_of_key,
    key_of,
    no_room,
)
from wtb_ray.objects.known import Known
from wtb_ray.objects.waiting import bounded

_SYNCERS = 8
"""fsyncs at the same time share commits of the file system's journal."""
_READERS = 4
_DELETERS = 4
_READ_ROUND = 64
_PAGE = 4096
_MISPLACED = (PermissionError, NotADirectoryError, FileNotFoundError, IsADirectoryError)


class Local:
    """A directory as the place of objects."""

    def __init__(self, root: Path):
        self._root = root
        self._tmp = root / "tmp"
        self._durable = Known()
        self._damaged = Known()
        self._syncers = ThreadPoolExecutor(_SYNCERS, "wtb-fsync")

    async def size(self, digest: str) -> int | None:
        return await asyncio.to_thread(self._size, digest)

    async def missing(self, digests: Sequence[str]) -> list[str]:
        return await asyncio.to_thread(
            lambda: [digest for digest in digests if self._size(digest) is None]
        )

    def distrust(self, digest: str) -> None:
        self._damaged.add(digest)

    async def write(self, blobs: Sequence[Blob]) -> None:
        await asyncio.to_thread(self._write, blobs)

    async def upload(self, source: Path) -> tuple[str, int]:
        return await asyncio.to_thread(self._upload, source)

    async def fetch(self, wanted: Sequence[Incoming]) -> None:
        rounds = [wanted[i : i + _READ_ROUND] for i in range(0, len(wanted), _READ_ROUND)]
        await bounded(_READERS, rounds, lambda some: asyncio.to_thread(self._fetch, some))

    def holds(self, digest: str) -> bool:
        return False  # a look costs next to nothing and notices what was lost

    async def listed(self, prefix: str) -> AsyncIterator[list[Stored]]:
        pages = self._listed(prefix)
        while page := await asyncio.to_thread(next, pages, None):
            yield page

    async def delete(self, digests: Sequence[str], until: float) -> None:
        folders: dict[str, list[str]] = {}
        for digest in digests:
            self._durable.discard(digest)
            folders.setdefault(digest[:2], []).append(digest)
        # Not several in one directory, which one at a time may change.
        await bounded(
            _DELETERS,
            list(folders.values()),
            lambda some: asyncio.to_thread(self._delete, some, until),
        )

    async def tidy(self, older_s: float) -> int:
        return await asyncio.to_thread(self._tidy, older_s)

    async def now(self) -> float:
        return await asyncio.to_thread(self._now)

    async def aclose(self) -> None:
        self._syncers.shutdown(wait=False)

    def _listed(self, prefix: str) -> Iterator[list[Stored]]:
        page: list[Stored] = []
        for folder in sorted(self._scanned(f"{self._root}/blobs")):
            if not (folder.startswith(prefix[:2]) and len(folder) == 2):
                continue
            for name, found in self._scanned(f"{self._root}/blobs/{folder}", prefix[2:]).items():
                digest = digest_of_key(folder, name)
                if digest is not None and found is not None:
                    page.append(Stored(digest, found.st_size, found.st_mtime))
                if len(page) == _PAGE:
                    yield page
                    page = []
        if page:
            yield page

    def _scanned(self, folder: str, prefix: str | None = None) -> dict[str, os.stat_result | None]:
        """The names in a directory; with a prefix, those that begin with it and their records."""
        found: dict[str, os.stat_result | None] = {}
        with self._translated(writing=False), suppress(FileNotFoundError), os.scandir(folder) as it:
            for entry in it:
                if prefix is None:
                    found[entry.name] = None
                elif entry.name.startswith(prefix):
                    with suppress(FileNotFoundError):
                        found[entry.name] = entry.stat(follow_symlinks=False)
        return found

    def _delete(self, digests: Sequence[str], until: float) -> None:
        for digest in digests:
            if time.monotonic() > until:
                raise errors.Unavailable(
                    f"object store {self._root} deletes too slowly", reason="object_store"
                )
            with self._translated(writing=True), suppress(FileNotFoundError):
                os.unlink(self._path(digest))

    def _tidy(self, older_s: float) -> int:
        youngest, removed = self._now() - older_s, 0
        for name, found in self._scanned(str(self._tmp), "").items():
            if found is not None and found.st_mtime < youngest:
                with self._translated(writing=True), suppress(FileNotFoundError):
                    os.unlink(f"{self._tmp}/{name}")
                    removed += 1
        return removed

    def _now(self) -> float:
        path = f"{self._tmp}/{secrets.token_hex(8)}"
        with self._translated(writing=True):
            with created(path) as file:
                now = os.fstat(file.fileno()).st_mtime
            os.unlink(path)
        return now

    def _path(self, digest: str) -> str:
        return f"{self._root}/{key_of(digest)}"

    def _size(self, digest: str) -> int | None:
        with self._translated(writing=False):
            try:
                return os.stat(self._path(digest)).st_size
            except FileNotFoundError:
                return None

    def _stands(self, digest: str, size: int) -> bool:
        """Whether the object is there, as far as a look can tell."""
        return self._size(digest) == size and digest not in self._damaged

    def _fetch(self, wanted: Iterable[Incoming]) -> None:
        for incoming in wanted:
            try:
                incoming.receive(self._pieces(incoming.digest))
            except errors.ObjectCorrupt:
                self._damaged.add(incoming.digest)
                raise

    def _pieces(self, digest: str) -> Iterator[bytes]:
        with self._opened(digest) as file:
            while True:
                with self._translated(writing=False):
                    piece = file.read(CHUNK)
                if not piece:
                    return
                yield piece

    def _opened(self, digest: str) -> BinaryIO:
        with self._translated(writing=False):
            try:
                return cast(BinaryIO, Path(self._path(digest)).open("rb", buffering=0))
            except FileNotFoundError:
                raise errors.UnknownObject(
                    f"{self._root} has no object {digest}", digest=digest
                ) from None

    def _write(self, blobs: Sequence[Blob]) -> None:
        with self._translated(writing=True), self._staging() as staging:
            for blob in blobs:
                if not self._stands(blob.digest, len(blob.stored)):
                    staging.open(blob.digest).write(blob.stored)
            self._publish(staging, [blob.digest for blob in blobs])

    def _upload(self, path: Path) -> tuple[str, int]:
        with path.open("rb", buffering=0) as file, self._staging() as staging:
            source = Source(file)
            with self._translated(writing=True):
                out = staging.open(None)
            for piece in source.pieces():
                with self._translated(writing=True):
                    out.write(piece)
            digest = source.digest
            with self._translated(writing=True):
                if self._stands(digest, out.tell()):
                    staging.clear()
                else:
                    staging.name(digest)
                self._publish(staging, [digest])
        return digest, source.size

    @contextmanager
    def _staging(self) -> Iterator["_Staging"]:
        staging = _Staging(self._tmp)
        try:
            yield staging
        finally:
            staging.clear()

    def _publish(self, staging: "_Staging", digests: Sequence[str]) -> None:
        """Give staged files their names; then all of `digests` are durable."""
        staging.settle(self._syncers)
        for digest, path in staging.paths():
            target = self._path(digest)
            self._durable.discard(digest)  # it was there before, and somebody has deleted it
            try:
                os.replace(path, target)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.replace(path, target)
        # Found ones too: another process may have renamed and not synced them yet.
        fresh = [digest for digest in digests if digest not in self._durable]
        if fresh:
            parents = {os.path.dirname(self._path(digest)) for digest in fresh}
            above = {f"{self._root}/blobs", str(self._root)}
            _all(self._syncers.map(_fsync_path, parents | above))
        for digest in digests:
            self._durable.add(digest)
            self._damaged.discard(digest)

    @contextmanager
    def _translated(self, *, writing: bool) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            if full := no_room(e, self._root):
                raise full from e
            if isinstance(e, _MISPLACED) or (writing and e.errno == errno.EROFS):
                raise errors.ConfigurationError(
                    f"objects cannot be {'stored in' if writing else 'read from'} {self._root}: {e}",
                    setting="objects_url",
                    path=str(e.filename or self._root),
                    reason=e.strerror,
                ) from e
            raise errors.Unavailable(
                f"object store {self._root} does not answer: {e}", reason="object_store"
            ) from e


class _Staging:
    """Files on their way to their names, open until they are on the disk."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._files: list[tuple[str | None, str, BinaryIO]] = []

    def open(self, digest: str | None) -> BinaryIO:
        path = f"{self._directory}/{secrets.token_hex(8)}"
        file = created(path)
        self._files.append((digest, path, file))
        return file

    def name(self, digest: str) -> None:
        """The only file turned out to have this digest."""
        ((_, path, file),) = self._files
        self._files = [(digest, path, file)]

    def settle(self, syncers: ThreadPoolExecutor) -> None:
        """Bring everything to the disk."""
        for _, _, file in self._files:
            file.flush()
        _all(syncers.map(lambda item: os.fsync(item[2].fileno()), self._files))
        for _, _, file in self._files:
            file.close()

    def paths(self) -> Iterator[tuple[str, str]]:
        """Digest and path of each file; who has taken one must have renamed it."""
        while self._files:
            digest, path, _ = self._files[-1]
            assert digest is not None
            yield digest, path
            self._files.pop()

    def clear(self) -> None:
        """Remove what was not given a name."""
        for _, path, file in self._files:
            with suppress(OSError):  # what could not be written cannot be flushed either
                file.close()
            with suppress(FileNotFoundError):
                os.unlink(path)
        self._files = []


def _all(results: Iterable[None]) -> None:
    for _ in results:
        pass


def _fsync_path(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
