"""Keeps a directory as a manifest: scan, read what changed, store blobs, then directory objects.

Guarantees: a snapshot that is returned is stored whole; one that fails or is cut off leaves only
objects that nobody names, and the next one is right all the same. An unchanged tree writes nothing.
Memory does not grow with the sizes of files. Never changes the directory.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from wtb_ray import errors, manifests, scans
from wtb_ray.listings import Listers
from wtb_ray.manifests import EMPTY, Entries, Entry
from wtb_ray.objects import ObjectStore, generation
from wtb_ray.scans import Directory, Known, Moved, Rules, Scan, Unread

P = ParamSpec("P")
T = TypeVar("T")

_ATTEMPTS: Final = 6
_FIRST_PAUSE_S: Final = 0.01
_LARGE: Final = 4 << 20
"""Files from this size on are streamed by themselves."""
_BATCH_BYTES: Final = 16 << 20
_BATCH_FILES: Final = 2000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A tree that was kept."""

    manifest: str
    files: int
    """Files and links in it."""
    bytes: int
    new_objects: int
    """Objects that were sent to the store; another process may have stored some before."""
    new_bytes: int
    duration_ms: float


@dataclass(slots=True)
class _Sent:
    objects: int = 0
    bytes: int = 0


class Snapshots:
    """Snapshots of one directory, each building on what the one before has found."""

    def __init__(
        self,
        root: Path,
        rules: Rules,
        objects: ObjectStore,
        executor: Executor | None,
        quota_mb: int | None = None,
        listers: Listers | None = None,
    ) -> None:
        self.root = root
        self.tree: dict[str, Directory] = {}
        """What is known to be stored, by directory."""
        self.placed: dict[str, Known] = {}
        """Files that a restore has put there since."""
        self.generation: int | None = None
        """Of the store, in which these were known to be stored."""
        self._rules = rules
        self._objects = objects
        self._executor = executor
        self._quota_mb = quota_mb
        self._listers = listers

    async def take(self, *, limited: bool = True) -> Snapshot:
        """Keep the directory as it is now; `limited` refuses more than it may have in it.

        Raises:
            FilesRefused: Something in it cannot be kept, or changes all the time.
            QuotaExceeded: It has too many files or bytes.
            StorageFull: The object store has no room.
            Unavailable: The object store does not answer.
        """
        began = time.perf_counter()
        sent = _Sent()
        await self._look_again()
        for attempt in range(_ATTEMPTS):
            try:
                found = await self._scan()
                if limited:
                    self._check(found)
                await self._store(found, sent)
                break
            except Moved as e:
                path = e.path
                await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
        else:
            raise scans.refused(path, "changed while read")
        self.tree, self.placed = found.tree, {}
        files, size = found.totals()
        return Snapshot(
            manifest=self.manifest,
            files=files,
            bytes=size,
            new_objects=sent.objects,
            new_bytes=sent.bytes,
            duration_ms=(time.perf_counter() - began) * 1000,
        )

    @property
    def manifest(self) -> str:
        """Of the newest snapshot."""
        top = self.tree.get("")
        return top.entry.value if top is not None and top.entry is not None else EMPTY

    async def _look_again(self) -> None:
        """Forgets what is not stored any more: unnamed objects may have gone with a generation."""
        if self.generation == generation():
            return
        lost = set(await self._objects.secured(self._relied()))
        if lost:
            self.tree = {path: _without(known, lost) for path, known in self.tree.items()}
            self.placed = {
                path: known for path, known in self.placed.items() if known[1].value not in lost
            }
        self.generation = generation()

    def _relied(self) -> Iterator[str]:
        for directory in self.tree.values():
            yield from _objects_of(directory)
        yield from (entry.value for _, entry in self.placed.values() if entry.kind == "file")

    async def _scan(self) -> Scan:
        known = self.tree, self.placed
        return await run(self._executor, scans.scan, self.root, self._rules, *known, self._listers)

    def _check(self, found: Scan) -> None:
        files, size = found.totals()
        limit = self._rules.config.max_files
        if files > limit:
            raise errors.QuotaExceeded(
                f"{files:,} files are tracked, {limit:,} may be",
                path=str(self.root), reason="max_files", limit=limit, found=files,
            )  # fmt: skip
        if self._quota_mb is not None and size > self._quota_mb << 20:
            raise errors.QuotaExceeded(
                f"the files have {size:,} bytes, {self._quota_mb} MiB may be used",
                path=str(self.root), reason="quota_mb", limit=self._quota_mb << 20, found=size,
            )  # fmt: skip

    async def _store(self, found: Scan, sent: _Sent) -> None:
        """Stores what is new and completes the tree; blobs first."""
        small = [unread for unread in found.unread if unread.record[2] < _LARGE]
        for unread in found.unread:
            if unread.record[2] >= _LARGE:
                await self._stream(found, unread, sent)
        waiting: dict[str, bytes] = {}
        for batch in _batches(small):
            await self._send(waiting, sent)
            waiting = await run(self._executor, self._read, found, batch)
        made = await run(self._executor, _complete, found.tree, self.tree)
        size = 0
        seen = {digest for digest in made if manifests.remembered(self._objects, digest)}
        seen -= set(await self._objects.secured(seen, look=False))
        for digest, (_, data) in made.items():
            if digest in seen:
                continue
            waiting[digest] = data
            size += len(data)
            if size > _BATCH_BYTES:
                await self._send(waiting, sent)
                waiting, size = {}, 0
        await self._send(waiting, sent)
        for digest, (listing, _) in made.items():
            manifests.remember(self._objects, digest, listing)

    async def _stream(self, found: Scan, unread: Unread, sent: _Sent) -> None:
        try:
            digest = await self._objects.put_file(self.root / unread.path)
        except OSError as e:
            raise scans.unreadable(unread.path, e) from e
        except errors.FilesRefused as e:
            raise Moved(unread.path) from e
        if not await run(self._executor, scans.unchanged, self.root, unread):
            raise Moved(unread.path)
        _settle(found, unread, digest)
        sent.objects += 1
        sent.bytes += unread.record[2]

    def _read(self, found: Scan, batch: list[Unread]) -> dict[str, bytes]:
        """The contents of small files that the store may not have, by digest."""
        new: dict[str, bytes] = {}
        for unread in batch:
            data = scans.content(self.root, unread)
            digest = hashlib.sha256(data).hexdigest()
            _settle(found, unread, digest)
            if not self._stored(unread, digest):
                new[digest] = data
        return new

    def _stored(self, unread: Unread, digest: str) -> bool:
        """Whether a file had these bytes before, although it looked different."""
        above = self.tree.get(unread.above)
        known = (above and above.files.get(unread.name), self.placed.get(unread.path))
        return any(before and before[1].value == digest for before in known)

    async def _send(self, waiting: Mapping[str, bytes], sent: _Sent) -> None:
        if waiting:
            await self._objects.put_many(waiting.values())
            sent.objects += len(waiting)
            sent.bytes += sum(map(len, waiting.values()))


