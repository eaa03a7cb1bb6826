"""Lists directories with what `stat` says of each entry, in processes of their own where it pays.

Python lets go of its lock around every `stat`, and gets it back only when no other thread wants it:
beside one node that computes, listing 10,000 files takes ten seconds in a thread and 20 ms here.
The helpers know nothing but paths; they are this file run as a script, and end with their parent.
"""

import marshal
import os
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

Record = tuple[int, int, int, int, int]
"""Mode, inode, size, mtime and ctime in ns; of a directory only the mode, the rest is 0."""
Listing = tuple[str, bytes]
"""The names in a directory, joined by NUL, and their packed records."""

RECORD = struct.Struct("=IQQqq")
_KIND = 0o170000
_LENGTH = struct.Struct("=Q")


def listing(directory: str) -> Listing:
    """What is in a directory now; entries that go away meanwhile are left out.

    Raises:
        OSError: It is no directory, or cannot be read.
    """
    names: list[str] = []
    packed: list[bytes] = []
    pack = RECORD.pack
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with os.scandir(fd) as found:
            for item in found:
                try:
                    status = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                names.append(item.name)
                mode = status.st_mode
                if mode & _KIND == stat.S_IFDIR:
                    packed.append(pack(mode, 0, 0, 0, 0))
                else:  # as in record_of, which costs a call
                    times = status.st_mtime_ns, status.st_ctime_ns
                    packed.append(pack(mode, status.st_ino, status.st_size, *times))
    finally:
        os.close(fd)
    return "\0".join(names), b"".join(packed)


def record_of(status: os.stat_result) -> Record:
    return (
        status.st_mode,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


class Listers:
    """Helper processes, started when they are first needed. Calls from threads take turns."""

    def __init__(self, count: int | None = None) -> None:
        self._count = count or min(os.cpu_count() or 1, 4)
        self._helpers: list[subprocess.Popen[bytes]] = []
        self._turn = threading.Lock()

    def listings(self, root: Path, directories: Sequence[str]) -> dict[str, Listing]:
        """The listings of directories below `root`; those that could not be listed are left out."""
        with self._turn:
            try:
                return self._asked(str(root), directories)
            except (OSError, EOFError):
                self._stop()  # somebody killed a helper: the caller lists by itself this time
                return {}

    def close(self) -> None:
        """End the helpers; they start again when they are needed again."""
        with self._turn:
            self._stop()

    def _asked(self, root: str, directories: Sequence[str]) -> dict[str, Listing]:
        while len(self._helpers) < self._count:
            command = [sys.executable, "-I", "-S", __file__]
            pipe = subprocess.PIPE
            helper = subprocess.Popen(  # noqa: S603 - ourselves, out of reach of Ctrl-C
                command, stdin=pipe, stdout=pipe, process_group=0
            )
            self._helpers.append(helper)
        parts = [directories[i :: self._count] for i in range(self._count)]
        for helper, part in zip(self._helpers, parts, strict=True):
            assert helper.stdin
            _send(helper.stdin, marshal.dumps((root, list(part))))
        found: dict[str, Listing] = {}
        for helper, part in zip(self._helpers, parts, strict=True):
            assert helper.stdout
            answers = marshal.loads(_received(helper.stdout))  # noqa: S302 - from our own helper
            found |= {path: one for path, one in zip(part, answers, strict=True) if one}
        return found

    def _stop(self) -> None:
        for helper in self._helpers:
            helper.kill()
            helper.communicate()
        self._helpers.clear()


def _send(file: IO[bytes], data: bytes) -> None:
    file.write(_LENGTH.pack(len(data)))
    file.write(data)
    file.flush()


def _received(file: IO[bytes]) -> bytes:
    head = file.read(_LENGTH.size)
    data = file.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    if not data:
        raise EOFError("the other side has gone")
    return data


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    while True:
        try:
            root, directories = marshal.loads(_received(requests))  # noqa: S302 - from our parent
        except EOFError:
            return
        _send(answers, marshal.dumps([_tried(f"{root}/{path}") for path in directories]))


def _tried(directory: str) -> Listing | None:
    try:
        return listing(directory)
    except OSError:
        return None


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
