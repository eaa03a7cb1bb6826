"""A store whose objects are collected: writers as runners are, rows that name trees, a collector."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.integration.files_bench import step, tree
from tests.integration.store_bench import StoreBench
from tests.trees import Seen, stored
from wtb_ray.collection import Collector
from wtb_ray.db import Connection
from wtb_ray.holds import Holds
from wtb_ray.model import Execution, FileTrackingConfig
from wtb_ray.objects import ObjectStore
from wtb_ray.storage_api import CollectionReport
from wtb_ray.store.holds import still_held
from wtb_ray.trees import TrackedTree

TTL_S = 0.6
Files = Mapping[str, bytes]


class Writer:
    """A process of its own, as far as what it knows of the store goes."""

    def __init__(self, bench: StoreBench, objects: ObjectStore, name: str) -> None:
        self.bench = bench
        self.objects = objects
        self.holds = Holds(bench.store.holds, name, ttl_s=TTL_S)

    async def keep(self, thread: str, number: int, files: Files) -> str:
        """Stores a tree and names it."""
        async with self.holds.writing() as session:
            manifest = await tree(self.objects, files)
            await self.name(thread, number, manifest, session.id)
        return manifest

    async def name(self, thread: str, number: int, manifest: str, lease: str) -> None:
        """Commits a row that names a tree, as all commits do that are not a runner's."""
        async with self.bench.db.transaction() as conn:
            await still_held(conn, lease)
            await _step(conn, thread, number, manifest)


async def _step(conn: Connection, thread: str, number: int, manifest: str) -> None:
    await conn.execute(
        "INSERT INTO steps (thread_id, checkpoint_id, step, source, nodes, next_nodes, next_tasks,"
        " duration_ms, manifest) VALUES (%s, %s, %s, 'loop', '[]', '{}', '[]', 1, %s)",
        (thread, f"c{number}", number, manifest),
    )


class CollectingBench:
    """One store of objects with its rows."""

    def __init__(self, bench: StoreBench, url: str, options: Mapping[str, Any], path: Path) -> None:
        self.bench = bench
        self.path = path
        self._url, self._options = url, options
        self._opened: list[ObjectStore] = []
        self._writers: list[Writer] = []
        self.objects = self.store()

    def store(self) -> ObjectStore:
        """The store as another process has it."""
        self._opened.append(ObjectStore(self._url, **self._options))
        return self._opened[-1]

    def writer(self, name: str = "w") -> Writer:
        self._writers.append(Writer(self.bench, self.store(), name))
        return self._writers[-1]

    def collector(
        self,
        at: Callable[[str], Awaitable[None]] | None = None,
        *,
        wait_s: float = 20.0,
        ttl_s: float = TTL_S,
    ) -> Collector:
        return Collector(
            self.bench.store,
            self.store(),
            actor="files",
            ttl_s=ttl_s,
            wait_s=wait_s,
            settled_s=0.0,
            pause=at,
        )

    async def collect(self) -> CollectionReport:
        return await self.collector().collect(0.0)

    async def digests(self) -> set[str]:
        return {item.digest async for item in self.objects.listed()}

    async def named(self, files: Files) -> tuple[Execution, str]:
        """An execution whose checkpoint names this tree."""
        made = await self.bench.execution()
        manifest = await tree(self.objects, files)
        await step(self.bench, made.thread_id, 0, manifest)
        return made, manifest

    async def forget(self, thread: str) -> None:
        """Trims: the rows of a thread name no tree any more."""
        async with self.bench.db.connection() as conn:
            await conn.execute("UPDATE steps SET manifest = NULL WHERE thread_id = %s", (thread,))

    async def whole(self, manifest: str) -> Seen:
        """Reads every object of a tree, as a process does that knows nothing."""
        async with ObjectStore(self._url, **self._options) as objects:
            return await stored(objects, manifest)

    def tracked(self, name: str, objects: ObjectStore) -> TrackedTree:
        """A workspace as a process has it that has just come to it."""
        root = self.path / name / "files"
        root.mkdir(parents=True, exist_ok=True)
        return TrackedTree(root, FileTrackingConfig(), objects, beside=root.parent)

    async def aclose(self) -> None:
        for writer in self._writers:
            await writer.holds.close()
        for objects in self._opened:
            await objects.aclose()


@asynccontextmanager
async def collecting(
    bench: StoreBench, url: str, options: Mapping[str, Any], path: Path
) -> AsyncIterator[CollectingBench]:
    made = CollectingBench(bench, url, options, path)
    try:
        yield made
    finally:
        await made.aclose()


class Gate:
    """Holds a collector up before the first of some steps, so that others get between."""

    def __init__(self, *steps: str) -> None:
        self._steps = set(steps)
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, step: str) -> None:
        if step in self._steps:
            self.reached.set()
            await self.open.wait()
