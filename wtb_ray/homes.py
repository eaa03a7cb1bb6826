"""Where workspaces lie on a host: `{root}/{execution}/{epoch}/`, one directory per claim.

Beside the lock, a home has `files/`, which is what node code sees. A claim takes the newest home of
an earlier one by renaming it, if that one's owner is provably gone or has let go; else it gets a new
one, so that whatever still runs for an earlier claim writes where nobody looks any more. Whoever
takes, gives back or removes a home does it under the guard of the execution's directory.
"""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from wtb_ray import errors, locks, removal
from wtb_ray.context import OUTPUT

log = logging.getLogger(__name__)

FILES: Final = "files"
ORPHAN: Final = "orphan"
"""Marks a home that nobody needs; its time is when that was first seen."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class Home(NamedTuple):
    """One claim's directory on this host."""

    root: Path
    execution_id: str
    epoch: int
    former: int | None = None
    """The epoch of the claim whose home it was before."""

    @property
    def path(self) -> Path:
        return self.root / self.execution_id / str(self.epoch)

    @property
    def files(self) -> Path:
        """What node code sees."""
        return self.path / FILES


def take(home: Home, owner: locks.Owner, *, anew: bool = False, since: int = 0) -> Home:
    """Makes a home, out of the newest earlier one of the execution where that is to be had.

    Args:
        home: Which one.
        owner: Who takes it.
        anew: Leave earlier ones where they are.
        since: Leave those of earlier epochs than this where they are.

    Raises:
        Fenced: Another claim has it, or a later one is here.
        StorageFull: There is no room for it.
        ConfigurationError: Nothing can be written there.
    """
    folder = home.path.parent
    with writing(home.path), locks.guarded(folder, make=True):
        epochs = _epochs(folder)
        if any(epoch > home.epoch for epoch in epochs):
            raise errors.Fenced(f"a later claim has a workspace in {folder}", path=str(folder))
        if home.epoch in epochs:
            if not locks.free(home.path):
                raise errors.Fenced(f"{home.path} is held already", path=str(home.path))
            home = home._replace(former=home.epoch)
        elif epochs and not anew and max(epochs) >= since and locks.free(folder / str(max(epochs))):
            home = home._replace(former=max(epochs))
            (folder / str(home.former)).rename(home.path)
        else:
            home.path.mkdir()
        locks.write(home.path, owner)
        (home.path / ORPHAN).unlink(missing_ok=True)
        furnish(home)
    return home


def retake(home: Home, owner: locks.Owner) -> Home:
    """Takes the newest home of the execution, if there is one that nobody holds; makes none.

    Raises:
        ConfigurationError: Nothing can be written there.
    """
    folder = home.path.parent
    with writing(home.path), suppress(FileNotFoundError), locks.guarded(folder):
        epochs = _epochs(folder)
        if epochs and max(epochs) <= home.epoch and locks.free(folder / str(max(epochs))):
            home = home._replace(former=max(epochs))
            if home.former != home.epoch:
                (folder / str(home.former)).rename(home.path)
            locks.write(home.path, owner)
    return home


def furnish(home: Home) -> None:
    """Makes what every workspace has."""
    (home.files / OUTPUT).mkdir(parents=True, exist_ok=True)


def give_back(home: Home, owner: locks.Owner) -> None:
    """Puts an earlier claim's home back to where it was, for nobody in particular."""
    with writing(home.path), locks.guarded(home.path.parent):
        locks.release(home.path, owner)
        home.path.rename(home.path.with_name(str(home.former)))


def release(home: Home, owner: locks.Owner) -> None:
    """Leaves a home to the next claim, or to be swept."""
    with writing(home.path), suppress(FileNotFoundError), locks.guarded(home.path.parent):
        locks.release(home.path, owner)


def leave(home: Home, owner: locks.Owner, *, earlier: bool) -> list[Path]:
    """Throws away a home of this owner, or it and all earlier ones that nobody holds.

    Returns:
        What is to be removed, out of sight by now.
    """
    folder, thrown = home.path.parent, []
    with writing(home.path), suppress(FileNotFoundError), locks.guarded(folder):
        locks.release(home.path, owner)
        for epoch in _epochs(folder):
            path = folder / str(epoch)
            mine = epoch == home.epoch or (earlier and epoch < home.epoch)
            if mine and locks.free(path):
                thrown.append(removal.discard(home.root, path))
        clear(folder)
    return thrown


def clear(folder: Path) -> None:
    """Removes an execution's directory if nothing is left in it. To be called under its guard."""
    try:
        folder.rmdir()
    except OSError as e:
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def listed(root: Path) -> Iterator[Home]:
    """All homes on this host, each execution's in order of epochs."""
    for folder in folders(root):
        for epoch in _epochs(folder):
            yield Home(root, folder.name, epoch)


def of(root: Path, execution_id: str) -> list[Home]:
    """The homes of one execution on this host, in order of epochs."""
    return [Home(root, execution_id, epoch) for epoch in _epochs(root / execution_id)]


def folders(root: Path) -> list[Path]:
    """The directories of executions on this host."""
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if not p.name.startswith(".") and p.is_dir())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says in the bench's words why a workspace cannot be written.

    Raises:
        StorageFull: There is no room for it.
        ConfigurationError: Nothing can be written there.
    """
    try:
        yield
    except OSError as e:
        where, reason = os.fspath(e.filename or path), e.strerror or str(e)
        if e.errno in FULL:
            raise errors.StorageFull(
                f"no room for the workspace {path}: {reason}", path=where, reason=reason
            ) from e
        if e.errno in FORBIDDEN:
            raise errors.ConfigurationError(
                f"the workspace {path} cannot be written: {reason}: {where}",
                setting="data_dir",
                path=where,
                reason=reason,
            ) from e
        raise


def _epochs(folder: Path) -> list[int]:
    try:
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    except FileNotFoundError:
        return []
