"""Bundles: the code of a project version as one zip archive, stored by its SHA-256.

Guarantees: an archive is accepted only if its digest, its real (not its declared) sizes and all of
its paths are; unpacking shows a complete folder or none, once per node. Never imports what it
unpacks: `activate` only makes it importable. Code is trusted; these checks protect the host from
accidents and hostile archives, not from what the code does when it runs.
"""

import asyncio
import errno
import hashlib
import importlib.abc
import importlib.util
import io
import os
import secrets
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from wtb_ray import bundle_names, errors
from wtb_ray.model import (
    BUNDLE_MAIN,
    BUNDLE_MAX_FILES,
    BUNDLE_MAX_MB,
    BUNDLE_PATHS,
    BUNDLE_RESERVED,
    MAIN_MODULE,
    RUNNER_ENV,
)
from wtb_ray.objects import ObjectStore, key_of

_SUFFIXES = (".py", ".pyc", ".so", ".pyd")
_MARKER_LIMIT = 64 << 10
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Python unpacks the others in one piece, however much it is: 1 KiB of bzip2 may hold 1 GiB."""
_END_SIZE = 22


async def fetch(objects: ObjectStore, digest: str, directory: Path) -> Path:
    """The unpacked folder of a bundle on this node, fetched and unpacked if it is not there yet.

    Raises:
        UnknownBundle: The store has no such bundle.
        BundleRejected: The archive is not acceptable.
    """
    target = directory / _named(digest)
    if target.is_dir():
        return target
    try:
        data = await objects.get(digest)
    except errors.UnknownObject as e:
        raise errors.UnknownBundle(f"there is no bundle {digest}", digest=digest) from e
    return await asyncio.to_thread(unpack, data, digest, directory)


def check(data: bytes, digest: str, max_mb: int = BUNDLE_MAX_MB) -> None:
    """Refuse an archive that is not what its digest says or must not be unpacked.

    Raises:
        BundleRejected: With the reason, and the path where one is to blame.
    """
    for _ in _members(data, digest, max_mb):
        pass


def unpack(data: bytes, digest: str, directory: Path, max_mb: int = BUNDLE_MAX_MB) -> Path:
    """Unpack a bundle into `directory/digest`, once, and return that folder.

    Raises:
        BundleRejected: The archive is not acceptable; nothing of it stays.
        StorageFull: There is no room for it; nothing of it stays.
    """
    target = directory / _named(digest)
    if target.is_dir():
        return target
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f".{digest}.{secrets.token_hex(6)}"
    try:
        partial.mkdir()
        for info, content in _members(data, digest, max_mb):
            _write(
                partial / info.filename,
                content,
                0o755 if info.external_attr >> 16 & 0o100 else 0o644,
            )
        try:
            partial.rename(target)
        except OSError:  # another process was first, and its folder has the same digest
            if not target.is_dir():
                raise
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise errors.StorageFull(
            f"there is no room in {directory} for a bundle", path=str(directory), reason=str(e)
        ) from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def repacked(folder: Path) -> bytes:
    """The archive that an unpacked folder was, if it was packed by the SDK and nobody changed it.

    Raises:
        OSError: It cannot be read.
    """
    names = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    markers = [name for name in (BUNDLE_MAIN, BUNDLE_PATHS) if name in names]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in [*markers, *sorted(names.keys() - set(markers))]:
            executable = bool(names[name].stat().st_mode & 0o100)
            bundle_names.add(archive, name, names[name].read_bytes(), executable=executable)
    return out.getvalue()


def activate(path: Path) -> None:
    """Make an unpacked bundle importable in this process, which serves this bundle alone.

    Puts root, root/src and the bundle's own import folders before everything else on `sys.path`,
    makes its script importable as `__wtb_main__`, and marks the process as a runner.
    """
    os.environ[RUNNER_ENV] = "1"
    folders = [path, path / "src", *(path / line for line in _lines(path / BUNDLE_PATHS))]
    script = next((path / line for line in _lines(path / BUNDLE_MAIN)), None)
    if script is not None:
        folders.append(script.parent)  # python puts a script's own folder on sys.path
        _MainFinder.install(script)
    wanted = dict.fromkeys(str(f) for f in folders if f.is_dir())
    sys.path[:] = [*wanted, *(p for p in sys.path if p not in wanted)]
    importlib.invalidate_caches()


class _MainFinder(importlib.abc.MetaPathFinder):
    """Finds the bundle's script under the name `__wtb_main__`."""

    def __init__(self, script: Path) -> None:
        self.script = script

    @classmethod
    def install(cls, script: Path) -> None:
        sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, cls)]
        sys.meta_path.insert(0, cls(script))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MAIN_MODULE:
            return None
        # A script may have any suffix, or none; a loader that is not named is chosen by it.
        loader = SourceFileLoader(MAIN_MODULE, str(self.script))
        return importlib.util.spec_from_file_location(MAIN_MODULE, self.script, loader=loader)


