"""Built environments on a host: `{root}/{digest}.{token}/`, each complete or never used.

One is usable as long as it has its record, which is written before it gets its name by one rename.
Who uses it holds it, and what is held is never removed. What a crash leaves is in `.tmp`, `.trash` and
`.locks`, where a sweep finds it. Most of this blocks: it is called in threads.
"""

import asyncio
import base64
import csv
import hashlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from wtb_ray import errors, flocks, homes, inputs, locks, removal
from wtb_ray.bases import Base
from wtb_ray.environment import Gone, Pins
from wtb_ray.flocks import Hold
from wtb_ray.frozen import Frozen

log = logging.getLogger(__name__)

RECORD: Final = "environment.json"
VOID: Final = "environment.void"
"""The record of one that is not to be used any more."""
TMP: Final = ".tmp"
LOCKS: Final = ".locks"
KEY: Final = 32
"""Digits of the digest in a directory's name."""
PLAIN: Final = re.compile(r"[A-Za-z0-9_./-]+")
"""What Ray can start an interpreter from: it puts the path into a shell command as it is."""


class Record(Frozen):
    """What an environment is, in the environment itself."""

    venv: str
    """Digest of all that it was made of."""
    spec: str
    """Digest of the specification that it was built for first."""
    base: str
    """Digest of the base that it lies over."""
    executable: str
    site: tuple[str, ...]
    """Where that base is on this host."""
    pins: Pins
    installed: dict[str, str]
    """Version by name of what is in it, beside what the base has."""
    bytes: int
    seconds: float
    """How long it took to build."""
    boot: str
    """The start of the host in which all of it was seen to be on the disk."""

    @classmethod
    def over(cls, base: Base, **fields: Any) -> "Record":
        """That of an environment over this base, built since the host started."""
        standing = {"executable": base.executable, "site": base.site, "boot": locks.boot()}
        return cls(base=base.digest, **standing, **fields)

    @property
    def packages(self) -> dict[str, str]:
        """Version by name of what was asked for and what that needs."""
        return {**self.pins.packages, **self.installed}


class Installed(NamedTuple):
    """A built environment."""

    path: Path
    record: Record
    used: float
    """When it was last used, in seconds since the epoch."""

    @property
    def python(self) -> str:
        """Its interpreter."""
        return f"{self.path}/bin/python"


class Swept(Frozen):
    """What a sweep found and did, or would do."""

    gone: tuple[Gone, ...] = ()
    leftovers: int = 0
    """Directories of builds and removals that were cut off."""
    entries: int = 0
    """Environments that stay."""
    bytes: int = 0
    """Size of what stays, of files that it shares with uv's cache too."""
    held: int = 0
    """How many of those that stay are in use."""


def check_root(root: Path) -> None:
    """Refuses a place that Ray could not start an interpreter from.

    Raises:
        ConfigurationError: The path has other characters than letters, digits and `_./-`.
    """
    if not PLAIN.fullmatch(str(root)):
        raise errors.ConfigurationError(
            f"environments cannot be built in {root}: Ray needs a path of letters, digits and _./-",
            setting="data_dir",
            path=str(root),
            reason="characters",
        )


def name_of(digest: str) -> str:
    """A new directory's name for an environment."""
    return f"{digest[:KEY]}.{secrets.token_hex(4)}"


def hold(place: str | Path) -> Hold:
    """Keeps an environment from being removed until this process ends; for who runs in it.

    Args:
        place: Its directory, or its interpreter.

    Raises:
        Unavailable: It is not there any more, or not to be used any more; acquire it again.
    """
    path = Path(place)
    directory = path.parent.parent if path.name.startswith("python") else path
    try:
        held = flocks.share(directory)
    except FileNotFoundError:
        raise _gone(directory) from None
    if not (directory / RECORD).exists():
        held.release()
        raise _gone(directory)
    return held


@asynccontextmanager
async def scratch(root: Path) -> AsyncIterator[tuple[Path, Hold]]:
    """A new directory beside the environments that is gone afterwards, and the hold on it."""
    held = None
    while held is None:
        path = root / TMP / secrets.token_hex(8)
        path.mkdir(parents=True)
        with suppress(FileNotFoundError):  # a sweep saw it before it was held
            held = flocks.share(path)
    try:
        yield path, held
    finally:
        # Renamed first: a thread that was left behind when this was cancelled writes nothing more.
        thrown = removal.discard(root, path)
        held.release()
        await asyncio.to_thread(removal.remove, thrown)


