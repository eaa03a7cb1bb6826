"""How calls wait: several at a time, and again after a passing fault until a deadline."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
Item = TypeVar("Item")

_FIRST, _LONGEST = 0.1, 5.0


async def bounded(
    limit: int, items: Sequence[Item], work: Callable[[Item], Awaitable[None]]
) -> None:
    """Do `work` for every item, `limit` at a time; the first error ends all and is raised."""
    if len(items) == 1:
        await work(items[0])
        return
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit, len(items))):
                group.create_task(worker())
    except BaseExceptionGroup as e:
        raise e.exceptions[0] from None


async def retried(
    call: Callable[[], Awaitable[T]],
    passing: Callable[[Exception], bool],
    *,
    deadline_s: float,
    attempt_s: float,
) -> T:
    """Repeat `call` after passing faults, with growing random pauses, until the deadline.

    An attempt that takes longer than `attempt_s` counts as a passing fault.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    for attempt in itertools.count():
        try:
            async with asyncio.timeout_at(min(end, loop.time() + attempt_s)):
                return await call()
        except Exception as e:
            pause = random.uniform(0, min(_LONGEST, _FIRST * 2**attempt))  # noqa: S311
            if not passing(e) or loop.time() + pause >= end:
                raise
        await asyncio.sleep(pause)
    raise AssertionError("the loop above ends by itself")
