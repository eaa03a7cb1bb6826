"""What tests of control and time travel stand on: runners as objects of this process, fed by hand.

Nothing is claimed and nobody is buried unless a test says so, and so the moment of a crash is exact.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest_asyncio

from tests.travels import ENDED, HELD, RAN
from wtb_ray import graphs, manifests
from wtb_ray.actors.runner import VariantRunner
from wtb_ray.db import Database
from wtb_ray.events import Cursor, EventRow
from wtb_ray.model import Execution, ProjectSpec, ProjectVersion, Step, new_id
from wtb_ray.objects import ObjectStore
from wtb_ray.settings import Settings
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.store import Store
from wtb_ray.views import read_state

MOVING = (E.PENDING, E.RUNNING)
PATIENCE_S = 60.0
LEASE_S = 300.0


class TravelBench:
    """A store, and a runner for each version, which takes what waits when it is told to."""

    def __init__(self, url: str, data_dir: Path, db: Database):
        self.settings = Settings(
            data_dir=data_dir, runner_slots=64, lease_ttl_s=LEASE_S, stop_grace_s=0.2
        )
        self.url, self.db, self.store = url, db, Store(db)
        self.control, self.branches = self.store.control, self.store.branches
        self.versions: dict[str, ProjectVersion] = {}
        self.runners: dict[str, VariantRunner] = {}
        self.gone: list[VariantRunner] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, data_dir: Path) -> "AsyncIterator[TravelBench]":
        async with Database(url, size=4) as db:
            bench = cls(url, data_dir, db)
            try:
                yield bench
            finally:
                for runner in [*bench.runners.values(), *bench.gone]:
                    end(runner)
                    await asyncio.gather(*runner._tasks, return_exceptions=True)
                    await runner.close()

    # --- executions ---

    async def register(self, entry: str, **spec: Any) -> ProjectVersion:
        wanted = ProjectSpec(name="travel", entry=entry, **spec)
        version = await self.store.projects.register(wanted, *graphs.describe(wanted), actor="me")
        self.versions[version.version] = version
        return version

    async def create(
        self,
        version: ProjectVersion,
        state: Any,
        binding: Mapping[str, str] | None = None,
        *,
        recursion_limit: int = 60,
        breakpoints: tuple[str, ...] = (),
    ) -> str:
        made = await self.store.executions.create(
            version,
            binding or {},
            state,
            recursion_limit=recursion_limit,
            breakpoints=breakpoints,
            actor="me",
        )
        return made.id

    async def get(self, id: str) -> Execution:
        return await self.store.executions.get(id)

    async def at(self, id: str, step: int) -> str:
        """The checkpoint of a step on the way to the present head."""
        return next(s.checkpoint_id for s in await self.steps(id) if s.step == step)

    async def steps(self, id: str) -> list[Step]:
        """On the way to the present head, oldest first."""
        return [*reversed(await self.store.executions.steps(id))]

    async def state(self, id: str) -> dict[str, Any]:
        """At the head, as users are shown it."""
        found = await self.get(id)
        assert found.head is not None
        return await read_state(self.db, found.thread_id, found.head)

    async def files(self, id: str, checkpoint_id: str | None = None) -> dict[str, str]:
        """The files of a checkpoint, or those that it would go on with."""
        manifest = await self.store.files.manifest_at(id, checkpoint_id)
        if manifest is None:
            return {}
        async with ObjectStore(self.settings.objects()) as objects:
            found = await manifests.read(objects, manifest)
            kept = {path: entry for path, entry in found.items() if entry.kind == "file"}
            return {path: (await objects.get(e.value)).decode() for path, e in kept.items()}

    async def events(self, id: str) -> list[EventRow]:
        return await self.store.events.read(Cursor.START, 10_000, execution_id=id)

    async def told(self, id: str, type_: str) -> list[dict[str, Any]]:
        return [event.payload for event in await self.events(id) if event.type == type_]

    # --- running ---

    async def begin(self, id: str) -> VariantRunner:
        """Gives a runner all that waits for its version."""
        found = await self.get(id)
        assert found.status == E.PENDING, (found.status, found.reason, found.error)
        runner = await self.runner(found.version)
        (lease,) = [r for r in await self.store.leases.runners() if r.id == runner.id]
        for solo in (False, True):
            chunk = await self.store.executions.claim(
                runner.id, lease.epoch, found.version, 100, solo=solo, actor="test"
            )
            if chunk:
                await runner.run(chunk)
        return runner

    async def rest(self, id: str) -> Execution:
        """The execution when it neither waits nor runs, and its runner is done with it."""
        async with asyncio.timeout(PATIENCE_S):
            while (found := await self.get(id)).status == E.RUNNING:
                await asyncio.sleep(0.005)
            while any(held == id for r in self.runners.values() for held, _ in r._held):
                await asyncio.sleep(0.005)
        return found

    async def go(self, id: str) -> Execution:
        """Runs a waiting execution until it rests."""
        await self.begin(id)
        return await self.rest(id)

    async def run(
        self, version: ProjectVersion, state: Any, binding: Mapping[str, str] | None = None
    ) -> Execution:
        return await self.go(await self.create(version, state, binding))

    async def resume(self, id: str) -> Execution:
        await self.control.resume(id, actor="me")
        return await self.go(id)

    async def step(self, id: str) -> Execution:
        await self.control.step(id, actor="me")
        return await self.go(id)

    async def answer(self, id: str, answers: Mapping[str, Any]) -> Execution:
        await self.control.answer(id, answers, actor="me")
        return await self.go(id)

    async def heard(self, id: str, wanted: str) -> None:
        """Until the runner that holds the execution knows what is wanted of it."""
        found = await self.get(id)
        performing = self.runners[found.version]._performing
        async with asyncio.timeout(PATIENCE_S):
            while performing._works[id, found.epoch].control.reason != wanted:
                await asyncio.sleep(0.005)

    # --- deaths ---

    async def runner(self, version: str) -> VariantRunner:
        if version not in self.runners:
            spec = self.versions[version].spec
            runner = VariantRunner(new_id("r"), spec, self.settings, self.url)
            await runner.prepare()
            await runner.start()
            self.runners[version] = runner
        return self.runners[version]

    async def crash(self, version: str) -> None:
        """Its runner ends as by SIGKILL, with all that it holds, and is found to be dead."""
        runner = self.runners[version]
        for attachment in runner._saver._shared.attachments.values():
            attachment.fenced = True  # a dead process says nothing more
        end(runner)
        await asyncio.gather(*runner._tasks, return_exceptions=True)
        await self.presume_dead(version)

    async def presume_dead(self, version: str) -> VariantRunner:
        """Its runner is taken for dead; whether it is or not, others get what it held."""
        runner = self.runners.pop(version)
        self.gone.append(runner)
        if runner._lease is not None:
            runner._lease.stop()
        (lease,) = [r for r in await self.store.leases.runners() if r.id == runner.id]
        await self.store.leases.bury(runner.id, lease.epoch, "test", actor="lifecycle")
        return runner


@pytest_asyncio.fixture
async def travel(url: str, tmp_path: Path) -> AsyncIterator[TravelBench]:
    """The bench on a fresh database; no node holds and none has run."""
    HELD.clear()
    RAN.clear()
    ENDED.clear()
    async with TravelBench.open(url, tmp_path) as bench:
        yield bench
    HELD.clear()


async def fork(
    travel: TravelBench, source: str, checkpoint: str, binding: Any = None, **more: Any
) -> Execution:
    found = await travel.get(source)
    version = travel.versions[found.version]
    return await travel.branches.fork(
        source, checkpoint, version=version, binding=binding or {}, actor="me", **more
    )


async def back(travel: TravelBench, id: str, step: int) -> Execution:
    return await travel.branches.roll_back(id, await travel.at(id, step), actor="me")


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.005)


def end(runner: VariantRunner) -> None:
    """Cancels all that a runner does."""
    for task in (*runner._tasks, *runner._watching):
        task.cancel()
    for thread in (runner._lease, runner._watch):
        if thread is not None:
            thread.stop()
