"""What a directory holds at this moment, found at the price of one `stat` a file.

A scan compares the listing of each directory, as bytes, with that of the scan before: directories
that are as they were cost nothing further, and only files whose size, times, inode or mode changed
have to be read. As in git's index, an entry that changed around the moment the scan began is not
trusted the next time, since a later change might carry the same time stamp.

Guarantees: links are never followed; what cannot be kept is refused with its path and the reason.
Writes nothing, never hashes; knows nothing of objects. All of it is meant to run in threads.
"""

import errno
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

import pathspec

from wtb_ray import errors
from wtb_ray.listings import RECORD, Listers, Listing, Record, listing, record_of
from wtb_ray.manifests import Entry, leaves, shown
from wtb_ray.model import FileTrackingConfig

INPUT: Final = "input"
"""The directory of a workspace that never belongs to a checkpoint."""
RACY_NS: Final = 50_000_000
"""Time stamps advance in steps of up to some ten milliseconds; this leaves room."""

Known = tuple[Record | None, Entry]
"""A file with the record it had when it was read, None when that cannot be trusted."""
_MANY: Final = 500
"""Entries from which on a tree is listed by helpers."""


class Moved(Exception):
    """Something changed while it was looked at; another look may succeed."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(path)


def refused(path: str, reason: str) -> errors.FilesRefused:
    return errors.FilesRefused(
        f"{shown(path)} cannot be kept: {reason}", path=shown(path), reason=reason
    )


class Rules:
    """Which paths of a workspace belong to its checkpoints.

    Raises:
        InvalidRequest: A path or pattern cannot be meant.
    """

    def __init__(self, config: FileTrackingConfig) -> None:
        self.config = config
        tops = {_normal(path) for path in config.tracked_paths} or {""}
        self.tops = frozenset({""} if "" in tops else tops)
        self.ways: dict[str, set[str]] = {}
        """Directories that are only on the way to tracked ones, with the names that matter."""
        for top in self.tops - {""}:
            self._lead_to(top)
        try:
            self._spec = pathspec.GitIgnoreSpec.from_lines(config.ignore_patterns, backend="simple")
        except ValueError as e:
            raise errors.InvalidRequest(
                f"ignore_patterns: {e}", field="file_tracking.ignore_patterns", reason=str(e)
            ) from e
        self._directories: dict[str, bool] = {}

    def ignores(self, path: str) -> bool:
        """Whether a file or link is left out; its directory is not."""
        # To pathspec a line feed ends a path; NUL stands for it, which is in no path.
        return bool(self._spec.match_file(path.replace("\n", "\0")))

    def ignores_directory(self, path: str) -> bool:
        if path in self.tops or path in self.ways:
            return False
        found = self._directories.get(path)
        if found is None:
            found = self._directories[path] = self.ignores(path + "/")
        return found

    def _lead_to(self, top: str) -> None:
        parts = top.split("/")
        for i, name in enumerate(parts):
            above = "/".join(parts[:i])
            if above in self.tops:
                return
            self.ways.setdefault(above, set()).add(name)


def _normal(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path:
        reason = "a path inside the workspace is needed"
    elif pure.parts[:1] == (INPUT,):
        reason = f"{INPUT}/ is never tracked"
    else:
        return "/".join(pure.parts)
    raise errors.InvalidRequest(
        f"tracked_paths: {shown(path)!r}: {reason}",
        field="file_tracking.tracked_paths",
        path=shown(path),
        reason=reason,
    )


# --- looking ---


def _look(root: Path, here: str) -> Listing:
    try:
        return listing(f"{root}/{here}")
    except OSError as e:
        if here:
            raise unreadable(here, e) from e
        reason = e.strerror or str(e)
        raise errors.FilesRefused(
            f"the workspace {root} cannot be read: {reason}", path=str(root), reason=reason
        ) from e


class _Looks:
    """The listings of a scan: many at a time by helpers, the others here."""

    def __init__(self, root: Path, old: "Tree", listers: Listers | None):
        self._root = root
        self._listers = listers
        self._found: dict[str, Listing] = {}
        if sum(len(d.files) + len(d.skipped) for d in old.values()) >= _MANY:
            self.ahead(list(old))

    def ahead(self, paths: Sequence[str]) -> None:
        """Lists directories that will be asked for."""
        wanted = [path for path in paths if path not in self._found]
        if self._listers is not None and len(wanted) > 1:
            self._found |= self._listers.listings(self._root, wanted)

    def __getitem__(self, path: str) -> Listing:
        return self._found.pop(path, None) or _look(self._root, path)


# --- comparing ---


@dataclass(slots=True)
class Directory:
    """What is known of one directory."""

    listing: Listing | None
    """None: something in it is not trusted."""
    mode: int
    files: dict[str, Known]
    """Files and links that are tracked."""
    below: dict[str, int]
    """Directories with their modes, whether anything in them is tracked or not."""
    skipped: frozenset[str]
    """Names that are left out."""
    count: int = 0
    size: int = 0
    """Number and bytes of its own tracked files."""
    entry: Entry | None = None
    """Its entry in the directory above; None when nothing in it is tracked."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing at all in it."""
        return not (self.files or self.below or self.skipped)


Tree = Mapping[str, Directory]
"""Directories by path; "" is the top."""


