"""What keeping and restoring a file tree costs, beside git, restic where installed, and copies.

Of 10,000 files 10 change: snapshot against `git add -A && git commit`, restore against
`git checkout`, in turns on equal trees; then the same once with 100,000 files, and what a fork's
tree costs. Ours runs in this process, as it does in a runner; git's times contain its start. Ours
has everything durable when it returns; git as it is set up by default syncs no loose objects.
"""

import asyncio
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

from benchmarks import common
from wtb_ray.listings import Listers
from wtb_ray.model import FileTrackingConfig
from wtb_ray.objects import ObjectStore
from wtb_ray.trees import TrackedTree

CHANGED: Final = 10
IN_A_DIRECTORY: Final = 100
GIT: Final = ("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0")

T = TypeVar("T")


def run(
    *, repeats: int = 7, files: int = 10_000, many: int = 100_000
) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    return asyncio.run(_run(repeats, files, many))


async def _run(repeats: int, files: int, many: int) -> tuple[dict[str, Any], list[common.Target]]:
    with TemporaryDirectory(prefix="wtb-bench-files-") as directory:
        turns = await _turns(Path(directory), files, repeats)
    with TemporaryDirectory(prefix="wtb-bench-files-") as directory:
        large = await _large(Path(directory), many)
    _show(turns, large, files, many)
    medians = {name: common.median(values) for name, values in turns.seconds.items()}
    targets = [
        common.Target(
            "snapshot / git add + commit", medians["snapshot"] / medians["git commit"], 1
        ),
        common.Target("restore / git checkout", medians["restore"] / medians["git checkout"], 1),
    ]
    return {"seconds": turns.seconds, "bytes": turns.bytes, "large": large}, targets


@dataclass
class Turns:
    """Seconds of each turn, and bytes of a step."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(seconds)


async def _turns(base: Path, files: int, repeats: int) -> Turns:
    """Equal edits to equal trees, each kept and undone by everybody in turn."""
    chance, turns = random.Random(files), Turns()
    paths = _filled(base / "ours" / "files", files, chance)
    shutil.copytree(base / "ours" / "files", base / "git")
    _git(base / "git", "init", "-q")
    _commit(base / "git")
    async with _tracked(base / "ours") as tree:
        first = (await tree.snapshot()).manifest
        for _ in range(repeats):
            for path in chance.sample(paths, CHANGED):
                data = chance.randbytes(1500)
                for root in (base / "ours" / "files", base / "git"):
                    (root / path).write_bytes(data)
            snapshot, seconds = await _timed(tree.snapshot)
            turns.add("snapshot", seconds)
            turns.add("git commit", _took(lambda: _commit(base / "git")))
            _, seconds = await _timed(tree.snapshot)
            turns.add("unchanged", seconds)
            turns.bytes = {"step": snapshot.new_bytes, "full copy": snapshot.bytes}
            restored, seconds = await _timed(lambda: tree.restore(first))
            assert restored.restored == CHANGED, restored
            turns.add("restore", seconds)
            turns.add("git checkout", _took(lambda: _git(base / "git", "checkout", "-q", "HEAD~1")))
            if shutil.which("restic"):
                turns.add("restic backup", _restic(base))
    return turns


async def _large(base: Path, files: int) -> dict[str, float]:
    """A tree made, kept, changed, put elsewhere: seconds, and MiB of memory."""
    chance, took = random.Random(files), {}
    paths = _filled(base / "ours" / "files", files, chance)
    took["git first commit"] = _first_commit(base)
    async with _tracked(base / "ours") as tree:
        first, took["first snapshot"] = await _timed(tree.snapshot)
        took["restore of nothing"] = (await _timed(lambda: tree.restore(first.manifest)))[1]
        for path in chance.sample(paths, CHANGED):
            (base / "ours" / "files" / path).write_bytes(chance.randbytes(1500))
        took["snapshot"] = (await _timed(tree.snapshot))[1]
        took["restore"] = (await _timed(lambda: tree.restore(first.manifest)))[1]
    async with _tracked(base / "ours", base / "fork") as fork:
        took["fork by restore"] = (await _timed(lambda: fork.restore(first.manifest)))[1]
    took["fork by copy"] = _copied(base, "--reflink=never")
    took["fork by reflink"] = _copied(base, "--reflink=always")
    took["memory (MiB)"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return took


def _first_commit(base: Path) -> float:
    shutil.copytree(base / "ours" / "files", base / "git")
    _git(base / "git", "init", "-q")
    seconds = _took(lambda: _commit(base / "git"))
    shutil.rmtree(base / "git")
    return seconds


def _copied(base: Path, how: str) -> float:
    """Seconds of `cp`, NaN where the file system cannot."""
    command = ["cp", "-a", how, str(base / "ours" / "files"), str(base / "copy")]
    began = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True)
    seconds = time.perf_counter() - began
    shutil.rmtree(base / "copy", ignore_errors=True)
    return float("nan") if done.returncode else seconds


@asynccontextmanager
async def _tracked(beside: Path, other: Path | None = None) -> AsyncIterator[TrackedTree]:
    """The tree at `files` in `other`, else in `beside`, where the objects are."""
    place, listers = other or beside, Listers()
    place.mkdir(exist_ok=True)
    async with ObjectStore(f"file://{beside}/objects") as objects:
        config = FileTrackingConfig()
        yield TrackedTree(place / "files", config, objects, beside=place, listers=listers)
    listers.close()


def _filled(root: Path, files: int, chance: random.Random) -> list[str]:
    paths = []
    for i in range(files):
        above = f"part{i // IN_A_DIRECTORY % 10}/set{i // IN_A_DIRECTORY}"
        if i % IN_A_DIRECTORY == 0:
            (root / above).mkdir(parents=True)
        paths.append(f"{above}/file{i}.dat")
        (root / paths[-1]).write_bytes(chance.randbytes(chance.randrange(200, 3000)))
    os.sync()
    time.sleep(0.1)  # so that nobody has to distrust time stamps
    return paths


async def _timed(work: Callable[[], Awaitable[T]]) -> tuple[T, float]:
    began = time.perf_counter()
    done = await work()
    return done, time.perf_counter() - began


def _took(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _git(root: Path, *arguments: str) -> None:
    subprocess.run([*GIT, *arguments], cwd=root, check=True, stdout=subprocess.DEVNULL)


def _commit(root: Path) -> None:
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", "a step")


def _restic(base: Path) -> float:
    environment = {**os.environ, "RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": f"{base}/restic"}

    def restic(*arguments: str) -> None:
        subprocess.run(["restic", "-q", *arguments], env=environment, cwd=base, check=True)

    if not (base / "restic").exists():
        restic("init")
        restic("backup", "git")
    return _took(lambda: restic("backup", "git"))


def _show(turns: Turns, large: dict[str, Any], files: int, many: int) -> None:
    rows = [
        (name, f"{common.median(all_) * 1000:.0f}", " ".join(f"{s * 1000:.0f}" for s in all_))
        for name, all_ in turns.seconds.items()
    ]
    common.table((f"{files:,} files, {CHANGED} changed", "median ms", "all"), rows)
    step, copy = turns.bytes["step"], turns.bytes["full copy"]
    print(f"  bytes of a step: {step:,} of {copy:,}, {step / copy:.2%}", flush=True)
    if not shutil.which("restic"):
        print("  restic is not installed", flush=True)
    shown = [
        (name, "not supported here" if value != value else f"{value:.2f}")
        for name, value in large.items()
    ]
    common.table((f"{many:,} files", "s"), shown)
