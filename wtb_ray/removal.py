"""Removing a directory for good, whatever modes its files have, without anybody seeing half of it.

What is to go is renamed into the trash beside all workspaces first, which is atomic, and then taken
apart there. A crash leaves it in the trash, for the next sweep. Links are never followed.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

TRASH: Final = ".trash"


def discard(root: Path, directory: Path) -> Path:
    """Renames a directory below `root` into its trash; gives where it is now."""
    trash = root / TRASH
    target = trash / f"{directory.parent.name}.{directory.name}.{secrets.token_hex(4)}"
    try:
        directory.rename(target)
    except FileNotFoundError:
        trash.mkdir(exist_ok=True)
        directory.rename(target)
    return target


def remove(*directories: Path) -> None:
    """Takes directories apart; what is not there is no matter.

    Raises:
        OSError: Something in it belongs to somebody else, or cannot be removed.
    """
    for directory in directories:
        try:
            _remove(directory)
        except PermissionError:
            _open_up(directory)
            _remove(directory)


def size(directories: Iterable[Path]) -> int:
    """Bytes that the files below these directories take and that go with them."""
    total, left = 0, list(directories)
    while left:
        try:
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        left.append(Path(entry.path))
                    elif found.st_nlink == 1:
                        total += found.st_size
        except (FileNotFoundError, PermissionError):  # going already, or not to be looked into
            continue
    return total


def _remove(directory: Path) -> None:
    while True:
        try:
            return shutil.rmtree(directory)
        except FileNotFoundError:  # somebody else removes it too
            if not os.path.lexists(directory):
                return None


def _open_up(directory: Path) -> None:
    """Lets its owner into every directory below, which comes before anything can be removed there."""
    left = [directory]
    while left:
        one = left.pop()
        if stat.S_IMODE(one.stat().st_mode) & stat.S_IRWXU != stat.S_IRWXU:
            one.chmod(stat.S_IRWXU)
        with os.scandir(one) as entries:
            left.extend(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False))
