"""Whose a directory is: living and dead processes, other hosts, and one at a time."""

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wtb_ray import locks
from wtb_ray.locks import Owner

HOLD = """
import sys
from pathlib import Path
from wtb_ray import locks
locks.write(Path(sys.argv[1]), locks.Owner.here("r1"))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the directory until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def held_by(directory: Path, **other: object) -> bool:
    """Whether the directory is held by an owner that differs so from this process."""
    locks.write(directory, dataclasses.replace(Owner.here("r1"), **other))  # type: ignore[arg-type]
    return not locks.free(directory)


def test_a_directory_is_held_until_its_process_is_dead(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert not locks.free(tmp_path)
        owner = locks.read(tmp_path)
        assert owner is not None
        assert (owner.pid, owner.host, owner.runner) == (process.pid, socket.gethostname(), "r1")
        process.kill()
        # Dead, and not yet reaped by its parent: that is gone, too.
        deadline = time.monotonic() + 10
        while not locks.free(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert process.returncode is None
        process.wait()
        assert locks.free(tmp_path)


def test_another_process_with_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    assert held_by(tmp_path)
    assert not held_by(tmp_path, started="1")
    assert not held_by(tmp_path, boot="an earlier start of this host")


def test_nothing_is_said_about_processes_that_cannot_be_seen(tmp_path: Path) -> None:
    assert held_by(tmp_path, host="elsewhere", started="1")
    assert held_by(tmp_path, host="elsewhere", released=True)
    assert held_by(tmp_path, numbering="another container", started="1")
    assert not held_by(tmp_path, numbering="another container", released=True)


def test_only_the_owner_releases(tmp_path: Path) -> None:
    mine = Owner.here("r1")
    locks.write(tmp_path, mine)
    locks.release(tmp_path, Owner.here("r2"))
    assert not locks.free(tmp_path)
    locks.release(tmp_path, mine)
    assert locks.free(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "h"}'])
def test_a_lock_that_says_nothing_holds_nothing(tmp_path: Path, content: str) -> None:
    assert locks.free(tmp_path)
    (tmp_path / "lock").write_text(content)
    assert locks.free(tmp_path)


GUARD = """
import sys, os, time
from pathlib import Path
from wtb_ray import locks
folder, log = Path(sys.argv[1]), Path(sys.argv[2])
for i in range(30):
    with locks.guarded(folder, make=True):
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"(")
        time.sleep(0.0005)
        os.write(fd, b")")
        os.close(fd)
        folder.rmdir()
"""


def test_one_process_at_a_time_even_when_the_directory_comes_and_goes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = [sys.executable, "-c", GUARD, str(tmp_path / "e1"), str(log)]
    processes = [subprocess.Popen(arguments) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert log.read_text() == "()" * 90


def test_what_is_not_there_is_not_guarded(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locks.guarded(tmp_path / "e1"):
        pass
    assert os.listdir(tmp_path) == []
