"""Who gets slots and runners, how many there are, and when a runner takes no more."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import gates
from tests.integration.test_scheduling import Bench, LocalRunners
from wtb_ray.actors.lifecycle import ActorLifecycle
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.db import Database
from wtb_ray.events import Cursor
from wtb_ray.memory import MIB, Host, host, shortage
from wtb_ray.model import Batch, Case, ProjectSpec
from wtb_ray.settings import Settings
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.store import Store

SPEC = ProjectSpec(name="gated", entry="tests.gates:graph")


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    gates.reset()
    yield
    gates.ALL.set()


@asynccontextmanager
async def fleet(url: str, path: Path, **settings: Any) -> AsyncIterator[Bench]:
    """Scheduler, lifecycle and runners in this process."""
    given = {"runner_slots": 8, "runners_per_pool": 1, "chunk_size": 8, "lease_ttl_s": 5.0}
    found = Settings(data_dir=path, **{**given, **settings})
    runners = LocalRunners(found, url)
    async with Database(url) as db:
        bench = Bench(Store(db), found, runners)
        actors = BatchScheduler(found, url, runners), ActorLifecycle(found, url, runners)
        try:
            yield bench
        finally:
            gates.ALL.set()
            for actor in actors:
                await actor.close()
            for runner_id in list(runners.runners):
                await runners.kill(runner_id)
                await runners.runners[runner_id].close()


async def running(bench: Bench, batch: Batch) -> Batch:
    """The batch once the scheduler has started it."""

    async def has_started() -> bool:
        return (await bench.store.batches.get(batch.id)).status == "RUNNING"

    await until(has_started)
    return batch


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 30) -> Any:
    async with asyncio.timeout(timeout_s):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
        return found


def cases(first: int, n: int, **more: int) -> list[Case]:
    return [Case(id=f"c{x}", input={"x": x, **more}) for x in range(first, first + n)]


def started(first: int, n: int) -> list[int]:
    """Of these inputs the ones that have started and are not let go yet."""
    return [x for x in gates.STARTED if first <= x < first + n and x not in gates.LET_GO]


async def sharing(bench: Bench, **batches: Batch) -> dict[str, int]:
    running = (await bench.store.executions.list(limit=200, status=E.RUNNING)).items
    ids = Counter(execution.batch_id for execution in running)
    return {name: ids[batch.id] for name, batch in batches.items()}


async def shared(bench: Bench, expected: dict[str, int], **batches: Batch) -> None:
    async def as_expected() -> bool:
        return await sharing(bench, **batches) == expected

    await until(as_expected)


async def test_batches_have_equal_shares_however_long_their_cells_are(
    url: str, tmp_path: Path
) -> None:
    async with fleet(url, tmp_path) as bench:
        version = await bench.register(SPEC)
        long = await bench.batch(version, [{}], cases(0, 40))
        await shared(bench, {"long": 8}, long=long)
        later = await running(bench, await bench.batch(version, [{}], cases(100, 40)))
        batches = {"long": long, "later": later}
        gates.LET_GO.update(started(0, 40)[:3])
        await shared(bench, {"long": 5, "later": 3}, **batches)
        gates.LET_GO.update(started(0, 40)[:1])
        await shared(bench, {"long": 4, "later": 4}, **batches)
        await until(lambda: has_started(100, 40, 4))
        gates.LET_GO.update(started(100, 40))  # short cells do not lose their share
        await until(lambda: has_started(100, 40, 8))
        await shared(bench, {"long": 4, "later": 4}, **batches)
        gates.LET_GO.update(started(0, 40))
        await until(lambda: has_started(0, 40, 12))
        await shared(bench, {"long": 4, "later": 4}, **batches)
        gates.ALL.set()
        assert (await bench.ended(long)).counts == {"DONE": 40}
        assert (await bench.ended(later)).counts == {"DONE": 40}


async def has_started(first: int, n: int, count: int) -> bool:
    return sum(first <= x < first + n for x in gates.STARTED) >= count


async def test_a_higher_priority_goes_first_and_takes_nothing_from_what_runs(
    url: str, tmp_path: Path
) -> None:
    async with fleet(url, tmp_path, runner_slots=4) as bench:
        version = await bench.register(SPEC)
        low = await bench.batch(version, [{}], cases(0, 20))
        await until(lambda: has_started(0, 20, 4))
        singles = [  # older than what is of high priority, and made already
            await bench.store.executions.create(
                version, {}, {"x": 50 + i}, recursion_limit=9, actor="test"
            )
            for i in range(6)
        ]
        high = await running(bench, await bench.batch(version, [{}], cases(100, 6), priority=5))
        gates.LET_GO.update(started(0, 20)[:2])
        await until(lambda: has_started(100, 6, 2))
        gates.LET_GO.update(started(100, 6))
        await until(lambda: has_started(100, 6, 4))
        gates.LET_GO.update(started(0, 20))
        await until(lambda: has_started(100, 6, 6))
        assert all(x >= 100 for x in gates.STARTED[4:10]), gates.STARTED
        gates.ALL.set()
        for batch in (low, high):
            await bench.ended(batch)
        for single in singles:
            await until(lambda: completed(bench, single.id))  # noqa: B023
        ended = (await bench.store.executions.list(limit=200)).items
        assert {execution.attempt for execution in ended} == {1}


async def completed(bench: Bench, id: str) -> bool:
    return (await bench.store.executions.get(id)).status == E.COMPLETED


async def test_projects_share_the_runners_that_there_may_be(url: str, tmp_path: Path) -> None:
    """One project has them all and is not interrupted; what it gives up is the other's."""
    settings = {"runners_per_pool": 2, "runners_max": 2, "runner_slots": 2, "chunk_size": 2}
    async with fleet(url, tmp_path, **settings) as bench:
        first = await bench.register(SPEC)
        second = await bench.register(SPEC.model_copy(update={"name": "other"}))
        greedy = await bench.batch(first, [{}], cases(0, 30))
        await until(lambda: has_started(0, 30, 4))
        modest = await bench.batch(second, [{}], cases(100, 30))

        async def told() -> str | None:
            return (await bench.store.batches.get(modest.id)).reason

        assert "all 2 runners that there may be are in use" in await until(told)
        # All that runs is let go, but for what starts in its place.
        gates.LET_GO.update(started(0, 30))
        await until(lambda: has_started(100, 30, 2))
        await shared(bench, {"greedy": 2, "modest": 2}, greedy=greedy, modest=modest)
        assert await told() is None
        living = await bench.store.leases.runners()
        assert {r.pool for r in living} == {first.version, second.version}
        gates.ALL.set()
        for batch in (greedy, modest):
            assert (await bench.ended(batch)).counts == {"DONE": 30}
        ended = (await bench.store.executions.list(limit=200)).items
        assert {execution.attempt for execution in ended} == {1}


