"""ActorPool: nothing is lost when workers die, and no worker gets more than its room."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from wtb_ray.actors.pool import ActorPool
from wtb_ray.model import Assignment


def assignments(n: int) -> list[Assignment]:
    return [
        Assignment(
            execution_id=f"x{i}", epoch=1, thread_id=f"x{i}.0", head=None, head_step=None,
            version="v", project="p", binding={}, recursion_limit=10,
        )
        for i in range(n)
    ]  # fmt: skip


@dataclass
class LocalWorker:
    id: str
    slots: int = 4
    dies_at: int | None = None
    taken: list[str] = field(default_factory=list)

    async def run(self, chunk: Sequence[Assignment], ahead: bool) -> int:
        await asyncio.sleep(0.001)
        if self.dies_at is not None and len(self.taken) >= self.dies_at:
            raise ConnectionError("the process is gone")
        self.taken += [a.execution_id for a in chunk]
        return self.slots


async def feed(pool: ActorPool, work: list[Assignment]) -> list[str]:
    """Gives all work out, in chunks of the worker's room; what comes back is given out again."""
    taken: list[str] = []

    async def collect() -> None:
        while len(taken) < total:
            done = await pool.get_next_unordered()
            if done.error is None:
                taken.extend(a.execution_id for a in done.chunk)
            else:
                work.extend(done.chunk)

    total = len(work)
    collector = asyncio.create_task(collect())
    while not collector.done():
        if not work:
            await asyncio.sleep(0.001)
            continue
        worker = await pool.pop_idle()
        room = pool.free(worker.id)
        chunk, work[:] = work[:room], work[room:]
        pool.submit(worker, chunk) if chunk else pool.push(worker)
    await collector
    return taken


async def test_all_work_is_taken_once_though_a_worker_dies() -> None:
    pool = ActorPool()
    dying, living = LocalWorker("a", dies_at=8), LocalWorker("b")
    pool.push(dying)
    pool.push(living)
    taken = await asyncio.wait_for(feed(pool, assignments(40)), 10)
    assert sorted(taken) == sorted(f"x{i}" for i in range(40))
    assert len(dying.taken) == 8
    assert pool.ids() == ["b"]


async def test_a_worker_added_later_is_found_by_a_waiter() -> None:
    pool = ActorPool()
    waiting = asyncio.create_task(pool.pop_idle())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    pool.push(LocalWorker("late"))
    assert (await asyncio.wait_for(waiting, 1)).id == "late"


async def test_removing_a_worker_hands_its_chunk_back() -> None:
    class Stuck(LocalWorker):
        async def run(self, chunk: Sequence[Assignment], ahead: bool) -> int:
            await asyncio.sleep(3600)
            return 0

    pool = ActorPool()
    pool.push(Stuck("s"))
    worker = await pool.pop_idle()
    chunk = assignments(2)
    pool.submit(worker, chunk)
    await asyncio.sleep(0.01)
    pool.remove("s")
    done = await asyncio.wait_for(pool.get_next_unordered(), 1)
    assert done.chunk == chunk
    assert isinstance(done.error, RuntimeError)
    pool.submit(worker, chunk)
    assert (await pool.get_next_unordered()).error is not None


@pytest.mark.parametrize("free", [0, 3])
async def test_room_is_what_the_worker_said(free: int) -> None:
    pool = ActorPool()
    pool.push(LocalWorker("w"), free)
    assert pool.free("w") == free
    assert pool.free("nobody") == 0
