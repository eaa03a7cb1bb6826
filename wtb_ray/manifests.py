"""File trees as objects: a manifest is the digest of a directory object, which names those below it.

A directory object is canonical JSON, `[[name, kind, value, size, mode], ...]` sorted by name; `value`
is the digest of a file's bytes, the digest of a directory's own object, or where a link leads. Equal
trees have equal manifests, and a changed file costs only the objects of the directories above it.

Guarantees: what is read is checked, as to its digest and as to its names, so that no manifest leads
out of the directory it is restored into. Paths are relative, with `/`; bytes of names that are no
UTF-8 are surrogates (`os.fsdecode`) in here and `\\xNN` outside (`shown`). Never touches a workspace.
"""

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple
from weakref import WeakKeyDictionary

from wtb_ray import errors
from wtb_ray.file_entries import FileEntry
from wtb_ray.objects import ObjectStore, generation

Kind = Literal["file", "dir", "link"]

_KINDS: Final = frozenset({"file", "dir", "link"})
_OFFLOAD: Final = 256 << 10
"""Directory objects from this size on are parsed outside the event loop."""


class Entry(NamedTuple):
    """One name in a directory."""

    name: str
    kind: Kind
    value: str
    """SHA-256 of a file or of a directory's object; where a link leads."""
    size: int
    """Bytes; of a directory, of all files below it."""
    mode: int
    """Permission bits."""


Entries = tuple[Entry, ...]
Change = tuple[str, Entry | None, Entry | None]
"""A path with what was there and what is."""


def encoded(entries: Iterable[Entry]) -> bytes:
    """The directory object of these entries, which are sorted by name."""
    return json.dumps(list(entries), separators=(",", ":")).encode("ascii")


def decoded(digest: str, data: bytes) -> Entries:
    """The entries of a directory object.

    Raises:
        ObjectCorrupt: It is none.
    """
    try:
        listing = tuple(_checked(item) for item in json.loads(data))
        if any(a.name >= b.name for a, b in pairwise(listing)):
            raise ValueError("names are not in order")
    except (ValueError, TypeError) as e:
        raise errors.ObjectCorrupt(
            f"object {digest} is not a directory: {e}", digest=digest, reason="not a directory"
        ) from e
    return listing


def digest_of(encoded_directory: bytes) -> str:
    return hashlib.sha256(encoded_directory).hexdigest()


EMPTY: Final = digest_of(encoded(()))
"""The manifest of a tree without anything in it."""