def lock_of(root: Path, digest: str) -> Path:
    """What whoever builds this environment holds alone."""
    return root / LOCKS / digest[:KEY]


def listed(root: Path) -> list[Installed]:
    """All environments that are usable."""
    return [found for path in _directories(root) if (found := read(path)) is not None]


def read(path: Path, record: str = RECORD) -> Installed | None:
    """The environment of a directory; None where there is none."""
    file = path / record
    try:
        return Installed(path, Record.model_validate_json(file.read_bytes()), file.stat().st_mtime)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def find(root: Path, digest: str, base: Base) -> Installed | None:
    """The environment with this digest over the base as it lies on this host.

    One that has not been looked through since the host started is looked through first: a machine
    that dies may leave empty files. What lies over a base that is elsewhere now, or is damaged, is not
    to be used any more.
    """
    for path in sorted(root.glob(f"{digest[:KEY]}.*")):
        found = read(path)
        if found is None or found.record.venv != digest:
            continue
        standing = (found.record.executable, found.record.site) == (base.executable, base.site)
        if standing and found.record.boot == locks.boot():
            return found
        if standing and not damaged(path):
            record = found.record.model_copy(update={"boot": locks.boot()})
            write(path, record)
            return found._replace(record=record)
        void(path)
    return None


def write(path: Path, record: Record) -> None:
    """Makes a directory a usable environment, or changes its record as a whole."""
    staged = path / f".{RECORD}.{secrets.token_hex(4)}"
    with staged.open("xb") as file:
        file.write(record.model_dump_json().encode())
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path / RECORD)


def publish(root: Path, made: Path, record: Record) -> tuple[Path, Hold]:
    """Gives a complete environment its name, by which it is found from now on, and holds it."""
    write(made, record)
    held = flocks.share(made)
    try:
        final = root / name_of(record.venv)
        made.rename(final)
    except BaseException:
        held.release()
        raise
    return final, held


def touch(path: Path) -> None:
    """Says that it is used now.

    Raises:
        FileNotFoundError: It is not to be used any more.
    """
    os.utime(path / RECORD)


def void(path: Path) -> None:
    """Nobody uses it from now on; who does goes on."""
    with suppress(FileNotFoundError):
        (path / RECORD).rename(path / VOID)


def damaged(path: Path) -> list[str]:
    """Paths of installed files that are not as they were installed."""
    return [
        os.path.relpath(file, path)
        for listing in path.glob("lib/python*/site-packages/*.dist-info/RECORD")
        for file, recorded in _recorded(listing)
        if _hash(file) != recorded
    ]


def size(path: Path) -> int:
    """Bytes of all files below."""
    total = 0
    for folder, _, files in os.walk(path):
        for file in files:
            total += os.lstat(f"{folder}/{file}").st_size
    return total


def copy(source: Path, target: Path) -> None:
    """Copies an environment, in place of what is at the target; blocks are shared where that is possible.

    Raises:
        Unavailable: The source is not there any more.
        StorageFull: There is no room for it; the target is as it was.
        ConfigurationError: Nothing can be written there.
    """
    staged = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    former = staged.with_name(f"{staged.name}.former")
    with homes.writing(target), hold(source):
        try:
            _copy(source, staged)
            with suppress(FileNotFoundError):
                target.rename(former)
            staged.rename(target)
        finally:
            removal.remove(staged, former)


