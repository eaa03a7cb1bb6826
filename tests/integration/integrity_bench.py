"""A bench in which much has happened, and ways to damage it.

Runners really ran everything in it: executions with files, a rollback, a fork, an answered question,
and a batch with scores and a sealed part. Then all processes ended in
order, so that nothing but a test does anything to it. Each test damages a copy of its own.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.databases import TEMPLATE, Databases
from tests.integration.test_scheduling import SPEC, Bench, LocalRunners, cases
from wtb_ray import results
from wtb_ray.actors.integrity import IntegrityChecker
from wtb_ray.actors.lifecycle import ActorLifecycle
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.db import Database
from wtb_ray.flocks import Hold
from wtb_ray.integrity.reports import IntegrityRepairs, IntegrityReport
from wtb_ray.model import (
    Execution,
    FileTrackingConfig,
    ProjectSpec,
    ProjectVersion,
    ScorerSpec,
    new_id,
)
from wtb_ray.objects import ObjectStore
from wtb_ray.settings import Settings
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.store import Store

TRACKED = FileTrackingConfig()
RESTS = (E.PAUSED, E.COMPLETED, E.FAILED, E.CANCELLED)
TTL_S = 0.3


@dataclass(frozen=True)
class World:
    """What is in the bench, by name."""

    database: str
    """The template of copies."""
    line: str
    """Completed with files, rolled back to step 1, and completed again."""
    fork: str
    """Forked from it at step 1, and completed."""
    asking: str
    """Paused at a question, which has been answered."""
    batch: str
    """Two variants of three cases, all DONE, with a sealed part."""


class Names:
    """Runner processes that are names."""

    def __init__(self, *alive: str):
        self.alive = list(alive)

    async def listed(self) -> list[str]:
        return list(self.alive)

    async def host(self) -> str:
        return "here"

    async def kill(self, runner_id: str) -> None:
        if runner_id in self.alive:
            self.alive.remove(runner_id)


class Damaged:
    """A copy of the world, and the checker of it."""

    def __init__(self, url: str, folder: Path, db: Database, world: World):
        self.url, self.folder, self.db, self.world = url, folder, db, world
        self.store = Store(db)
        self.settings = settings(folder)
        self.processes = Names()
        self.copies: dict[str, bytes] = {}
        """Other copies of objects, by digest."""
        self.held: list[Hold] = []
        """Directories that somebody living holds."""

    async def sql(self, text: str, *params: Any) -> Any:
        """The first column of the first row, if there are rows; no constraint holds it up."""
        async with self.db.transaction() as conn:
            await conn.execute("SET LOCAL session_replication_role = 'replica'")
            cursor = await conn.execute(text, params)
            row = await cursor.fetchone() if cursor.description else None
        return None if row is None else next(iter(row.values()))

    async def row(self, text: str, *params: Any) -> Any:
        async with self.db.connection() as conn:
            return await (await conn.execute(text, params)).fetchone()

    def object(self, digest: str) -> Path:
        return self.folder / "objects" / "blobs" / digest[:2] / digest[2:]

    async def execution(self, id: str) -> Execution:
        return await self.store.executions.get(id)

    async def _repair_object(self, digest: str) -> bool:
        if digest not in self.copies:
            return False
        self.object(digest).write_bytes(self.copies[digest])
        return True

    @asynccontextmanager
    async def checker(self) -> AsyncIterator[IntegrityChecker]:
        copies = self._repair_object if self.copies else None
        made = IntegrityChecker(self.settings, self.url, self.processes, copies, pause_s=0.02)
        try:
            yield made
        finally:
            await made.close()

    async def check(self, **how: Any) -> IntegrityReport:
        async with self.checker() as checker:
            return await checker.check(**how)

    async def repair(self, **how: Any) -> IntegrityRepairs:
        async with self.checker() as checker:
            return await checker.repair(**{"dry_run": False, **how})


def settings(folder: Path) -> Settings:
    return Settings(
        data_dir=folder,
        runner_slots=8,
        runners_per_pool=1,
        lease_ttl_s=TTL_S,
        integrity_every_s=0,
        workspace_grace_s=3600,
    )


@contextmanager
def database(databases: Databases, name: str, template: str = TEMPLATE) -> Iterator[str]:
    """A database that is a copy of another; gone afterwards."""
    databases.copy(name, template)
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture(scope="session")
def made_world(databases: Databases) -> Iterator[tuple[Path, World]]:
    """The folder of the world, and what is in it."""
    name = new_id("world")
    with (
        TemporaryDirectory(prefix="wtb-world-") as directory,
        database(databases, name) as url,
    ):
        yield Path(directory), asyncio.run(_make(name, url, Path(directory)))


@asynccontextmanager
async def copied(
    databases: Databases, made: tuple[Path, World], name: str, folder: Path
) -> AsyncIterator[Damaged]:
    """A copy of the world."""
    place, world = made
    with database(databases, name, world.database) as url:
        shutil.copytree(place / "objects", folder / "objects")
        async with Database(url, size=2) as db:
            yield Damaged(url, folder, db, world)


async def _make(name: str, url: str, folder: Path) -> World:
    made = settings(folder)
    runners = LocalRunners(made, url)
    async with Database(url) as db:
        bench = Bench(Store(db), made, runners)
        actors: list[Any] = [BatchScheduler(made, url, runners), ActorLifecycle(made, url, runners)]
        try:
            world = await _live(name, bench, folder)
        finally:
            for actor in actors:
                await actor.close()
            for id in list(runners.runners):
                await runners.runners[id].drain()
                await runners.kill(id)
                await runners.runners[id].close()
        await _end(bench)
    return world


async def _live(name: str, bench: Bench, folder: Path) -> World:
    files = ProjectSpec(name="files", entry="tests.filework:line", file_tracking=TRACKED)
    async with ObjectStore(bench.settings.objects()) as objects:
        bundle = await objects.put(b"the code of a project")
    version = await bench.register(files.model_copy(update={"bundle": None}))
    await bench.store.projects.register(
        files.model_copy(update={"name": "bundled", "bundle": bundle}),
        version.graph,
        {},
        actor="test",
    )
    line = await _done(bench, version, folder, "line")
    at = next(s for s in await bench.store.executions.steps(line) if s.step == 1).checkpoint_id
    fork = await bench.store.branches.fork(
        line, at, version=version, binding={}, run=True, actor="test"
    )
    await _rest(bench, fork.id)
    await bench.store.branches.roll_back(line, at, actor="test")
    await bench.store.control.resume(line, actor="test")
    await _rest(bench, line)
    asks = await bench.register(
        ProjectSpec(name="asks", entry="tests.filework:question", file_tracking=TRACKED)
    )
    asking = await _done(bench, asks, folder, "asking")
    [question] = await bench.store.control.asked(asking)
    await bench.store.control.answer(asking, {question["id"]: "yes"}, resume=False, actor="test")
    toy = await bench.register(SPEC)
    scorers = (ScorerSpec(name="exact", args={"field": "y"}),)
    batch = await bench.batch(toy, [{}, {"double": "triple"}], cases(3), scorers=scorers)
    assert (await bench.ended(batch)).counts == {"DONE": 6}
    async with ObjectStore(bench.settings.objects()) as objects:
        assert len(await results.export(bench.store.db, objects, batch.id)) == 1
    return World(name, line, fork.id, asking, batch.id)


async def _done(bench: Bench, version: ProjectVersion, folder: Path, name: str) -> str:
    made = await bench.store.executions.create(
        version, {}, {"log": str(folder / f"{name}.log")}, recursion_limit=30, actor="test"
    )
    await _rest(bench, made.id)
    return made.id


async def _rest(bench: Bench, id: str) -> Execution:
    async with asyncio.timeout(60):
        while (found := await bench.store.executions.get(id)).status not in RESTS:
            await asyncio.sleep(0.02)
    assert found.status in (E.COMPLETED, E.PAUSED), found.error
    return found


async def _end(bench: Bench) -> None:
    """Nobody holds a lease any more, and nobody is missed."""
    for runner in await bench.store.leases.runners():
        await bench.store.leases.bury(runner.id, runner.epoch, "the end", actor="test")
    async with bench.store.db.connection() as conn:
        await conn.execute("UPDATE leases SET until = '-infinity' WHERE kind = 'singleton'")


async def open_batch(damaged: Damaged) -> str:
    """A RUNNING batch of which one cell has a waiting execution, and the others wait."""
    version = await damaged.store.projects.get("toy")
    bench = Bench(damaged.store, damaged.settings, LocalRunners(damaged.settings, damaged.url))
    scorers = (ScorerSpec(name="exact", args={"field": "y"}),)
    batch = await bench.batch(version, [{}], cases(2), scorers=scorers)
    await damaged.store.batches.start(batch.id, actor="test")
    assert await damaged.store.executions.admit(batch.id, 1, actor="test") == 1
    return batch.id
