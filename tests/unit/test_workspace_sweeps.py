"""Sweeping a host: what goes, what stays, and what it says about it."""

import asyncio
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from wtb_ray import homes, inputs, removal, sweeps
from wtb_ray.homes import Home
from wtb_ray.locks import Owner
from wtb_ray.states import ExecutionStatus
from wtb_ray.sweeps import Standing, Swept

ENDED = [ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED]
GOES_ON = [ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.PAUSED]
GONE = dataclasses.replace(Owner.here("gone"), started="1")
"""An owner whose process number is another process's by now."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "ws"


def home(root: Path, execution: str, epoch: int = 1, owner: Owner = GONE) -> Path:
    taken = homes.take(Home(root, execution, epoch), owner, anew=True)
    (taken.files / "data").write_bytes(bytes(1000))
    return taken.path


async def swept(
    root: Path, rows: Mapping[str, Standing] | None = None, grace_s: float = 0
) -> Swept:
    """Two sweeps: an orphan is first seen, and goes when its grace is over."""

    async def needed(ids: Sequence[str]) -> Mapping[str, Standing]:
        return {id: row for id, row in (rows or {}).items() if id in ids}

    first = await sweeps.sweep(root, needed, grace_s)
    second = await sweeps.sweep(root, needed, grace_s)
    return Swept(
        first.removed + second.removed, first.freed_bytes + second.freed_bytes, second.kept
    )


async def test_an_unknown_execution_s_directory_goes(root: Path) -> None:
    home(root, "e1")
    report = await swept(root)
    assert (report.removed, report.kept) == (1, 0)
    assert 1000 <= report.freed_bytes < 2000
    assert [p.name for p in root.iterdir()] == [".trash"]


@pytest.mark.parametrize("status", ENDED)
async def test_an_ended_execution_s_directory_goes(root: Path, status: ExecutionStatus) -> None:
    path = home(root, "e1")
    assert (await swept(root, {"e1": (status, 1)})).removed == 1
    assert not path.parent.exists()


@pytest.mark.parametrize("status", GOES_ON)
async def test_an_execution_that_goes_on_keeps_its_newest_directory(
    root: Path, status: ExecutionStatus
) -> None:
    old, new = home(root, "e1", 1), home(root, "e1", 2)
    report = await swept(root, {"e1": (status, 3)})
    assert (report.removed, report.kept) == (1, 0)
    assert not old.exists()
    assert (new / "files" / "data").exists()


async def test_an_orphan_is_left_for_its_grace_from_when_it_was_first_seen(root: Path) -> None:
    path = home(root, "e1")
    long_ago = time.time() - 7200
    os.utime(path, (long_ago, long_ago))
    assert await swept(root, grace_s=3600) == Swept(kept=1)
    os.utime(path / "orphan", (long_ago, long_ago))
    assert (await swept(root, grace_s=7300)).kept == 1
    assert (await swept(root, grace_s=7100)).removed == 1


async def test_an_execution_that_was_retried_starts_its_grace_anew(root: Path) -> None:
    path = home(root, "e1")
    await swept(root, {"e1": (ExecutionStatus.FAILED, 1)}, grace_s=3600)
    assert (path / "orphan").exists()
    await swept(root, {"e1": (ExecutionStatus.PENDING, 1)}, grace_s=3600)
    assert not (path / "orphan").exists()
    await swept(root, {"e1": (ExecutionStatus.FAILED, 1)}, grace_s=3600)
    taken = homes.take(Home(root, "e1", 2), Owner.here("r1"))
    assert not (taken.path / "orphan").exists()


async def test_what_belongs_to_another_host_is_not_touched(root: Path) -> None:
    owner = Owner.here("r1")
    for number, other in enumerate(
        (
            dataclasses.replace(owner, host="elsewhere"),
            dataclasses.replace(owner, host="elsewhere", released=True),
            dataclasses.replace(owner, numbering="another container"),
        )
    ):
        home(root, f"e{number}", owner=other)
    assert await swept(root) == Swept()
    assert len(list(homes.listed(root))) == 3


HOLD = """
import sys
from pathlib import Path
from wtb_ray import homes, locks
for name in sys.argv[2:]:
    homes.take(homes.Home(Path(sys.argv[1]), name, 1), locks.Owner.here("r1"))
print("held", flush=True)
sys.stdin.read()
"""


async def test_a_living_process_keeps_all_it_holds_and_a_dead_one_nothing(root: Path) -> None:
    names = [f"e{n}" for n in range(5)]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            rows = dict.fromkeys(names, (ExecutionStatus.FAILED, 7))
            assert await swept(root, rows) == Swept()
            assert len(list(homes.listed(root))) == 5
        finally:
            process.kill()
        process.wait()
        assert (await swept(root, rows)).removed == 5


async def test_what_is_taken_while_a_sweep_asks_stays(root: Path) -> None:
    """The rows are read before the guard is entered; the lock is read inside."""
    path = home(root, "e1")
    (path / "orphan").touch()

    async def needed(ids: Sequence[str]) -> Mapping[str, Standing]:
        homes.take(Home(root, "e1", 2), Owner.here("r1"))
        return {}

    assert await sweeps.sweep(root, needed, 0) == Swept()
    assert (root / "e1" / "2" / "files" / "data").exists()


async def test_many_are_asked_for_at_a_time(root: Path) -> None:
    root.mkdir()
    for n in range(sweeps.ASKED_AT_ONCE + 5):
        (root / f"e{n}" / "1").mkdir(parents=True)
    asked: list[int] = []

    async def needed(ids: Sequence[str]) -> Mapping[str, Standing]:
        asked.append(len(ids))
        return dict.fromkeys(ids, (ExecutionStatus.RUNNING, 1))

    assert await sweeps.sweep(root, needed, 0) == Swept()
    assert asked == [sweeps.ASKED_AT_ONCE, 5]


async def test_several_sweeps_at_once_remove_each_directory_once(root: Path) -> None:
    for n in range(30):
        path = home(root, f"e{n}")
        (path / "orphan").touch()

    async def needed(ids: Sequence[str]) -> Mapping[str, Standing]:
        return {}

    reports = await asyncio.gather(*(sweeps.sweep(root, needed, 0) for _ in range(3)))
    assert list(homes.listed(root)) == []
    assert sum(report.kept for report in reports) == 0
    assert [p.name for p in root.iterdir()] == [".trash"]
    assert os.listdir(root / ".trash") == []


async def test_what_a_crash_left_goes(root: Path) -> None:
    """A directory without a lock, an execution's without any, and half of a removal."""
    (root / "e1" / "3" / "files").mkdir(parents=True)
    (root / "e2").mkdir()
    removal.discard(root, home(root, "e3"))
    report = await swept(root)
    assert (report.removed, report.kept) == (2, 0)
    assert [p.name for p in root.iterdir()] == [".trash"]


async def test_inputs_nobody_has_used_for_long_go_unless_somebody_works(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "a.txt").write_text("1")
    kept = inputs.keep(root, tmp_path / "bundle", ("a.txt",))
    old = time.time() - 2 * inputs.USED_WITHIN_S
    os.utime(kept.files.parent, (old, old))
    working = home(root, "e1", owner=Owner.here("r1"))
    await swept(root)
    assert kept.files.exists()
    removal.remove(working.parent)
    assert kept.in_use()
    await swept(root)
    assert kept.files.exists()
    os.utime(kept.files.parent, (old, old))
    await swept(root)
    assert not kept.files.exists()
    assert not kept.in_use()


async def test_a_host_without_workspaces_is_swept_in_no_time(root: Path) -> None:
    assert await swept(root) == Swept()
    assert not root.exists()
