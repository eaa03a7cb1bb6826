"""Scheduler, lifecycle and runners together on a real Postgres, with runners in this process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest_asyncio

from wtb_ray import graphs, plan
from wtb_ray.actors.lifecycle import ActorLifecycle
from wtb_ray.actors.pool import Undelivered, Worker
from wtb_ray.actors.runner import VariantRunner
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.db import Database
from wtb_ray.events import Cursor
from wtb_ray.fleet import Room, Runner
from wtb_ray.model import (
    Assignment,
    Batch,
    BatchSpec,
    Case,
    ProjectSpec,
    ProjectVersion,
    ScorerSpec,
    VariantSpec,
    new_id,
)
from wtb_ray.settings import Settings
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.store import Store

SPEC = ProjectSpec(
    name="toy",
    entry="tests.toy:graph",
    variants={
        "double": {
            "triple": VariantSpec(implementation="tests.toy:triple"),
            "times": VariantSpec(params={"factor": 5}),
        }
    },
)


class LocalRunners:
    """Runners as objects of this process; `kill` leaves their work as a dead process would."""

    def __init__(self, settings: Settings, url: str):
        self.settings, self.url = settings, url
        self.runners: dict[str, VariantRunner] = {}
        self.dead: set[str] = set()
        self.capacity, self.no_room = 100, ""

    async def spawn(self, spec: ProjectSpec, *, solo: bool = False) -> str:
        runner = VariantRunner(new_id("r"), spec, self.settings, self.url, solo)
        self.runners[runner.id] = runner
        await runner.prepare()
        await runner.start()
        return runner.id

    async def room(self) -> Room:
        left = max(0, self.capacity - len(self.runners.keys() - self.dead))
        return Room(runners=left, reason=None if left else self.no_room)

    def worker(self, runner: Runner) -> Worker:
        owner = self

        class Local:
            id, slots = runner.id, runner.slots

            async def run(self, chunk: Sequence[Assignment], ahead: bool) -> int:
                if self.id in owner.dead:
                    raise Undelivered("dead")
                return await owner.runners[self.id].run(chunk, ahead)

        return Local()

    async def alive(self, runner_id: str) -> bool:
        return runner_id in self.runners and runner_id not in self.dead

    async def host(self) -> str:
        return "here"

    async def listed(self) -> list[str]:
        return [id for id in self.runners if id not in self.dead]

    async def drain(self, runner_id: str) -> None:
        await self.runners[runner_id].drain()

    async def ask(self, runner_id: str, method: str, *args: Any) -> Any:
        return await getattr(self.runners[runner_id], method)(*args)

    async def kill(self, runner_id: str) -> None:
        self.dead.add(runner_id)
        runner = self.runners[runner_id]
        for task in list(runner._tasks):
            task.cancel()
        for thread in (runner._lease, runner._watch):
            if thread is not None:
                thread.stop()
        for watch in runner._watching:
            watch.cancel()


class Bench:
    """What a controller does, for tests of what lies behind it."""

    def __init__(self, store: Store, settings: Settings, runners: LocalRunners):
        self.store, self.settings, self.runners = store, settings, runners

    async def register(self, spec: ProjectSpec) -> ProjectVersion:
        graph, workflows = await asyncio.to_thread(graphs.describe, spec)
        return await self.store.projects.register(spec, graph, workflows, actor="test")

    async def batch(
        self,
        version: ProjectVersion,
        bindings: list[dict[str, str]],
        cases: list[Case],
        **more: Any,
    ) -> Batch:
        repetitions = more.get("repetitions", 1)
        spec = BatchSpec(
            project=version.project, variants=tuple(bindings), cases=tuple(cases), **more
        )
        names, cells = plan.expand(bindings, cases, repetitions, 1_000_000)
        return await self.store.batches.create(
            spec, version, names, cells, recursion_limit=50, actor="test"
        )

    async def ended(self, batch: Batch, timeout_s: float = 30) -> Batch:
        async with asyncio.timeout(timeout_s):
            while (found := await self.store.batches.get(batch.id)).ended_at is None:
                await asyncio.sleep(0.05)
        return found


@pytest_asyncio.fixture
async def bench(url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    settings = Settings(
        data_dir=tmp_path, runner_slots=16, runners_per_pool=2, chunk_size=8, lease_ttl_s=1.0
    )
    runners = LocalRunners(settings, url)
    async with Database(url) as db:
        scheduler = BatchScheduler(settings, url, runners)
        lifecycle = ActorLifecycle(settings, url, runners)
        yield Bench(Store(db), settings, runners)
        for actor in (scheduler, lifecycle):
            await actor.close()
        for runner_id in list(runners.runners):
            await runners.kill(runner_id)
            await runners.runners[runner_id].close()


def cases(n: int) -> list[Case]:
    return [Case(id=f"c{i}", input={"x": i}, expected=i * 2) for i in range(n)]


async def test_a_matrix_runs_and_every_variant_really_changes_what_runs(bench: Bench) -> None:
    version = await bench.register(SPEC)
    bindings = [{}, {"double": "triple"}, {"double": "times"}]
    batch = await bench.batch(
        version, bindings, cases(20), scorers=(ScorerSpec(name="exact", args={"field": "y"}),)
    )
    ended = await bench.ended(batch)
    assert ended.status == "COMPLETED"
    assert ended.counts == {"DONE": 60}
    rows = (await bench.store.cells.list(batch.id, 100)).items
    right: dict[str, list[float | None]] = {}
    for row in rows:
        right.setdefault(row.variant, []).append(row.scores["exact"])
    assert {name: sum(filter(None, values)) for name, values in right.items()} == {
        "default": 20,
        "double=triple": 1,
        "double=times": 1,
    }
    execution = await bench.store.executions.get(rows[0].execution_id or "")
    steps = await bench.store.executions.steps(execution.id)
    assert [node.name for node in steps[0].nodes] == ["finish"]
    assert execution.node_runs == 2


async def test_node_errors_are_failed_cells_with_their_place(bench: Bench) -> None:
    version = await bench.register(SPEC)
    bad = [Case(id="bad", input={"x": -1}), Case(id="good", input={"x": 1}, expected=2)]
    batch = await bench.batch(version, [{}], bad)
    ended = await bench.ended(batch)
    assert ended.counts == {"DONE": 1, "FAILED": 1}
    failed = [r for r in (await bench.store.cells.list(batch.id, 10)).items if r.status == "FAILED"]
    error = failed[0].error or {}
    assert (error["code"], error["node"], error["type"]) == ("node_failed", "double", "ValueError")
    assert "negative" in error["message"]
    assert "toy.py" in error["traceback"]


async def test_a_dead_runner_costs_nothing_but_time(bench: Bench) -> None:
    version = await bench.register(SPEC.model_copy(update={"entry": "tests.toy:slow_graph"}))
    batch = await bench.batch(version, [{}], cases(60))

    async def first_kill() -> None:
        while True:
            await asyncio.sleep(0.05)
            busy = [r for r in await bench.store.leases.runners() if r.in_flight > 3]
            if busy:
                await bench.runners.kill(busy[0].id)
                return

    async with asyncio.timeout(20):
        await first_kill()
    ended = await bench.ended(batch)
    assert ended.counts == {"DONE": 60}
    lost = [e for e in await bench.store.events.read(Cursor.START, 5000) if e.type == "runner.lost"]
    assert lost


async def test_a_single_run_goes_the_same_way(bench: Bench) -> None:
    version = await bench.register(SPEC)
    execution = await bench.store.executions.create(
        version, {}, {"x": 21}, recursion_limit=50, actor="test"
    )
    async with asyncio.timeout(15):
        while (found := await bench.store.executions.get(execution.id)).ended_at is None:
            await asyncio.sleep(0.05)
    assert (found.status, found.attempt, found.node_runs) == ("COMPLETED", 1, 2)


async def test_a_claim_that_never_reaches_its_runner_goes_back(bench: Bench) -> None:
    version = await bench.register(SPEC)
    runner_id = await bench.runners.spawn(SPEC)
    (lease,) = [r for r in await bench.store.leases.runners() if r.id == runner_id]
    created = [
        await bench.store.executions.create(version, {}, {"x": i}, recursion_limit=9, actor="test")
        for i in range(5)
    ]
    # What a scheduler does that dies between the claim and the sending of the chunk.
    claimed = await bench.store.executions.claim(runner_id, lease.epoch, version.version, 5)
    ids = {execution.id for execution in created}
    async with asyncio.timeout(20):
        while len((await bench.store.executions.list(status=E.COMPLETED)).items) < 5:
            await asyncio.sleep(0.05)
    for execution in created:
        found = await bench.store.executions.get(execution.id)
        assert (found.status, found.suspect) == ("COMPLETED", 0)
    assert {a.execution_id for a in claimed} <= ids