class Unread(NamedTuple):
    """A file that has to be read."""

    above: str
    name: str
    record: Record

    @property
    def path(self) -> str:
        return f"{self.above}/{self.name}" if self.above else self.name


@dataclass(slots=True)
class Scan:
    """A tree whose unread files have no entries yet, nor the directories above them."""

    began_ns: int
    tree: dict[str, Directory] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)

    def trusted(self, record: Record) -> Record | None:
        """The record, unless a change might leave it as it is."""
        return record if max(record[3], record[4]) < self.began_ns - RACY_NS else None

    def totals(self) -> tuple[int, int]:
        """Number and bytes of the tracked files."""
        directories = self.tree.values()
        return sum(d.count for d in directories), sum(d.size for d in directories)


def scan(
    root: Path,
    rules: Rules,
    old: Tree,
    placed: Mapping[str, Known],
    listers: Listers | None = None,
) -> Scan:
    """Looks at everything and tells what differs from an earlier tree.

    `placed` are files that were written since then by somebody who knows what is in them.

    Raises:
        FilesRefused: Something that is tracked cannot be kept.
        Moved: A directory went away meanwhile.
    """
    found = Scan(time.time_ns())
    looks = _Looks(root, old, listers)
    level = {"": 0o755}
    while level:
        below: dict[str, int] = {}
        for here, mode in level.items():
            known, now = old.get(here), looks[here]
            if known is not None and known.listing == now and known.mode == mode:
                directory = known
            else:
                directory = _Reader(root, rules, here, known, placed, found).read(now, mode)
            found.tree[here] = directory
            for name, inner in directory.below.items():
                below[f"{here}/{name}" if here else name] = inner
        looks.ahead([path for path in below if path not in old])
        level = below
    return found


@dataclass(slots=True)
class _Reader:
    """Makes a directory of a listing that is new."""

    root: Path
    rules: Rules
    here: str
    known: Directory | None
    placed: Mapping[str, Known]
    found: Scan

    def read(self, now: Listing, mode: int) -> Directory:
        names, packed = now
        directory = Directory(now, mode, {}, {}, frozenset())
        skipped: list[str] = []
        for name, record in zip(
            names.split("\0") if names else (), RECORD.iter_unpack(packed), strict=True
        ):
            path = f"{self.here}/{name}" if self.here else name
            is_directory = stat.S_ISDIR(record[0])
            if self._left_out(name, path, is_directory=is_directory):
                skipped.append(name)
            elif is_directory:
                directory.below[name] = record[0] & 0o777
            else:
                self._add(directory, name, path, record)
        directory.skipped = frozenset(skipped)
        return directory

    def _left_out(self, name: str, path: str, *, is_directory: bool) -> bool:
        only = self.rules.ways.get(self.here)
        if only is not None:
            if name in only and not is_directory:
                raise refused(path, "no directory, but tracked")
            return name not in only
        if path == INPUT:
            return True
        if is_directory:
            return self.rules.ignores_directory(path)
        known = self.known is not None and name in self.known.files
        return not known and self.rules.ignores(path)

    def _add(self, directory: Directory, name: str, path: str, record: Record) -> None:
        if stat.S_ISREG(record[0]):
            directory.count += 1
            directory.size += record[2]
            known = self.known.files.get(name) if self.known is not None else None
            if known is None or known[0] != record:
                known = self.placed.get(path)
            if known is not None and known[0] == record:
                directory.files[name] = known
            else:
                self._admit(path, record[2])
                self.found.unread.append(Unread(self.here, name, record))
        elif stat.S_ISLNK(record[0]):
            directory.count += 1
            directory.files[name] = record, self._link(name, path)
        else:
            raise refused(path, "neither file nor directory nor link")
        if self.found.trusted(record) is None:
            directory.listing = None

    def _admit(self, path: str, size: int) -> None:
        if size > self.rules.config.max_file_mb << 20:
            raise refused(path, f"larger than max_file_mb={self.rules.config.max_file_mb}")

    def _link(self, name: str, path: str) -> Entry:
        try:
            target = os.readlink(f"{self.root}/{path}")
        except OSError as e:
            raise Moved(path) from e
        if leaves(target, self.here):
            raise refused(path, f"it links to {shown(target)}, outside of the workspace")
        return Entry(name, "link", target, len(os.fsencode(target)), 0o777)


# --- reading ---


def unreadable(path: str, error: OSError) -> Exception:
    """What it means that a file cannot be read which was there a moment ago."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE):
        return Moved(path)
    denied = isinstance(error, PermissionError)
    return refused(path, "no permission" if denied else error.strerror or str(error))


def content(root: Path, unread: Unread) -> bytes:
    """The bytes of a file as they were during the scan.

    Raises:
        Moved: It changed.
        FilesRefused: It cannot be read.
    """
    try:
        fd = os.open(f"{root}/{unread.path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb", buffering=0) as file:
            data = file.read(unread.record[2] + 1)
            if record_of(os.fstat(fd)) != unread.record or len(data) != unread.record[2]:
                raise Moved(unread.path)
    except OSError as e:
        raise unreadable(unread.path, e) from e
    return data


def unchanged(root: Path, unread: Unread) -> bool:
    """Whether a file still has the record of the scan."""
    try:
        return record_of(os.lstat(f"{root}/{unread.path}")) == unread.record
    except OSError:
        return False