def shown(path: str) -> str:
    """A path as it is shown to people and stored in rows: always valid UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def file_entry(path: str, entry: Entry) -> FileEntry:
    """An entry as the API shows it."""
    return FileEntry(
        path=shown(path),
        kind=entry.kind,
        size=entry.size,
        mode=entry.mode,
        digest=entry.value if entry.kind == "file" else None,
        target=shown(entry.value) if entry.kind == "link" else None,
    )


async def read(objects: ObjectStore, manifest: str, prefix: str = "") -> dict[str, Entry]:
    """Everything below `prefix` by its path in the whole tree, parents before children.

    Raises:
        UnknownFile: The tree has no `prefix`.
        UnknownObject: A directory object is missing.
        ObjectCorrupt: A directory object is damaged.
    """
    found: dict[str, Entry] = {}
    level = [await _descend(objects, manifest, prefix)]
    if level[0][1].kind != "dir":
        return dict(level)
    while level:
        listings = await directories(objects, [entry.value for _, entry in level])
        below = [
            (f"{path}/{entry.name}" if path else entry.name, entry)
            for path, directory in level
            for entry in listings[directory.value]
        ]
        found.update(below)
        level = [(path, entry) for path, entry in below if entry.kind == "dir"]
    return found


async def entries(objects: ObjectStore, manifest: str, prefix: str = "") -> Entries:
    """What the directory `prefix` holds, by name.

    Raises:
        UnknownFile: The tree has no such directory.
    """
    path, entry = await _descend(objects, manifest, prefix)
    if entry.kind != "dir":
        raise errors.UnknownFile(
            f"{shown(path)} is not a directory", path=shown(path), reason="not a directory"
        )
    return await directory(objects, entry.value)


async def find(objects: ObjectStore, manifest: str, path: str) -> Entry:
    """The entry at a path, which may be given as it is shown; "" is the whole tree.

    Raises:
        UnknownFile: The tree has no such path.
    """
    return (await _descend(objects, manifest, path))[1]


async def diff(objects: ObjectStore, before: str | None, after: str | None) -> list[Change]:
    """How two trees differ, parents before children; None is the empty tree.

    Only directories that differ are read. A directory is listed when it appears, goes, or changes
    its mode or kind, not when only something below it does.
    """
    changes: list[Change] = []
    pending = [("", before or EMPTY, after or EMPTY)]
    while level := [(path, a, b) for path, a, b in pending if a != b]:
        wanted = [digest for _, a, b in level for digest in (a, b)]
        listings = await directories(objects, wanted)
        pending = []
        for path, a, b in level:
            _compare(path, listings[a], listings[b], changes, pending)
    return changes


async def replaced(
    objects: ObjectStore, manifest: str | None, changes: Mapping[str, Entry | None]
) -> str:
    """The manifest of a tree in which each path has the entry given, or is gone where it is None.

    Directories on the way are made where they are missing, in place of files too.
    """
    new: dict[str, bytes] = {}
    top = await _replaced(objects, manifest or EMPTY, _nested(changes), new)
    await objects.put_many(new.values())
    return top.value


async def directory(objects: ObjectStore, digest: str) -> Entries:
    """The entries of one directory object."""
    return (await directories(objects, [digest]))[digest]


async def directories(objects: ObjectStore, digests: Iterable[str]) -> dict[str, Entries]:
    """The entries of many directory objects, by digest.

    Raises:
        UnknownObject: One of them is missing.
        ObjectCorrupt: One of them is damaged, or no directory object.
    """
    remembered = _memory(objects)
    listings: dict[str, Entries] = {EMPTY: ()}
    missing: list[str] = []
    for digest in dict.fromkeys(digests):
        if (known := remembered.get(digest)) is not None:
            listings[digest] = known
        elif digest not in listings:
            missing.append(digest)
    async for digest, data in objects.get_many(missing):
        listings[digest] = await _parsed(digest, data)
        remembered.put(digest, listings[digest])
    return listings


def remember(objects: ObjectStore, digest: str, listing: Entries) -> None:
    """Spares the reading of a directory object that is known to be stored."""
    _memory(objects).put(digest, listing)


def leaves(target: str, below: str) -> bool:
    """Whether a link in the directory `below` leads out of the tree, by its letters alone."""
    if target.startswith("/"):
        return True
    depth = below.count("/") + 1 if below else 0
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return True
    return False


def remembered(objects: ObjectStore, digest: str) -> bool:
    """Whether a directory object was read or stored here in this generation of the store."""
    return _memory(objects).seen(digest)


async def objects_of(objects: ObjectStore, manifest: str) -> set[str]:
    """The digests of all objects of a tree, read anew.

    Raises:
        UnknownObject: A directory object is missing.
        ObjectCorrupt: A directory object is damaged.
    """
    found: set[str] = set()
    level = {manifest} - {EMPTY}
    while level:
        found |= level
        below: set[str] = set()
        async for digest, data in objects.get_many(sorted(level)):
            for entry in await _parsed(digest, data):
                if entry.kind == "dir":
                    below.add(entry.value)
                elif entry.kind == "file":
                    found.add(entry.value)
        level = below - found - {EMPTY}
    return found


def forget(objects: ObjectStore) -> None:
    """Read every directory object anew, to see whether all of them are still there."""
    _memories.pop(objects, None)


class _Memory:
    """The directory objects read last, as many as have `LIMIT` entries together."""

    LIMIT: Final = 100_000

    def __init__(self) -> None:
        self._listings: OrderedDict[str, Entries] = OrderedDict()
        self._generations: dict[str, int | None] = {}
        self._held = 0

    def get(self, digest: str) -> Entries | None:
        if digest in self._listings:
            self._listings.move_to_end(digest)
            return self._listings[digest]
        return None

    def seen(self, digest: str) -> bool:
        return self.get(digest) is not None and self._generations[digest] == generation()

    def put(self, digest: str, listing: Entries) -> None:
        self._generations[digest] = generation()
        if digest in self._listings:
            return
        self._listings[digest] = listing
        self._held += len(listing) + 1
        while self._held > self.LIMIT:
            gone, dropped = self._listings.popitem(last=False)
            del self._generations[gone]
            self._held -= len(dropped) + 1


_memories: WeakKeyDictionary[ObjectStore, _Memory] = WeakKeyDictionary()


def _memory(objects: ObjectStore) -> _Memory:
    return _memories.setdefault(objects, _Memory())


async def _parsed(digest: str, data: bytes) -> Entries:
    if len(data) < _OFFLOAD:
        return decoded(digest, data)
    return await asyncio.to_thread(decoded, digest, data)


def _checked(item: Any) -> Entry:
    entry = Entry(*item)
    name = entry.name
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no file name")
    if not isinstance(entry.value, str):
        raise ValueError(f"{name!r} has no value")
    if entry.kind not in _KINDS or not 0 <= entry.mode <= 0o777 or entry.size < 0:
        raise ValueError(f"{name!r} has an impossible kind, mode or size")
    return entry


async def _descend(objects: ObjectStore, manifest: str, path: str) -> tuple[str, Entry]:
    """The entry at a path, and the path as the tree spells it."""
    entry, spelt = Entry("", "dir", manifest, 0, 0o755), ""
    for name in [part for part in path.split("/") if part]:
        listing = await directory(objects, entry.value) if entry.kind == "dir" else ()
        below = _named(listing, name)
        if below is None:
            raise errors.UnknownFile(f"there is no {shown(path)}", path=shown(path))
        entry, spelt = below, f"{spelt}/{below.name}" if spelt else below.name
    return spelt, entry


def _named(listing: Entries, name: str) -> Entry | None:
    exact = (entry for entry in listing if entry.name == name)
    as_shown = (entry for entry in listing if shown(entry.name) == name)
    return next(exact, None) or next(as_shown, None)


def _compare(
    path: str,
    before: Entries,
    after: Entries,
    changes: list[Change],
    below: list[tuple[str, str, str]],
) -> None:
    olds, news = ({entry.name: entry for entry in listing} for listing in (before, after))
    for name in sorted(olds.keys() | news.keys()):
        old, new = olds.get(name), news.get(name)
        if old == new:
            continue
        here = f"{path}/{name}" if path else name
        was, is_ = old is not None and old.kind == "dir", new is not None and new.kind == "dir"
        if not (old and new and was and is_ and old.mode == new.mode):
            changes.append((here, old, new))
        if was or is_:
            a = old.value if old and was else EMPTY
            b = new.value if new and is_ else EMPTY
            below.append((here, a, b))


_Nested = dict[str, "Entry | _Nested | None"]


def _nested(changes: Mapping[str, Entry | None]) -> _Nested:
    top: _Nested = {}
    for path, entry in sorted(changes.items(), key=lambda item: item[0].count("/")):
        *parents, name = path.split("/")
        here = top
        for parent in parents:
            inner = here.get(parent)
            if not isinstance(inner, dict):
                inner = here[parent] = {}
            here = inner
        here[name] = entry
    return top


async def _replaced(
    objects: ObjectStore, digest: str, changes: _Nested, new: dict[str, bytes]
) -> Entry:
    """The nameless entry of a directory with the changes in it; its objects are added to `new`."""
    listing = {entry.name: entry for entry in await directory(objects, digest)}
    for name, change in changes.items():
        if isinstance(change, dict):
            old = listing.get(name)
            known = old if old is not None and old.kind == "dir" else None
            inner = await _replaced(objects, known.value if known else EMPTY, change, new)
            listing[name] = inner._replace(name=name, mode=known.mode if known else 0o755)
        elif change is None:
            listing.pop(name, None)
        else:
            listing[name] = change._replace(name=name)
    sorted_listing = tuple(listing[name] for name in sorted(listing))
    data = encoded(sorted_listing)
    value = digest_of(data)
    new[value] = data
    return Entry("", "dir", value, sum(entry.size for entry in sorted_listing), 0o755)
