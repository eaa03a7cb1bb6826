"""Objects in a directory.

fsspec's local files are neither atomic nor fsynced, so these are our own: staged in `tmp/` of the
same file system, fsynced, renamed, and the directories fsynced, for many objects in one round.
"""

import asyncio
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from wtb_ray import errors
from wtb_ray.objects.blobs import CHUNK, Blob, Incoming, Source, key_of, no_room
from wtb_ray.objects.known import Known
from wtb_ray.objects.waiting import bounded

_SYNCERS = 8
"""fsyncs at the same time share commits of the file system's journal."""
_READERS = 4
_READ_ROUND = 64
_MISPLACED = (PermissionError, NotADirectoryError, FileNotFoundError, IsADirectoryError)


class Local:
    """A directory as the place of objects."""

    def __init__(self, root: Path):
        self._root = root
        self._tmp = root / "tmp"
        self._durable = Known()
        self._syncers = ThreadPoolExecutor(_SYNCERS, "wtb-fsync")

    async def size(self, digest: str) -> int | None:
        return await asyncio.to_thread(self._size, digest)

    async def write(self, blobs: Sequence[Blob]) -> None:
        await asyncio.to_thread(self._write, blobs)

    async def upload(self, source: Path) -> tuple[str, int]:
        return await asyncio.to_thread(self._upload, source)

    async def fetch(self, wanted: Sequence[Incoming]) -> None:
        rounds = [wanted[i : i + _READ_ROUND] for i in range(0, len(wanted), _READ_ROUND)]
        await bounded(_READERS, rounds, lambda some: asyncio.to_thread(self._fetch, some))

    def holds(self, digest: str) -> bool:
        return False  # a look costs next to nothing and notices what was lost

    async def aclose(self) -> None:
        self._syncers.shutdown(wait=False)

    def _path(self, digest: str) -> Path:
        return self._root / key_of(digest)

    def _size(self, digest: str) -> int | None:
        with self._translated(writing=False):
            try:
                return self._path(digest).stat().st_size
            except FileNotFoundError:
                return None

    def _fetch(self, wanted: Iterable[Incoming]) -> None:
        for incoming in wanted:
            incoming.receive(self._pieces(incoming.digest))

    def _pieces(self, digest: str) -> Iterator[bytes]:
        with self._translated(writing=False):
            try:
                file = self._path(digest).open("rb", buffering=0)
            except FileNotFoundError:
                raise errors.UnknownObject(
                    f"{self._root} has no object {digest}", digest=digest
                ) from None
        with file:
            while True:
                with self._translated(writing=False):
                    piece = file.read(CHUNK)
                if not piece:
                    return
                yield piece

    def _write(self, blobs: Sequence[Blob]) -> None:
        with self._translated(writing=True), self._staging() as staged:
            for blob in blobs:
                if self._size(blob.digest) == len(blob.stored):
                    continue
                path = self._stage()
                staged[path] = blob.digest
                path.write_bytes(blob.stored)
            self._publish(staged, [blob.digest for blob in blobs])

    def _upload(self, path: Path) -> tuple[str, int]:
        with path.open("rb", buffering=0) as file, self._staging() as staged:
            source = Source(file)
            pieces = source.pieces()
            with self._translated(writing=True):
                stage = self._stage()
                staged[stage] = ""
                out = stage.open("xb", buffering=0)
            with out:
                for piece in pieces:
                    with self._translated(writing=True):
                        out.write(piece)
            digest = source.digest
            with self._translated(writing=True):
                if self._size(digest) == stage.stat().st_size:
                    del staged[stage]
                    stage.unlink()
                else:
                    staged[stage] = digest
                self._publish(staged, [digest])
        return digest, source.size

    def _stage(self) -> Path:
        return self._tmp / secrets.token_hex(8)

    @contextmanager
    def _staging(self) -> Iterator[dict[Path, str]]:
        """Staged files with the digests they are to have; what is left at the end is removed."""
        staged: dict[Path, str] = {}
        with self._translated(writing=True):
            self._tmp.mkdir(parents=True, exist_ok=True)
        try:
            yield staged
        finally:
            for path in staged:
                path.unlink(missing_ok=True)

    def _publish(self, staged: dict[Path, str], digests: Sequence[str]) -> None:
        """Give staged files their names; then all of `digests` are durable."""
        self._sync(staged)
        for path, digest in list(staged.items()):
            target = self._path(digest)
            try:
                path.replace(target)
            except FileNotFoundError:
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
            del staged[path]
        # Found ones too: another process may have renamed and not synced them yet.
        fresh = [digest for digest in digests if digest not in self._durable]
        parents = {self._path(digest).parent for digest in fresh}
        above = {self._root / "blobs", self._root} if parents else set()
        self._sync(parents | above)
        for digest in digests:
            self._durable.add(digest)

    def _sync(self, paths: Iterable[Path]) -> None:
        for _ in self._syncers.map(_fsync, paths):
            pass

    @contextmanager
    def _translated(self, *, writing: bool) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            if full := no_room(e, self._root):
                raise full from e
            if isinstance(e, _MISPLACED) or (writing and e.errno == 30):
                raise errors.ConfigurationError(
                    f"objects cannot be {'stored in' if writing else 'read from'} {self._root}: {e}",
                    setting="objects_url",
                    path=str(e.filename or self._root),
                    reason=e.strerror,
                ) from e
            raise errors.Unavailable(
                f"object store {self._root} does not answer: {e}", reason="object_store"
            ) from e


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
