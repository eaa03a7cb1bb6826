"""No false alarms: whatever is done to executions, and whatever runs while a check looks, is right."""

import asyncio
from pathlib import Path

import pytest

from tests.integration.integrity_bench import Names
from tests.integration.machine_bench import Program
from tests.integration.store_bench import StoreBench
from tests.integration.test_scheduling import SPEC, Bench, bench, cases
from tests.integration.travel_bench import TravelBench, travel
from wtb_ray.actors.integrity import IntegrityChecker
from wtb_ray.db import Database
from wtb_ray.integrity.checking import Processes
from wtb_ray.integrity.reports import IntegrityReport
from wtb_ray.model import Fault, FileTrackingConfig, ProjectSpec, ScorerSpec
from wtb_ray.settings import Settings

__all__ = ["bench", "travel"]


async def checked(settings: Settings, url: str, processes: Processes) -> IntegrityReport:
    checker = IntegrityChecker(settings, url, processes, pause_s=0.2)
    try:
        return await checker.check(deep=True)
    finally:
        await checker.close()


@pytest.mark.parametrize("seed", range(8))
async def test_random_commands_leave_nothing_wrong(
    travel: TravelBench, seed: int, tmp_path: Path
) -> None:
    program = Program(travel, seed, kills=seed % 3 > 0, tracked=seed % 4 == 3)
    await program.run(10)
    settings = travel.settings.model_copy(update={"lease_ttl_s": 0.5})
    report = await checked(settings, travel.url, Names())
    assert [finding.message for finding in report.items] == []


FILES = ProjectSpec(name="files", entry="tests.filework:line", file_tracking=FileTrackingConfig())


async def test_nothing_is_wrong_while_everything_runs(
    bench: Bench, url: str, tmp_path: Path
) -> None:
    """Batches with scores and executions with files run, and a check looks again and again."""
    slow = await bench.register(SPEC.model_copy(update={"entry": "tests.toy:slow_graph"}))
    files = await bench.register(FILES)
    scorers = (ScorerSpec(name="exact", args={"field": "y"}),)
    batches = [await bench.batch(slow, [{}], cases(150), scorers=scorers) for _ in range(2)]
    for number in range(20):
        state = {"log": str(tmp_path / f"{number}.log")}
        await bench.store.executions.create(files, {}, state, recursion_limit=20, actor="test")
    checker = IntegrityChecker(bench.settings, url, bench.runners, pause_s=0.05)
    looked = 0
    try:
        while not all([(await bench.store.batches.get(b.id)).ended_at for b in batches]):
            report = await checker.check(deep=looked % 2 == 1)
            assert [finding.message for finding in report.items] == []
            looked += 1
    finally:
        await checker.close()
    assert looked >= 3
    counts = [(await bench.store.batches.get(batch.id)).counts for batch in batches]
    assert counts == [{"DONE": 150}, {"DONE": 150}]


async def test_nothing_is_wrong_after_a_runner_has_died(bench: Bench, url: str) -> None:
    """What the lifecycle takes care of is not reported, neither while nor after it does."""
    version = await bench.register(SPEC.model_copy(update={"entry": "tests.toy:slow_graph"}))
    batch = await bench.batch(version, [{}], cases(60))
    async with asyncio.timeout(20):
        while not (busy := [r for r in await bench.store.leases.runners() if r.in_flight > 3]):
            await asyncio.sleep(0.05)
    await bench.runners.kill(busy[0].id)
    checker = IntegrityChecker(bench.settings, url, bench.runners, pause_s=0.05)
    try:
        while (await bench.store.batches.get(batch.id)).ended_at is None:
            assert [finding.message for finding in (await checker.check()).items] == []
    finally:
        await checker.close()


async def test_nothing_is_wrong_with_a_cell_that_was_stopped_before_the_others_ran_again(
    db: Database, url: str, tmp_path: Path
) -> None:
    stores = await StoreBench.make(db)
    await stores.runner()
    batch = await stores.batch(cases=1, variants=3, share_prefix=True)
    await stores.store.executions.admit(batch.id, 9, actor="scheduler")
    (held,) = await stores.claim()
    await stores.store.splits.stop_variant(batch.id, "v2", actor="me")
    fault = Fault(code="node_failed", type="ValueError", message="no")
    assert await stores.settle(held, "fail", fault=fault) is None
    await stores.store.batches.rerun(batch.id, ["FAILED"], actor="me")
    assert await stores.cells(batch.id) == ["PENDING", "PENDING", "CANCELLED"]
    report = await checked(Settings(data_dir=tmp_path), url, Names("r1"))
    assert [finding.message for finding in report.items] == []