def _members(data: bytes, digest: str, max_mb: int) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
    """The files of an archive with their contents, each checked before it is given."""
    limit = max_mb << 20
    if len(data) > limit:
        raise _rejected(f"is larger than {max_mb} MiB", reason="too_large")
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise _rejected(f"has the digest {found}, not {digest}", reason="digest", found=found)
    try:
        _check_end(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_names(archive.infolist())
            _check_top(archive)
            for info in archive.infolist():
                if not info.is_dir():
                    content = _read(archive, info, limit)
                    limit -= len(content)
                    yield info, content
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError) as e:
        raise _rejected(f"is no readable zip archive: {e}", reason="not_a_zip") from e


def _check_end(data: bytes) -> None:
    """Count the entries before `zipfile` makes an object of each, whatever the archive says it has.

    The end is taken only in its plain form, without a comment or 64-bit sizes, since there the
    list of entries is where this looks and nowhere else.
    """
    end = len(data) - _END_SIZE
    plain = data[max(end, 0) :].startswith(b"PK\5\6") and data.endswith(b"\0\0")
    if end < 0 or not plain or data[max(end - 20, 0) :].startswith(b"PK\6\7"):
        raise zipfile.BadZipFile("it does not end with a plain list of its entries")
    size = int.from_bytes(data[end + 12 : end + 16], "little")
    _check_count(data.count(b"PK\1\2", max(end - size, 0), end), "files")


def _check_count(found: int, what: str) -> None:
    if found > BUNDLE_MAX_FILES:
        raise _rejected(
            f"has {found} {what}, more than {BUNDLE_MAX_FILES}", reason="too_many_files"
        )


def _check_names(infos: list[zipfile.ZipInfo]) -> None:
    names: set[str] = set()
    folders: set[str] = set()
    for info in infos:
        name = info.filename.rstrip("/") if info.is_dir() else info.filename
        _check_path(name, info.filename)
        _check_kind(info)
        if not info.is_dir() and name in names:
            raise _rejected("has two entries for one path", "duplicate_path", info)
        (folders if info.is_dir() else names).add(name)
        while (name := name.rpartition("/")[0]) and name not in folders:
            folders.add(name)
        _check_count(len(folders), "folders")
    if both := folders & names:
        raise _rejected("has two entries for one path", "duplicate_path", min(both))


def _check_path(name: str, given: str) -> None:
    if why := bundle_names.fault(name):
        raise _rejected(f"has the path {given!r}: {why}", "path", given)


def _check_kind(info: zipfile.ZipInfo) -> None:
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _rejected(f"has {info.filename!r}, which is a link or device", "link", info)
    if info.flag_bits & 0x1:
        raise _rejected(f"has {info.filename!r}, which is encrypted", "encrypted", info)
    if info.compress_type not in _METHODS:
        raise _rejected(
            f"has {info.filename!r}, which is neither stored nor deflated", "compression", info
        )


def _check_top(archive: zipfile.ZipFile) -> None:
    """Refuse names that would hide the bench's packages in any folder `activate` will add."""
    paths, main = (_marker(archive, name) for name in (BUNDLE_PATHS, BUNDLE_MAIN))
    folders = ["", "src", *paths, *(line.rpartition("/")[0] for line in main)]
    prefixes = {f"{folder}/" if folder else "" for folder in folders}
    for name in archive.namelist():
        for prefix in prefixes:
            part = name.removeprefix(prefix).split("/")[0] if name.startswith(prefix) else ""
            top = part.split(".")[0] if part.endswith(_SUFFIXES) else part
            if top in BUNDLE_RESERVED:
                raise _rejected(
                    f"has {name!r}, which would hide the package {top!r}: rename it, or give the"
                    " project a root= below it",
                    "reserved_name",
                    name,
                )


def _marker(archive: zipfile.ZipFile, name: str) -> list[str]:
    if name not in archive.namelist():
        return []
    text = _read(archive, archive.getinfo(name), _MARKER_LIMIT).decode()
    for line in _split(text):
        _check_path(line, line)
    return _split(text)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    with archive.open(info) as f:
        content = f.read(limit + 1)
        if len(content) > limit:
            raise _rejected("is too large when unpacked", reason="too_large")
        return content


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _created(path) as f:
        f.write(content)
        f.flush()
        # A machine that dies must not leave a folder that looks complete and has empty files.
        os.fsync(f.fileno())
    path.chmod(mode)


def _created(path: Path) -> BinaryIO:
    try:
        return path.open("xb")
    except FileExistsError as e:
        raise _rejected(
            f"has {path.name!r} twice, in other case or another spelling, which this disk does not"
            " tell apart",
            "duplicate_path",
            path.name,
        ) from e


def _named(digest: str) -> str:
    key_of(digest)  # refuses what is no digest, and so every path
    return digest


def _lines(path: Path) -> list[str]:
    return _split(path.read_bytes().decode()) if path.is_file() else []


def _split(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def _rejected(
    what: str, reason: str, where: zipfile.ZipInfo | str | None = None, **details: str
) -> errors.BundleRejected:
    path = where.filename if isinstance(where, zipfile.ZipInfo) else where
    if path is not None:
        details["path"] = path
    return errors.BundleRejected(f"the bundle {what}", field="bundle", reason=reason, **details)
