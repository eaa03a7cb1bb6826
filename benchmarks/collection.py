"""How long a garbage collection takes, and how much memory: a million objects on a disk.

The objects are real files of a few bytes, written under their digests without being fsynced one by
one; four fifths belong to trees that checkpoints name, ten checkpoints an execution, which share all
but what changed; the rest is garbage. The collection, once counting only and once deleting, runs in
a process of its own, whose peak memory is taken.
"""

import asyncio
import hashlib
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks import common
from wtb_ray import manifests
from wtb_ray.collection import Collector
from wtb_ray.db import Database
from wtb_ray.manifests import Entry
from wtb_ray.model import thread_id
from wtb_ray.objects import ObjectStore
from wtb_ray.objects.blobs import encoded, key_of
from wtb_ray.store import Store

LIMIT_S: Final = 60.0
IN_A_DIRECTORY: Final = 100
DIRECTORIES: Final = 100
"""Of a tree."""
CHECKPOINTS: Final = 10
GARBAGE: Final = 0.2


def run(*, objects: int = 1_000_000) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    with (
        common.postgres() as server,
        TemporaryDirectory(prefix="wtb-bench-gc-", ignore_cleanup_errors=True) as directory,
    ):
        url = server.database("collection")
        began = time.monotonic()
        made = _Maker(Path(directory)).make(objects)
        asyncio.run(_name(url, made))
        prepared_s = time.monotonic() - began
        server.settle()
        os.sync()
        surveyed = _measured(url, directory, delete=False)
        collected = _measured(url, directory, delete=True)
    common.table(
        ("collection", "objects", "needed", "deleted", "seconds", "peak MiB", "of it objects"),
        [
            (
                name,
                *(f"{found[key]:,}" for key in ("listed", "marked", "swept")),
                f"{found['seconds']:.1f}",
                f"{found['peak_mib']:.0f}",
                f"{found['grown_mib']:.0f}",
            )
            for name, found in (("counting", surveyed), ("deleting", collected))
        ],
    )
    factor = 1_000_000 / objects
    target = common.Target(
        "collection of a million objects", collected["seconds"] * factor, LIMIT_S, unit=" s"
    )
    result = {"objects": objects, "prepared_s": prepared_s}
    return {**result, "counting": surveyed, "deleting": collected}, [target]


class _Maker:
    """Writes objects where a store would have them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for number in range(256):
            (root / "blobs" / f"{number:02x}").mkdir(parents=True)
        self._files = iter(range(1 << 40))
        self.written = 0

    def make(self, objects: int) -> list[str]:
        """The manifests that are to be named; the garbage comes last."""
        manifests_made = list(self._trees(int(objects * (1 - GARBAGE))))
        while self.written < objects:
            self._file()
        return manifests_made

    def _trees(self, objects: int) -> Iterator[str]:
        while self.written < objects:
            tree = {}
            for number in range(DIRECTORIES):
                tree[f"d{number:03}"] = [self._file() for _ in range(IN_A_DIRECTORY)]
                if self.written >= objects:
                    break
            listings = {name: self._directory(entries) for name, entries in tree.items()}
            for checkpoint in range(CHECKPOINTS):
                if checkpoint:
                    changed = sorted(tree)[checkpoint % len(tree)]
                    tree[changed][0] = self._file()
                    listings[changed] = self._directory(tree[changed])
                yield self._directory(
                    [Entry(name, "dir", value, 0, 0o755) for name, value in listings.items()],
                    named=False,
                )

    def _file(self) -> Entry:
        data = b"content %d" % next(self._files)
        return Entry("", "file", self._put(data), len(data), 0o644)

    def _directory(self, entries: list[Entry], *, named: bool = True) -> str:
        if named:
            entries = [entry._replace(name=f"f{i:03}") for i, entry in enumerate(entries)]
        return self._put(manifests.encoded(sorted(entries)))

    def _put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        fd = os.open(f"{self._root}/{key_of(digest)}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(fd, encoded(data))
        os.close(fd)
        self.written += 1
        return digest


async def _name(url: str, trees: list[str]) -> None:
    """Rows as runners write them."""
    async with Database(url) as db, db.transaction() as conn:
        await conn.execute("INSERT INTO projects VALUES ('p', 'v')")
        await conn.execute(
            "INSERT INTO project_versions (version, project, spec, graph)"
            " VALUES ('v', 'p', '{}', '{}')"
        )
        for start in range(0, len(trees), CHECKPOINTS):
            thread = thread_id(f"e{start}", 0)
            await conn.execute(
                "INSERT INTO executions (id, project, version, thread_id, recursion_limit)"
                " VALUES (%s, 'p', 'v', %s, 25)",
                (f"e{start}", thread),
            )
            await conn.execute(
                "INSERT INTO branches (thread_id, execution_id, number, reason)"
                " VALUES (%s, %s, 0, 'start')",
                (thread, f"e{start}"),
            )
            for step, manifest in enumerate(trees[start : start + CHECKPOINTS]):
                await conn.execute(
                    "INSERT INTO steps (thread_id, checkpoint_id, step, source, nodes, next_nodes,"
                    " next_tasks, duration_ms, manifest)"
                    " VALUES (%s, %s, %s, 'loop', '[]', '{}', '[]', 1, %s)",
                    (thread, f"c{step}", step, manifest),
                )


def _measured(url: str, directory: str, *, delete: bool) -> dict[str, Any]:
    """What a collection in a process of its own found, and what it took."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_main, args=(url, directory, delete, there), daemon=True
    )
    process.start()
    there.close()
    try:
        found: dict[str, Any] = here.recv()
        return found
    finally:
        process.join(30)


def _main(url: str, directory: str, delete: bool, pipe: Connection) -> None:
    pipe.send(asyncio.run(_collect(url, directory, delete)))


async def _collect(url: str, directory: str, delete: bool) -> dict[str, Any]:
    async with Database(url) as db, ObjectStore(f"file://{directory}") as objects:
        stages = _Stages()
        collector = Collector(Store(db), objects, actor="benchmark", pause=stages)
        await db.row("SELECT 1 AS one")
        before, began = _peak_mib(), time.monotonic()
        report = await (collector.collect(0.0) if delete else collector.survey(0.0))
        seconds = time.monotonic() - began
    assert report.status == "DONE", report
    return {
        **report.model_dump(mode="json", include={"listed", "marked", "garbage", "swept"}),
        "seconds": seconds,
        "stages_s": dict(stages.seconds),
        "peak_mib": _peak_mib(),
        "grown_mib": _peak_mib() - before,
    }


class _Stages:
    """How long each step of a collection takes; what comes before the first is the marking."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._since = "mark", time.monotonic()

    async def __call__(self, step: str) -> None:
        now = time.monotonic()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = step, now


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / common.MIB if sys.platform == "darwin" else peak / 1024
