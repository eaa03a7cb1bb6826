"""The scheduler's pools: work never waits for a runner that has no room while another may start."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests import toy
from tests.integration.test_scheduling import SPEC, Bench, LocalRunners, cases
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.db import Database
from wtb_ray.settings import Settings
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.store import Store

GATED = SPEC.model_copy(update={"entry": "tests.toy:gated_graph", "variants": {}})


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    toy.OPEN.clear()
    yield
    toy.OPEN.set()


@pytest_asyncio.fixture
async def bench(url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """Runners and no scheduler yet."""
    settings = Settings(
        data_dir=tmp_path, runner_slots=4, runners_per_pool=2, chunk_size=4, lease_ttl_s=5.0
    )
    runners = LocalRunners(settings, url)
    async with Database(url) as db:
        yield Bench(Store(db), settings, runners)
        for runner_id in list(runners.runners):
            await runners.kill(runner_id)
            await runners.runners[runner_id].close()


@asynccontextmanager
async def scheduling(bench: Bench) -> AsyncIterator[BatchScheduler]:
    scheduler = BatchScheduler(bench.settings, bench.runners.url, bench.runners)
    try:
        yield scheduler
    finally:
        await scheduler.close()


async def running(bench: Bench, n: int) -> None:
    """Returns when so many executions run."""
    async with asyncio.timeout(30):
        while sum(r.in_flight for r in await bench.store.leases.runners()) < n:
            await asyncio.sleep(0.02)


async def start(bench: Bench, version: Any, x: int) -> str:
    made = await bench.store.executions.create(
        version, {}, {"x": x}, recursion_limit=9, actor="test"
    )
    return made.id


async def completed(bench: Bench, id: str) -> None:
    async with asyncio.timeout(30):
        while (await bench.store.executions.get(id)).status != E.COMPLETED:
            await asyncio.sleep(0.02)


async def test_a_full_runner_gets_work_again_from_the_next_scheduler(bench: Bench) -> None:
    version = await bench.register(GATED)
    async with scheduling(bench):
        batch = await bench.batch(version, [{}], [c for c in cases(60) if c.input["x"] % 2 == 0])
        await running(bench, 8)
    async with scheduling(bench) as scheduler:
        await adopted(scheduler, 2)
        toy.OPEN.set()
        ended = await bench.ended(batch)
    assert ended.counts == {"DONE": 30}
    assert len(bench.runners.runners) == 2


async def adopted(scheduler: BatchScheduler, n: int) -> None:
    """Returns when the scheduler uses so many runners."""
    async with asyncio.timeout(30):
        while sum(map(len, (await scheduler.status()).values())) < n:
            await asyncio.sleep(0.02)


async def test_work_behind_a_full_runner_gets_another_one(bench: Bench) -> None:
    """One runner is full of work that does not end; what comes later is not to wait for it."""
    version = await bench.register(GATED)
    async with scheduling(bench):
        for x in range(0, 8, 2):
            await start(bench, version, x)
        await running(bench, 4)
        assert len(bench.runners.runners) == 1
        await completed(bench, await start(bench, version, 1))
        assert len(bench.runners.runners) == 2


async def test_a_single_free_slot_is_filled_while_all_others_are_held(bench: Bench) -> None:
    version = await bench.register(GATED)
    async with scheduling(bench):
        for x in range(0, 14, 2):
            await start(bench, version, x)
        await running(bench, 7)
        await completed(bench, await start(bench, version, 1))


async def test_a_runner_that_takes_long_to_start_is_not_taken_for_a_full_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.OPEN.set()
    monkeypatch.setattr("wtb_ray.actors.scheduler.FULL_S", 0.3)
    at_once = bench.runners.spawn

    async def slowly(spec: Any, *, solo: bool = False) -> str:
        await asyncio.sleep(0.8)
        return await at_once(spec, solo=solo)

    monkeypatch.setattr(bench.runners, "spawn", slowly)
    version = await bench.register(GATED)
    async with scheduling(bench):
        await completed(bench, await start(bench, version, 1))
        await asyncio.sleep(1.0)  # a second one would have started by now
    assert len(bench.runners.runners) == 1