async def test_the_least_runners_stay_while_there_is_work(url: str, tmp_path: Path) -> None:
    settings = {"runners_per_pool": 3, "runners_min": 2, "idle_pool_s": 0.3}
    async with fleet(url, tmp_path, **settings) as bench:

        async def serving(n: int) -> bool:
            runners = await bench.store.leases.runners()
            return sum(r.status == "READY" for r in runners) == n

        version = await bench.register(SPEC)
        batch = await bench.batch(version, [{}], cases(0, 1))
        await until(lambda: serving(2))
        seen = await bench.store.leases.runners()
        await asyncio.sleep(1.5)  # several times as long as an idle one is kept
        assert {r.id for r in await bench.store.leases.runners()} == {r.id for r in seen}
        gates.ALL.set()
        assert (await bench.ended(batch)).counts == {"DONE": 1}
        await until(lambda: serving(0))


async def test_work_that_no_runner_can_be_started_for_says_why(url: str, tmp_path: Path) -> None:
    async with fleet(url, tmp_path) as bench:
        why = "a runner asks for 8 CPUs; the most that a host has: 2"
        bench.runners.capacity, bench.runners.no_room = 0, why
        version = await bench.register(SPEC)
        batch = await bench.batch(version, [{}], cases(0, 3))
        single = await bench.store.executions.create(
            version, {}, {"x": 7}, recursion_limit=9, actor="test"
        )

        async def told() -> bool:
            return (await bench.store.batches.get(batch.id)).reason == why

        await until(told)
        waiting = await bench.store.executions.get(single.id)
        assert (waiting.status, waiting.reason) == (E.PENDING, why)
        assert not bench.runners.runners
        bench.runners.capacity = 1
        gates.ALL.set()
        ended = await bench.ended(batch)
        assert (ended.counts, ended.reason) == ({"DONE": 3}, None)
        await until(lambda: completed(bench, single.id))
        rows = await bench.store.events.read(Cursor.START, 1000)
        assert [r.payload["reason"] for r in rows if r.type == "runner.unplaced"] == [why]


async def test_no_more_runners_are_started_than_there_is_room_for(url: str, tmp_path: Path) -> None:
    settings = {"runners_per_pool": 8, "chunk_size": 1, "runner_slots": 2}
    async with fleet(url, tmp_path, **settings) as bench:
        bench.runners.capacity = 2
        await bench.batch(await bench.register(SPEC), [{}], cases(0, 20))
        await until(lambda: has_started(0, 20, 4))
        assert len(bench.runners.runners) == 2


