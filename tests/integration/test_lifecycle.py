"""The lifecycle: who is buried, who is left alone, and that nobody is forgotten."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.integration.store_bench import StoreBench
from wtb_ray.actors.lifecycle import ActorLifecycle
from wtb_ray.actors.pool import Worker
from wtb_ray.db import Database
from wtb_ray.fleet import Room, Runner
from wtb_ray.model import ProjectSpec
from wtb_ray.settings import Settings


class Processes:
    """Runner processes as names that are alive or not."""

    def __init__(self, *alive: str):
        self.living = set(alive)
        self.drained: set[str] = set()

    async def spawn(self, spec: ProjectSpec, *, solo: bool = False) -> str:
        raise NotImplementedError

    async def room(self) -> Room:
        raise NotImplementedError

    def worker(self, runner: Runner) -> Worker:
        raise NotImplementedError

    async def alive(self, runner_id: str) -> bool:
        if runner_id == "odd":
            raise RuntimeError("nobody can say")
        return runner_id in self.living

    async def drain(self, runner_id: str) -> None:
        self.drained.add(runner_id)

    async def ask(self, runner_id: str, method: str, *args: Any) -> Any:
        raise NotImplementedError

    async def kill(self, runner_id: str) -> None:
        self.living.discard(runner_id)


@asynccontextmanager
async def reaping(
    url: str, path: Path, processes: Processes, idle_s: float = 600.0
) -> AsyncIterator[None]:
    settings = Settings(data_dir=path, lease_ttl_s=3.0, idle_pool_s=idle_s)
    lifecycle = ActorLifecycle(settings, url, processes)
    try:
        yield
    finally:
        await lifecycle.close()


async def left(bench: StoreBench, *ids: str) -> None:
    """Returns when only these runners are not dead."""
    async with asyncio.timeout(30):
        while {r.id for r in await bench.store.leases.runners()} != set(ids):
            await asyncio.sleep(0.05)


async def test_a_pause_of_everything_kills_no_runner_that_renews(
    db: Database, url: str, tmp_path: Path
) -> None:
    bench = await StoreBench.make(db)
    for id in ("odd", "gone", "silent", "renews"):
        await bench.runner(id, ttl_s=-3600.0)
    processes = Processes("silent", "renews")
    async with reaping(url, tmp_path, processes):
        await left(bench, "odd", "silent", "renews")
        assert await bench.store.leases.renew("renews", 1, 600.0)
        await left(bench, "renews")
    assert processes.living == {"renews"}


async def test_idle_runners_end_and_those_whose_end_was_cut_off(
    db: Database, url: str, tmp_path: Path
) -> None:
    bench = await StoreBench.make(db)
    for id in ("idle", "draining", "busy"):
        await bench.runner(id, ttl_s=600.0)
    await bench.store.leases.drain("draining")
    await bench.execution()
    assert len(await bench.claim("busy")) == 1
    processes = Processes("idle", "draining", "busy")
    async with reaping(url, tmp_path, processes, idle_s=1.0):
        await left(bench, "busy")
    assert processes.drained == {"idle", "draining"}
    assert processes.living == {"busy"}


async def test_a_runner_that_got_work_meanwhile_does_not_retire(db: Database) -> None:
    bench = await StoreBench.make(db)
    await bench.runner()
    await bench.execution()
    [held] = await bench.claim()
    assert not await bench.store.leases.retire("r1")
    assert await bench.settle(held, "complete") is None
    assert await bench.store.leases.retire("r1")
    await bench.execution()
    assert await bench.claim() == []
