"""Inputs of workspaces: files of the project's folder, below `input/`, read only.

They are kept once per host and bundle, with their hashes, and get into a workspace from there as
copies, hard links or symbolic links. Through a link a node may change what all others read; that is
noticed by size, times and hash, and made good from the bundle. Everything here blocks: it is called
in threads.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, Literal, NamedTuple

import orjson

from wtb_ray import errors, removal
from wtb_ray.model import digest

CACHE: Final = ".inputs"
FIELD: Final = "workspace_isolation.inputs"
COMPILED: Final = "__pycache__"
"""What importing leaves in the bundle's folder is no input."""
USED_WITHIN_S: Final = 86_400.0
"""Inputs that nobody opened a workspace with for this long may go."""
READ_ONLY_DIR: Final = 0o555
NOT_HERE: Final = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
)
"""Why a file system would make no hard link."""
_FICLONE: Final = 0x40049409

Strategy = Literal["full_copy", "hardlink_with_fallback", "symlink"]


class Original(NamedTuple):
    """An input as it was in the bundle."""

    digest: str
    size: int
    mode: int
    mtime_ns: int


class Inputs:
    """The inputs of one project version on this host."""

    def __init__(self, home: Path, bundle: Path) -> None:
        self._bundle = bundle
        self.files = home / "files"
        """Where they are kept."""
        self._home = home
        index = orjson.loads((home / "index").read_bytes())
        self._folders: list[str] = index["folders"]
        self._originals = {rel: Original(*one) for rel, one in index["files"].items()}
        self._seen: dict[str, tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def in_use(self) -> bool:
        """Keeps sweeps away from them; False when a sweep was first."""
        try:
            os.utime(self._home)
        except FileNotFoundError:
            return False
        return True

    def place(self, target: Path, strategy: Strategy) -> None:
        """Puts them into a directory that is not there yet.

        Raises:
            OSError: There is no room for them.
        """
        target.mkdir()
        folders = [target, *(target / rel for rel in self._folders)]
        for folder in folders[1:]:
            folder.mkdir()
        put = _PUT["full_copy" if self._copies(strategy) else strategy]
        for rel in self._originals:
            put(self.files / rel, target / rel)
        for folder in folders:
            folder.chmod(READ_ONLY_DIR)

    def replace(self, target: Path, strategy: Strategy) -> None:
        """Puts them in place of whatever is there."""
        removal.remove(target) if target.is_dir() else target.unlink(missing_ok=True)
        self.place(target, strategy)

    def changed(self, target: Path, strategy: Strategy) -> list[str]:
        """Which paths of a workspace's `input/` are not as they were put there."""
        found = dict(_below(target)) if target.is_dir() else {}
        wrong = set(found) - set(self._originals) - set(self._folders)
        for rel in self._originals:
            here = found.get(rel)
            if here is None or not self._as_put(rel, here, strategy):
                wrong.add(rel)
        return sorted(wrong | (set(self._folders) - set(found)))

    def heal(self, strategy: Strategy) -> list[str]:
        """Makes good what was changed where they are kept; gives the paths.

        A file with hard links is written anew in place, so that it is right again in all workspaces.

        Raises:
            ObjectCorrupt: The bundle's folder was changed as well.
        """
        counted = strategy == "hardlink_with_fallback"  # making a link also changes the ctime
        with self._lock:
            return [rel for rel in self._originals if not self._intact(rel, counted)]

    @staticmethod
    def _copies(strategy: Strategy) -> bool:
        """Whether they are copied. Root would write into a hard link and never notice."""
        return strategy == "full_copy" or (strategy != "symlink" and os.geteuid() == 0)

    def _as_put(self, rel: str, here: os.DirEntry[str], strategy: Strategy) -> bool:
        kept = self.files / rel
        if strategy == "symlink":
            return here.is_symlink() and os.readlink(here.path) == str(kept)
        found, original = here.stat(follow_symlinks=False), self._originals[rel]
        return (found.st_mode, found.st_size, found.st_mtime_ns) == (
            stat.S_IFREG | original.mode,
            original.size,
            original.mtime_ns,
        )

    def _intact(self, rel: str, counted: bool) -> bool:
        """Whether a kept file is right. If not, it is by then."""
        path, original = self.files / rel, self._originals[rel]
        mark = _mark(path, counted)
        if mark is not None and mark == self._seen.get(rel):
            return True
        intact = mark is not None and mark[0] == stat.S_IFREG | original.mode
        intact = intact and _hash(path) == original.digest
        if not intact:
            self._restore(rel, original)
            mark = _mark(path, counted)
        if mark is not None:
            self._seen[rel] = mark
        return intact

    def _restore(self, rel: str, original: Original) -> None:
        path, source = self.files / rel, self._bundle / rel
        if not source.is_file() or _hash(source) != original.digest:
            raise errors.ObjectCorrupt(
                f"the input {rel} was changed, and so was the bundle's file {source}",
                path=rel,
                reason="bundle_changed",
            )
        mark = _mark(path, counted=True)
        if mark is not None and stat.S_ISREG(mark[0]):
            path.chmod(0o600)
            with source.open("rb") as r, path.open("r+b") as w:
                shutil.copyfileobj(r, w)
                w.truncate()
            _settle(path, original)
            return
        if mark is not None and stat.S_ISDIR(mark[0]):
            removal.remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{secrets.token_hex(6)}")
        clone(source, staged)
        _settle(staged, original)
        staged.replace(path)


def check(bundle: Path | None, names: Sequence[str]) -> None:
    """Refuses inputs that are not there, or not in the project's folder.

    Raises:
        InvalidRequest: Names the path, and why.
    """
    if names:
        _collect(bundle, names)


def keep(root: Path, bundle: Path | None, names: Sequence[str]) -> Inputs:
    """The inputs of this bundle on this host, copied there by whoever needs them first.

    Args:
        root: The workspaces' root.
        bundle: The bundle's folder.
        names: Files and directories in it.

    Raises:
        InvalidRequest: One of them cannot be an input.
    """
    folders, files = _collect(bundle, names)
    assert bundle is not None
    cache = root / CACHE
    home = cache / digest([str(bundle.resolve()), sorted(names)])[:32]
    if not home.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        staged = cache / f".{secrets.token_hex(8)}"
        try:
            _copy_all(bundle, folders, files, staged)
            try:
                staged.rename(home)
            except OSError:  # another process was first
                if not home.is_dir():
                    raise
        finally:
            removal.remove(staged)
    return Inputs(home, bundle)


def _copy_all(bundle: Path, folders: Sequence[str], files: Sequence[str], staged: Path) -> None:
    (staged / "files").mkdir(parents=True)
    for rel in folders:
        (staged / "files" / rel).mkdir()
    originals: dict[str, tuple[str, int, int, int]] = {}
    for rel in files:
        source, target = bundle / rel, staged / "files" / rel
        mode = 0o555 if source.stat().st_mode & stat.S_IXUSR else 0o444
        clone(source, target)
        target.chmod(mode)
        found = target.stat()
        originals[rel] = (_hash(target), found.st_size, mode, found.st_mtime_ns)
    index = {"folders": folders, "files": originals}
    (staged / "index").write_bytes(orjson.dumps(index))


def _collect(bundle: Path | None, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Relative paths of all directories, parents first, and of all files."""
    if bundle is None:
        raise _refused(names[0], "no_bundle", "is wanted, but the project has no bundle")
    folders: set[str] = set()
    files: set[str] = set()
    for name in names:
        parts = _parts(name)
        folders.update("/".join(parts[:n]) for n in range(1, len(parts)))
        rel = "/".join(parts)
        mode = _mode(bundle, parts, name)
        if not stat.S_ISDIR(mode):
            _check_kind(rel, mode)
            files.add(rel)
            continue
        if rel:
            folders.add(rel)
        for below, entry in _below(bundle / rel):
            path = f"{rel}/{below}" if rel else below
            kind = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(kind):
                folders.add(path)
            else:
                _check_kind(path, kind)
                files.add(path)
    return sorted(folders), sorted(files)


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    if not name or "\0" in name:
        raise _refused(name, "empty" if not name else "nul", "is no path")
    if path.is_absolute():
        raise _refused(name, "absolute", "is absolute: inputs are named from the project's folder")
    if ".." in path.parts:
        raise _refused(name, "parent", "has a '..'")
    return path.parts


def _mode(bundle: Path, parts: Sequence[str], name: str) -> int:
    path, mode = bundle, stat.S_IFDIR
    for part in parts:
        path = path / part
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise _refused(name, "missing", "is not in the project's bundle") from None
        if stat.S_ISLNK(mode):
            raise _refused(name, "link", "leads over a link")
    return mode


def _check_kind(rel: str, mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise _refused(rel, "link", "is a link")
    if not stat.S_ISREG(mode):
        raise _refused(rel, "special", "is no file and no directory")


def _below(directory: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a directory with its relative path, parents first."""
    left = [("", str(directory))]
    while left:
        prefix, path = left.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name == COMPILED:
                        continue
                    left.append((f"{prefix}{entry.name}/", entry.path))
                yield prefix + entry.name, entry


def _settle(path: Path, original: Original) -> None:
    """Gives a file that was made good its mode and time: copies are told from changed ones by these."""
    os.utime(path, ns=(original.mtime_ns, original.mtime_ns))
    path.chmod(original.mode)


def _copy(source: Path, target: Path) -> None:
    """A copy that can be told from a changed one by its size and times."""
    clone(source, target)
    found = source.stat()
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    target.chmod(stat.S_IMODE(found.st_mode))


def _hard_link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as e:
        if e.errno not in NOT_HERE:
            raise
        _copy(source, target)


def _symlink(source: Path, target: Path) -> None:
    target.symlink_to(source)


_PUT: Final = {"full_copy": _copy, "hardlink_with_fallback": _hard_link, "symlink": _symlink}


def clone(source: Path, target: Path) -> None:
    """Copies a file's bytes to a new file; the two share blocks where the file system can do that."""
    with source.open("rb") as r, target.open("xb") as w:
        try:
            fcntl.ioctl(w.fileno(), _FICLONE, r.fileno())
        except OSError:
            if not _copy_range(r.fileno(), w.fileno()):
                r.seek(0)
                w.seek(0)
                shutil.copyfileobj(r, w, 1 << 20)


def _copy_range(source: int, target: int) -> bool:
    """Has the kernel copy; whether it did, which it does not between some file systems."""
    try:
        while os.copy_file_range(source, target, 1 << 30):
            pass
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return os.fstat(source).st_size == os.fstat(target).st_size


def _hash(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _mark(path: Path, counted: bool) -> tuple[int, ...] | None:
    """What changes when a file is written to; None when there is none."""
    try:
        s = path.lstat()
    except FileNotFoundError:
        return None
    return s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns, 0 if counted else s.st_ctime_ns


def _refused(name: str, reason: str, what: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(
        f"the input {name!a} {what}", field=FIELD, path=name, reason=reason
    )