async def test_one_that_kills_its_process_fails_alone_without_waiting_for_leases(
    url: str, tmp_path: Path
) -> None:
    """A death is certain when a process is gone and half of its lease has passed in silence."""
    settings = {"runners_per_pool": 2, "lease_ttl_s": 2.0, "runner_slots": 20, "chunk_size": 20}
    async with fleet(url, tmp_path, **settings) as bench:

        async def die() -> None:
            rows = (await bench.store.cells.list(batch.id, 100)).items
            [deadly] = [row.execution_id for row in rows if row.case_id == "c13"]
            owner = (await bench.store.executions.get(deadly or "")).owner
            assert owner is not None
            await bench.runners.kill(owner)
            await asyncio.sleep(60)

        gates.DEEDS[13] = die
        version = await bench.register(SPEC)
        batch = await bench.batch(version, [{}], cases(0, 20))
        await until(lambda: has_started(13, 1, 2))
        gates.ALL.set()
        assert (await bench.ended(batch)).counts == {"DONE": 19, "FAILED": 1}
        rows = (await bench.store.cells.list(batch.id, 100)).items
        [failed] = [row for row in rows if row.status == "FAILED"]
        assert failed.case_id == "c13"
        assert (failed.error or {})["type"] == "RunnerDied"
        assert gates.STARTED.count(13) == 3  # twice beside others, once alone
        ended = (await bench.store.executions.list(limit=100, batch_id=batch.id)).items
        assert Counter(e.status for e in ended) == {E.COMPLETED: 19, E.FAILED: 1}
        lost = [
            r for r in await bench.store.events.read(Cursor.START, 5000) if r.type == "runner.lost"
        ]
        assert sum(r.payload["reason"] == "process died" for r in lost) == 3


async def test_two_thousand_executions_are_in_flight_in_one_runner(
    url: str, tmp_path: Path
) -> None:
    """They wait in nodes; the runner has few threads and connections, and settles them all."""
    n = 2000
    async with fleet(url, tmp_path, runner_slots=n, chunk_size=64, lease_ttl_s=30.0) as bench:
        version = await bench.register(SPEC.model_copy(update={"entry": "tests.gates:crowded"}))
        batch = await bench.batch(version, [{}], cases(0, n))

        async def all_in_flight() -> bool:
            return [r.in_flight for r in await bench.store.leases.runners()] == [n]

        before = psutil.Process().num_threads()
        await until(all_in_flight, 90)
        assert psutil.Process().num_threads() < before + 40
        gates.ALL.set()
        assert (await bench.ended(batch, 90)).counts == {"DONE": n}
        assert len(bench.runners.runners) == 1


async def test_a_runner_short_of_memory_takes_no_more_until_there_is_some(
    url: str, tmp_path: Path
) -> None:
    most = psutil.Process().memory_info().rss // MIB + 300
    settings = {"runner_memory_mb": most, "memory_free": 0.0, "chunk_size": 1}
    async with fleet(url, tmp_path, **settings) as bench:
        version = await bench.register(SPEC)
        hungry = await bench.batch(version, [{}], cases(0, 1, mib=600))

        async def short() -> bool:
            return [r.short for r in await bench.store.leases.runners()] == ["process"]

        await until(short)
        others = await bench.batch(version, [{}], cases(100, 20))
        await asyncio.sleep(1.0)
        assert len(started(100, 20)) <= 1  # the room that had been told before
        gates.LET_GO.add(0)
        await bench.ended(hungry)
        gates.ALL.set()
        assert (await bench.ended(others)).counts == {"DONE": 20}
        rows = await bench.store.events.read(Cursor.START, 1000)
        [said] = [row for row in rows if row.type == "runner.short"]
        assert said.payload["whose"] == "process"
        assert f"of {most}" in said.payload["reason"]


async def test_a_runner_that_is_always_short_goes_on_one_by_one(url: str, tmp_path: Path) -> None:
    async with fleet(url, tmp_path, runner_memory_mb=1) as bench:
        gates.ALL.set()
        batch = await bench.batch(await bench.register(SPEC), [{}], cases(0, 5))
        assert (await bench.ended(batch)).counts == {"DONE": 5}


def test_a_container_has_what_its_limit_says(tmp_path: Path) -> None:
    for name, text in (("max", f"{512 * MIB}\n"), ("current", f"{500 * MIB}\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {100 * MIB}\n")
    assert host(tmp_path) == Host(512 * MIB, 112 * MIB)
    (tmp_path / "memory.max").write_text("max\n")
    assert host(tmp_path).total == psutil.virtual_memory().total


def test_a_host_without_the_memory_that_stays_free_is_short() -> None:
    found = shortage(psutil.Process(), None, 0.999)
    assert found is not None
    assert found.whose == "host"
