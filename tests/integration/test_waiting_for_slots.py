"""Executions that were sent to a runner ahead of a free slot."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests import gates
from tests.integration.test_scheduling import Bench, LocalRunners
from wtb_ray.actors import slots
from wtb_ray.db import Database
from wtb_ray.model import Execution, ProjectSpec
from wtb_ray.settings import Settings
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.store import Store

TAKING: list[asyncio.Task[int]] = []
SPEC = ProjectSpec(name="gated", entry="tests.gates:graph")


@pytest_asyncio.fixture
async def bench(url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench without a scheduler: what a runner gets, the test gives it."""
    gates.reset()
    settings = Settings(data_dir=tmp_path, runner_slots=1, stop_grace_s=0.2)
    runners = LocalRunners(settings, url)
    async with Database(url) as db:
        yield Bench(Store(db), settings, runners)
        gates.ALL.set()
        await asyncio.gather(*TAKING)
        TAKING.clear()
        for id, runner in runners.runners.items():
            await runners.kill(id)
            await runner.close()


async def sent(bench: Bench) -> tuple[str, str]:
    """Two executions at a runner with one slot: one that runs, and one that waits for it."""
    version = await bench.register(SPEC)
    given = [
        await bench.store.executions.create(version, {}, {"x": x}, recursion_limit=9, actor="test")
        for x in (1, 2)
    ]
    runner = bench.runners.runners[await bench.runners.spawn(SPEC)]
    [lease] = await bench.store.leases.runners()
    claimed = await bench.store.executions.claim(runner.id, lease.epoch, version.version, 2)
    assert [one.execution_id for one in claimed] == [one.id for one in given]
    TAKING.append(asyncio.create_task(runner.run(claimed)))
    async with asyncio.timeout(20):
        while gates.STARTED != [1]:
            await asyncio.sleep(0.01)
    return given[0].id, given[1].id


async def left(bench: Bench, id: str) -> Execution:
    """The execution once its runner has it no more."""
    async with asyncio.timeout(20):
        while (found := await bench.store.executions.get(id)).status == E.RUNNING:
            await asyncio.sleep(0.02)
    return found


async def test_what_finds_no_slot_in_time_goes_back_and_loses_no_attempt(bench: Bench) -> None:
    runs, waits = await sent(bench)
    back = await left(bench, waits)
    assert (back.status, back.attempt, back.reason) == (E.PENDING, 0, "drained")
    assert gates.STARTED == [1]
    gates.LET_GO.add(1)
    assert (await left(bench, runs)).status == E.COMPLETED


@pytest.mark.parametrize("command", ["stop", "kill"])
async def test_what_is_stopped_while_it_waits_never_begins(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(slots, "MOST_WAIT_S", 60.0)
    runs, waits = await sent(bench)
    if command == "stop":
        await bench.store.executions.request_stop(waits, actor="me")
    else:
        await bench.store.control.kill(waits, actor="me")
    assert (await left(bench, waits)).status == E.CANCELLED
    [runner] = bench.runners.runners.values()
    async with asyncio.timeout(20):
        while runner._slots.taken > 1:
            await asyncio.sleep(0.02)
    gates.LET_GO.add(1)
    assert (await left(bench, runs)).status == E.COMPLETED
    assert gates.STARTED == [1]
