"""Holding a directory as long as a process lives: the kernel gives it back when the process dies.

A hold is an flock on the directory itself. Shared ones keep it from being removed, as whoever removes
a directory takes an exclusive one first and renames it before it lets go. Nothing is left of a hold.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

POLL_S: Final = 0.02


class Hold:
    """A directory that is held until `release`, or until the process ends."""

    def __init__(self, fd: int):
        self.fd = fd

    def release(self) -> None:
        """Gives it back; twice is no matter."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def share(directory: Path) -> Hold:
    """Holds a directory beside others who share it; waits while somebody is removing it.

    Raises:
        FileNotFoundError: It is not there, or not any more.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return _checked(directory, fd, fcntl.LOCK_SH)


def seize(directory: Path) -> Hold | None:
    """Holds a directory alone; None when anybody else holds it.

    Raises:
        FileNotFoundError: It is not there, or not any more.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _checked(directory, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


@asynccontextmanager
async def alone(directory: Path) -> AsyncIterator[None]:
    """Inside, nobody else on this host is inside for the same directory, which is made and removed."""
    held = None
    while held is None:
        held = enter(directory)
        if held is None:
            await asyncio.sleep(POLL_S)
    try:
        yield
    finally:
        leave(directory, held)


def leave(directory: Path, held: Hold) -> None:
    """Removes an empty directory that is held alone, and gives it back."""
    with held, suppress(OSError):
        directory.rmdir()


def enter(directory: Path) -> Hold | None:
    """Makes a directory and holds it alone, to be left by `leave`; None when somebody else is inside."""
    with suppress(FileNotFoundError, FileExistsError):  # whoever was inside removes it just now
        directory.mkdir(parents=True, exist_ok=True)
        return seize(directory)
    return None


def _checked(directory: Path, fd: int, how: int) -> Hold:
    try:
        fcntl.flock(fd, how)
        if os.path.samestat(os.stat(directory), os.fstat(fd)):
            return Hold(fd)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    raise FileNotFoundError(f"{directory} was removed")