def sweep(
    root: Path,
    *,
    most_bytes: int,
    max_age_s: float,
    dry_run: bool = False,
    now: float | None = None,
) -> Swept:
    """Removes what nobody holds and nobody is to use, has used for long, or there is no room for.

    Args:
        root: Where environments are.
        most_bytes: Above this the ones go that were not used for longest.
        max_age_s: The longest time without use.
        dry_run: Only say what would go.
        now: Seconds since the epoch.
    """
    kept, gone = _too_old(root, max_age_s, dry_run, time.time() if now is None else now)
    excess = sum(one.record.bytes for one in kept) - most_bytes
    for one in sorted(kept, key=lambda one: one.used):
        if excess > 0 and (done := _evict(root, one.path, one, "size", dry_run)):
            gone += done
            excess -= one.record.bytes
            kept.remove(one)
    return Swept(
        gone=tuple(gone),
        leftovers=0 if dry_run else _leftovers(root),
        entries=len(kept),
        bytes=excess + most_bytes,
        held=sum(_held(one.path) for one in kept),
    )


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Says in the bench's words why an environment cannot be written.

    Raises:
        StorageFull: There is no room for it.
        ConfigurationError: Nothing can be written there.
    """
    try:
        yield
    except OSError as e:
        where, reason = os.fspath(e.filename or root), e.strerror or str(e)
        if e.errno in homes.FULL:
            raise errors.StorageFull(
                f"no room for an environment in {root}: {reason}", path=where, reason=reason
            ) from e
        if e.errno in homes.FORBIDDEN:
            raise errors.ConfigurationError(
                f"environments cannot be written in {root}: {reason}: {where}",
                setting="data_dir",
                path=where,
                reason=reason,
            ) from e
        raise


def _gone(directory: Path) -> errors.Unavailable:
    return errors.Unavailable(
        f"the environment in {directory} is not there any more", path=str(directory), reason="gone"
    )


def _directories(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if not p.name.startswith(".") and p.is_dir())


def _held(path: Path) -> bool:
    try:
        held = flocks.seize(path)
    except FileNotFoundError:
        return False
    if held is not None:
        held.release()
    return held is None


def _too_old(
    root: Path, max_age_s: float, dry_run: bool, now: float
) -> tuple[list[Installed], list[Gone]]:
    """Removes what nobody is to use or has used for long; gives what stays and what went."""
    kept: list[Installed] = []
    gone: list[Gone] = []
    for path in _directories(root):
        found = read(path)
        if found is None:
            gone += _evict(root, path, None, "invalid", dry_run)
        elif now - found.used <= max_age_s:
            kept.append(found)
        elif done := _evict(root, path, found, "age", dry_run):
            gone += done
        else:  # it is in use, which is a use
            kept.append(found if dry_run else _touched(found, now))
    return kept, gone


def _touched(found: Installed, now: float) -> Installed:
    with suppress(FileNotFoundError):
        touch(found.path)
    return found._replace(used=now)


def _evict(
    root: Path, path: Path, found: Installed | None, reason: str, dry_run: bool
) -> list[Gone]:
    """Removes one that nobody holds and that is as it was found; else gives nothing."""
    try:
        held = flocks.seize(path)
    except FileNotFoundError:
        return []
    if held is None:
        return []
    with held:
        if read(path) != found:
            return []
        last = found or read(path, VOID)
        one = Gone(
            venv=last.record.venv if last else path.name.partition(".")[0],
            path=str(path),
            bytes=last.record.bytes if last else size(path),
            reason=reason,
            used_at=last.used if last else path.stat().st_mtime,
        )
        thrown = [] if dry_run else [removal.discard(root, path)]
    _remove(thrown)
    return [one]


def _leftovers(root: Path) -> int:
    """Removes what was cut off; gives how many directories."""
    thrown = _children(root / removal.TRASH)
    for path in _children(root / TMP):
        with suppress(FileNotFoundError):
            if held := flocks.seize(path):
                with held:
                    thrown.append(removal.discard(root, path))
    for path in _children(root / LOCKS):
        with suppress(FileNotFoundError):
            if held := flocks.seize(path):
                flocks.leave(path, held)
    _remove(thrown)
    return len(thrown)


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _remove(thrown: list[Path]) -> None:
    for path in thrown:
        try:
            removal.remove(path)
        except OSError as e:  # one that cannot be removed must not keep the others
            log.warning("not removed: %s: %s", path, e, extra={"action": "sweep"})


def _recorded(listing: Path) -> Iterator[tuple[Path, str]]:
    """Files of a distribution and their hashes, as far as it has any."""
    with listing.open(newline="") as rows:
        for row in csv.reader(rows):
            if len(row) == 3 and row[1]:
                yield listing.parent.parent / row[0], row[1]


def _hash(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").digest()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    return f"sha256={base64.urlsafe_b64encode(found).rstrip(b'=').decode()}"


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    with os.scandir(source) as entries:
        for entry in entries:
            to = target / entry.name
            if entry.is_symlink():
                to.symlink_to(os.readlink(entry.path))
            elif entry.is_dir():
                _copy(Path(entry.path), to)
            else:
                found = entry.stat()
                inputs.clone(Path(entry.path), to)
                # What Python compiled is told to be of this file by its time.
                os.utime(to, ns=(found.st_atime_ns, found.st_mtime_ns))
                to.chmod(stat.S_IMODE(found.st_mode))