async def run(
    executor: Executor | None,
    work: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Work in a thread that has ended when this has, cancelled or not."""
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(executor, lambda: work(*args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


def _objects_of(directory: Directory) -> Iterator[str]:
    """The objects that a directory is known to have in the store, its own one included."""
    yield from (entry.value for _, entry in directory.files.values() if entry.kind == "file")
    if directory.entry is not None:
        yield directory.entry.value


def _without(directory: Directory, lost: set[str]) -> Directory:
    """The directory, to be looked at again where objects of it are lost."""
    if lost.isdisjoint(_objects_of(directory)):
        return directory
    files = {
        name: (None, entry._replace(value="")) if entry.value in lost else (record, entry)
        for name, (record, entry) in directory.files.items()
    }
    return replace(directory, listing=None, files=files, entry=None)


def _batches(unread: list[Unread]) -> Iterator[list[Unread]]:
    batch: list[Unread] = []
    size = 0
    for one in unread:
        if batch and (size + one.record[2] > _BATCH_BYTES or len(batch) == _BATCH_FILES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.record[2]
    if batch:
        yield batch


def _settle(found: Scan, unread: Unread, digest: str) -> None:
    mode, _, size, _, _ = unread.record
    entry = Entry(unread.name, "file", digest, size, mode & 0o777)
    found.tree[unread.above].files[unread.name] = found.trusted(unread.record), entry


def _complete(
    tree: dict[str, Directory], old: Mapping[str, Directory]
) -> dict[str, tuple[Entries, bytes]]:
    """Gives every directory its entry, from below; the objects that are not known to be stored."""
    made: dict[str, tuple[Entries, bytes]] = {}
    changed: set[str] = set()
    for here in reversed(list(tree)):
        directory, before = tree[here], old.get(here)
        below = [f"{here}/{name}" if here else name for name in directory.below]
        if directory is before and changed.isdisjoint(below):
            continue
        listing = listing_of(directory, [tree[path] for path in below])
        known = before.entry if before is not None else None
        entry = None
        if listing or directory.empty or not here:
            data = manifests.encoded(listing)
            entry = _entry(here, directory.mode, listing, manifests.digest_of(data))
            if known is None or known.value != entry.value:
                made[entry.value] = listing, data
        if entry != known:
            changed.add(here)
        tree[here] = replace(directory, entry=entry)
    return made


def listing_of(directory: Directory, below: list[Directory]) -> Entries:
    """What a directory's object holds, from what is known of it and of those in it."""
    listing = [entry for _, entry in directory.files.values()]
    listing += [inner.entry for inner in below if inner.entry is not None]
    return tuple(sorted(listing))


def _entry(here: str, mode: int, listing: Entries, digest: str) -> Entry:
    size = sum(entry.size for entry in listing)
    return Entry(here.rpartition("/")[2], "dir", digest, size, mode & 0o777)
