"""Limits that several processes share: each is a client of its own on one database."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.integration.store_bench import StoreBench
from wtb_ray import errors
from wtb_ray.actors.limiting import RunnerLimits
from wtb_ray.db import Database
from wtb_ray.rates import LimitSpec, Rate
from wtb_ray.store import Store


class Cluster:
    """Processes that take from limits, each with a lease and connections of its own."""

    def __init__(self, url: str, bench: StoreBench, stack: AsyncExitStack):
        self.url, self.bench, self.stack = url, bench, stack
        self.limits = bench.store.limits
        self.times: list[float] = []

    async def process(self, id: str, ttl_s: float = 60.0) -> RunnerLimits:
        await self.bench.runner(id, ttl_s=ttl_s)
        db = await self.stack.enter_async_context(Database(self.url, size=1))
        made = RunnerLimits(Store(db).limits, id)
        self.stack.push_async_callback(made.close)
        return made

    async def set(self, concurrency: int | None = None, **rates: tuple[float, float]) -> None:
        units = {unit: Rate(per_minute=rate, burst=burst) for unit, (rate, burst) in rates.items()}
        await self.limits.set("api", LimitSpec(units=units, concurrency=concurrency), actor="me")

    async def call(self, process: RunnerLimits, **amounts: float) -> None:
        give_back = await process.take("api", amounts or {"requests": 1})
        self.times.append(time.monotonic())
        give_back()


@pytest_asyncio.fixture
async def cluster(url: str, bench: StoreBench) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(url, bench, stack)


def exceeds(times: list[float], rate_s: float, burst: float) -> list[tuple[float, int]]:
    """The windows in which more was done than the burst and the rate allow."""
    times = sorted(times)
    found = []
    for i, first in enumerate(times):
        for j in range(i, len(times)):
            span = times[j] - first
            # What was granted in time may be noticed a little later than what comes after it.
            if j - i + 1 > burst + rate_s * (span + 0.25) + 1e-6:
                found.append((span, j - i + 1))
    return found


async def test_the_rate_is_never_exceeded_over_any_window_by_several_processes(
    cluster: Cluster,
) -> None:
    await cluster.set(requests=(3000, 10))
    processes = [await cluster.process(f"r{i}") for i in range(4)]
    began = time.monotonic()
    await asyncio.gather(*(cluster.call(p) for p in processes for _ in range(25)))
    assert len(cluster.times) == 100
    assert not exceeds(cluster.times, 50, 10)
    assert time.monotonic() - began >= (100 - 10) / 50


async def test_a_process_serves_its_waiters_in_the_order_in_which_they_came(
    cluster: Cluster,
) -> None:
    await cluster.set(tokens=(6000, 50))
    process, served = await cluster.process("r1"), []

    async def call(number: int, tokens: float) -> None:
        (await process.take("api", {"tokens": tokens}))()
        served.append(number)

    # A large one is not overtaken by the small ones behind it.
    sizes = [50, 30, 1, 40, 1, 1, 1]
    await asyncio.gather(*(call(i, size) for i, size in enumerate(sizes)))
    assert served == list(range(len(sizes)))


async def test_processes_take_turns(cluster: Cluster) -> None:
    await cluster.set(requests=(1200, 1))
    greedy, modest = await cluster.process("r1"), await cluster.process("r2")
    crowd = [asyncio.create_task(cluster.call(greedy)) for _ in range(200)]
    while len(cluster.times) < 3:
        await asyncio.sleep(0.01)
    before = len(cluster.times)
    await cluster.call(modest)
    # The chunk of the other process is one request here: what the rate gives in a second, or one.
    assert len(cluster.times) - before <= 20 + 10
    for task in crowd:
        task.cancel()


async def test_no_connection_is_held_while_it_waits(cluster: Cluster) -> None:
    await cluster.set(requests=(60, 1))
    process = await cluster.process("r1")  # its pool has one connection
    await cluster.call(process)
    waiting = asyncio.create_task(cluster.call(process))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(0.5):
        await process._rows.get("api")
    waiting.cancel()


async def test_a_process_that_dies_loses_its_chunk_and_no_more(cluster: Cluster) -> None:
    await cluster.set(requests=(600, 5))
    dead, alive = await cluster.process("r1"), await cluster.process("r2")
    crowd = [asyncio.create_task(cluster.call(dead)) for _ in range(500)]
    while len(cluster.times) < 5:
        await asyncio.sleep(0.01)
    await dead.close()
    [limit] = await cluster.limits.list()
    assert limit.levels["requests"] >= -10  # a second's worth
    died = len(cluster.times)
    await asyncio.gather(*(cluster.call(alive) for _ in range(10)))
    assert len(cluster.times) == died + 10
    assert not exceeds(cluster.times, 10, 5)
    assert not any(task.done() and not task.cancelled() and task.exception() for task in crowd)


async def test_what_can_never_be_had_is_refused_at_once(cluster: Cluster) -> None:
    await cluster.set(requests=(600, 5), tokens=(1000, 400))
    process = await cluster.process("r1")
    with pytest.raises(errors.LimitUnmeetable) as refused:
        await process.take("api", {"requests": 1, "tokens": 401})
    assert refused.value.details["limit"] == "api"
    assert refused.value.details["unit"] == "tokens"
    assert (refused.value.details["asked"], refused.value.details["most"]) == (401, 400)
    with pytest.raises(errors.UnknownLimit, match="wtb limit set nobody"):
        await process.take("nobody", {"requests": 1})
    await cluster.set(requests=(600, 5), tokens=(1000, 500))
    await process.take("api", {"requests": 1, "tokens": 401})


async def test_who_waits_is_refused_when_the_limit_is_made_smaller_or_removed(
    cluster: Cluster,
) -> None:
    await cluster.set(tokens=(60_000, 1000))
    process = await cluster.process("r1")
    await cluster.call(process, tokens=1000)
    first = asyncio.create_task(cluster.call(process, tokens=1000))  # reserved, served in a second
    second = asyncio.create_task(cluster.call(process, tokens=1000))
    await asyncio.sleep(0.1)
    await cluster.set(tokens=(60_000, 500))
    await first
    with pytest.raises(errors.LimitUnmeetable):
        await second
    await cluster.set(tokens=(6000, 100))
    third = [asyncio.create_task(cluster.call(process, tokens=100)) for _ in range(3)]
    await asyncio.sleep(0.1)
    await cluster.limits.remove("api", actor="me")
    with pytest.raises(errors.UnknownLimit):
        await third[-1]
    for task in third:
        task.cancel()


async def test_concurrency_is_that_of_the_whole_cluster_and_fair(cluster: Cluster) -> None:
    await cluster.set(concurrency=3)
    processes = [await cluster.process(f"r{i}") for i in range(3)]
    inside, most, served = 0, 0, [0, 0, 0]

    async def call(number: int) -> None:
        nonlocal inside, most
        give_back = await processes[number].take("api", {"requests": 1})
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.02)
        inside -= 1
        served[number] += 1
        give_back()

    calls = [asyncio.create_task(call(0)) for _ in range(12)]
    await asyncio.sleep(0.05)
    calls += [asyncio.create_task(call(n)) for n in (1, 2) for _ in range(6)]
    await asyncio.gather(*calls)
    assert served == [12, 6, 6]
    assert most <= 3
    async with asyncio.timeout(5):
        while (await cluster.limits.get("api")).inside:
            await asyncio.sleep(0.02)


async def test_slots_of_a_dead_runner_end_with_its_lease(cluster: Cluster) -> None:
    await cluster.set(concurrency=2)
    dead, alive = await cluster.process("r1"), await cluster.process("r2")
    await dead.take("api", {})
    await dead.take("api", {})
    assert (await cluster.limits.get("api")).inside == 2
    waiting = asyncio.create_task(cluster.call(alive))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await cluster.bench.store.leases.bury("r1", 1, "test", actor="lifecycle")
    await asyncio.wait_for(waiting, 5)


async def test_one_that_leaves_while_it_waits_leaves_no_place_behind(cluster: Cluster) -> None:
    await cluster.set(concurrency=1)
    process = await cluster.process("r1")
    give_back = await process.take("api", {})
    waiting = asyncio.create_task(cluster.call(process))
    await asyncio.sleep(0.05)
    waiting.cancel()
    give_back()
    give_back()  # twice does nothing
    await asyncio.wait_for(cluster.call(process), 5)
    async with asyncio.timeout(5):
        while (await cluster.limits.get("api")).inside:
            await asyncio.sleep(0.02)


async def test_a_change_keeps_what_is_in_the_buckets_and_is_in_the_log(cluster: Cluster) -> None:
    await cluster.set(requests=(6, 6))
    process = await cluster.process("r1")
    for _ in range(4):
        await cluster.call(process)
    await cluster.set(requests=(6, 3), tokens=(100, 100))
    limit = await cluster.limits.get("api")
    assert limit.levels["requests"] == pytest.approx(2, abs=0.5)
    assert limit.levels["tokens"] == 100
    await cluster.limits.remove("api", actor="me")
    with pytest.raises(errors.UnknownLimit):
        await cluster.limits.remove("api", actor="me")
    types = await cluster.bench.types()
    assert types.count("limit.set") == 2
    assert types.count("limit.removed") == 1
