"""Group commit: everything is flushed once, in order, and nobody waits for others' work."""

import asyncio
import contextvars

import pytest

from wtb_ray import errors
from wtb_ray.db import GroupCommit


class Flushes:
    """Records groups; a flush ends when the test lets it."""

    def __init__(self, free: bool = True) -> None:
        self.groups: list[list[int]] = []
        self.gate = asyncio.Event()
        self.fail: BaseException | None = None
        if free:
            self.gate.set()

    async def __call__(self, items: list[int]) -> list[str | BaseException]:
        self.groups.append(items)
        await self.gate.wait()
        if self.fail is not None:
            raise self.fail
        return [ValueError(str(item)) if item < 0 else str(item) for item in items]


async def test_what_comes_during_a_flush_forms_the_next_group_in_order() -> None:
    flushes = Flushes(free=False)
    group: GroupCommit[int, str] = GroupCommit(flushes)
    first = group.submit(0)
    await asyncio.sleep(0)
    rest = [group.submit(number) for number in range(1, 4)]
    flushes.gate.set()
    assert await asyncio.gather(first, *rest) == ["0", "1", "2", "3"]
    assert flushes.groups == [[0], [1, 2, 3]]


async def test_a_group_has_a_limit() -> None:
    flushes = Flushes()
    group: GroupCommit[int, str] = GroupCommit(flushes, limit=2)
    await asyncio.gather(*(group.submit(number) for number in range(5)))
    assert flushes.groups == [[0, 1], [2, 3], [4]]


async def test_one_failure_is_that_items_alone() -> None:
    group: GroupCommit[int, str] = GroupCommit(Flushes())
    results = await asyncio.gather(*map(group.submit, (1, -2, 3)), return_exceptions=True)
    assert results[::2] == ["1", "3"]
    assert isinstance(results[1], ValueError)


async def test_a_failed_flush_fails_its_group_and_no_other() -> None:
    flushes = Flushes(free=False)
    group: GroupCommit[int, str] = GroupCommit(flushes)
    first = group.submit(1)
    await asyncio.sleep(0)
    second = group.submit(2)
    flushes.fail = OSError("disk")
    flushes.gate.set()
    with pytest.raises(OSError, match="disk"):
        await first
    with pytest.raises(OSError, match="disk"):
        await second
    flushes.fail = None
    assert await group.submit(3) == "3"


async def test_drain_waits_for_what_was_submitted_and_not_for_what_comes_later() -> None:
    flushes = Flushes(free=False)
    group: GroupCommit[int, str] = GroupCommit(flushes, limit=1)
    futures = [group.submit(number) for number in range(2)]
    draining = asyncio.create_task(group.drain())
    await asyncio.sleep(0)
    endless = True

    async def others() -> None:
        while endless:
            await group.submit(9)

    busy = [asyncio.create_task(others()) for _ in range(3)]
    flushes.gate.set()
    await asyncio.wait_for(draining, 5)
    assert all(future.done() for future in futures)
    endless = False
    await asyncio.gather(*busy)
    await group.drain()


async def test_an_item_whose_waiter_gave_up_is_still_written() -> None:
    flushes = Flushes(free=False)
    group: GroupCommit[int, str] = GroupCommit(flushes)
    future = group.submit(1)
    future.cancel()
    flushes.gate.set()
    await group.drain()
    assert flushes.groups == [[1]]


async def test_a_cancelled_group_commit_tells_everybody() -> None:
    group: GroupCommit[int, str] = GroupCommit(Flushes(free=False))
    futures = [group.submit(1)]
    await asyncio.sleep(0)
    futures.append(group.submit(2))
    assert group._task is not None
    group._task.cancel()
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [errors.Unavailable] * 2


async def test_it_does_not_live_in_the_context_of_its_first_caller() -> None:
    variable = contextvars.ContextVar("variable", default="outside")
    seen: list[str] = []

    async def flush(items: list[int]) -> list[str | BaseException]:
        seen.append(variable.get())
        return ["" for _ in items]

    group: GroupCommit[int, str] = GroupCommit(flush)
    variable.set("inside")
    await group.submit(1)
    assert seen == ["outside"]
