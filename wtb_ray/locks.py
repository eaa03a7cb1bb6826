"""Who holds a directory: host, process and its start, so that an owner's end can be proved.

A lock is a small file in the directory, replaced as a whole. Whoever looks at locks in order to take
or remove directories does so inside `guarded`, which one process of a host enters at a time and
whose end the kernel brings about when the process dies. Nothing here waits for a lock's owner.
"""

import dataclasses
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import orjson
import psutil

LOCK: Final = "lock"
GONE: Final = "gone"


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process, told apart from all that had or will have its number."""

    host: str
    boot: str
    """Which start of the host."""
    numbering: str
    """The namespace of process numbers: in another one the number is somebody else's."""
    pid: int
    started: str
    runner: str
    released: bool = False
    """It needs the directory no more."""

    @classmethod
    def here(cls, runner: str) -> "Owner":
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), boot(), _numbering(), pid, _started(pid), runner)

    @property
    def foreign(self) -> bool:
        """It is another host's, and nothing can be said about it here."""
        return self.host != socket.gethostname()

    def lets_go(self) -> bool:
        """Whether it has released what it held, or is provably gone. False is no proof that it lives."""
        if self.foreign:
            return False
        if self.released or self.boot != boot():
            return True
        if self.numbering != _numbering():
            return False
        return not psutil.pid_exists(self.pid) or _started(self.pid) not in (self.started, "")


def write(directory: Path, owner: Owner) -> None:
    """Makes this the owner of the directory, in place of any other."""
    staged = directory / f".{LOCK}.{secrets.token_hex(4)}"
    staged.write_bytes(orjson.dumps(dataclasses.asdict(owner)))
    staged.replace(directory / LOCK)


def release(directory: Path, owner: Owner) -> None:
    """Lets whoever comes next have the directory, if it still is this owner's."""
    if read(directory) == owner:
        write(directory, dataclasses.replace(owner, released=True))


def read(directory: Path) -> Owner | None:
    """Who holds the directory; None when it has no lock that says so."""
    try:
        return Owner(**orjson.loads((directory / LOCK).read_bytes()))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        # A lock is written inside `guarded`, so its maker, or the whole host, died doing it.
        return None


def free(directory: Path) -> bool:
    """Whether nobody holds the directory any more. To be asked inside `guarded`."""
    owner = read(directory)
    return owner is None or owner.lets_go()


@contextmanager
def guarded(directory: Path, *, make: bool = False) -> Iterator[None]:
    """Inside, no other process of this host takes or removes anything in the directory.

    Raises:
        FileNotFoundError: There is no such directory, and none is to be made.
    """
    fd = _locked(directory, make)
    try:
        yield
    finally:
        os.close(fd)


def _locked(directory: Path, make: bool) -> int:
    while True:
        if make:
            with suppress(FileExistsError):  # and gone again before mkdir could look at it
                directory.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if make:  # it was removed in between
                continue
            raise
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is(directory, fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is(directory: Path, fd: int) -> bool:
    """Whether the path still leads to what was opened: the one before may have removed it."""
    try:
        return os.path.samestat(os.stat(directory), os.fstat(fd))
    except FileNotFoundError:
        return False


def _started(pid: int) -> str:
    """When a process started, as text; `GONE` for one that has ended, empty when nobody can say.

    In clock ticks since the boot where Linux gives them: the time of day would move with the clock,
    and a living owner would look like another process.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return _created(pid)
    fields = text.rpartition(")")[2].split()
    state, threads, ticks = fields[0], int(fields[17]), fields[19]
    return GONE if state in "ZX" and threads <= 1 else ticks


def _created(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.NoSuchProcess:
        return "" if psutil.pid_exists(pid) else GONE
    except psutil.AccessDenied:
        return ""


def boot() -> str:
    """Which start of the host this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return f"{psutil.boot_time():.0f}"


def _numbering() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux: there is but one
        return ""
