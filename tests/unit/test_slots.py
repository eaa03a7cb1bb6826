"""The slots of a runner: what runs at once, what waits for it, and for how many there is room."""

import asyncio
import itertools
import time
from types import SimpleNamespace

import pytest

from wtb_ray.actors import slots
from wtb_ray.actors.slots import Slots


class Held:
    """Executions that end when told to."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.running: list[int] = []
        self.refused: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._ends: dict[int, asyncio.Event] = {}

    async def send(self, *names: int) -> None:
        self.slots.taken += len(names)
        for name in names:
            self._ends[name] = asyncio.Event()
            self.tasks.append(asyncio.create_task(self._run(name)))
        await asyncio.sleep(0)

    async def end(self, *names: int) -> None:
        for name in names:
            self._ends[name].set()
        for _ in range(6):
            await asyncio.sleep(0)

    async def _run(self, name: int) -> None:
        async with self.slots.one() as free:
            if free:
                self.running.append(name)
                await self._ends[name].wait()
                self.running.remove(name)
            else:
                self.refused.append(name)
        await self.slots.leave()


async def test_a_slot_that_becomes_free_is_taken_at_once_by_what_waits() -> None:
    held = Held(Slots(2))
    await held.send(1, 2, 3)
    assert held.running == [1, 2]
    await held.end(1)
    assert held.running == [2, 3]


async def test_as_many_are_kept_as_ended_lately_and_never_more_than_run() -> None:
    held = Held(Slots(4))
    await held.send(*range(4))
    await held.end(*range(4))
    assert await held.slots.room(4, ahead=True) == 4, "nothing runs"
    await held.send(4, 5)
    assert await held.slots.room(4, ahead=False) == 2
    assert await held.slots.room(4, ahead=True) == 2 + int(4 * slots.AHEAD_S)
    for turn in range(1, 40):
        await held.send(turn * 10)
        await held.end(turn * 10)
    assert await held.slots.room(4, ahead=True) == 2 + 2
    await held.send(6, 7, 8, 9)
    assert await held.slots.room(1, ahead=True) == 2


async def test_nothing_waits_for_what_has_just_begun() -> None:
    held = Held(Slots(8))
    await held.send(*range(8))
    await asyncio.sleep(2 * slots.AHEAD_S)
    await held.end(*range(8))
    await held.send(*range(10, 17))
    assert await held.slots.room(1, ahead=True) == 1, "each takes twice as long as one may wait"
    await asyncio.sleep(1.5 * slots.AHEAD_S)
    assert await held.slots.room(1, ahead=True) == 1 + int(8 * slots.AHEAD_S)


async def test_where_nothing_ends_nothing_waits() -> None:
    held = Held(Slots(2))
    await held.send(1, 2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3 * slots.LINGER_S):
            await held.slots.room(2, ahead=True)
    await held.end(1)
    assert await held.slots.room(2, ahead=True) == 1


async def test_there_is_never_room_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(Slots(4))
    for name in range(8):
        await held.send(name)
        await held.end(name)
    await held.send(*range(10, 14))
    # What ended a moment ago is forgotten the next time that somebody looks.
    looks = itertools.chain([time.monotonic()], itertools.repeat(time.monotonic() + 2))
    monkeypatch.setattr(slots, "time", SimpleNamespace(monotonic=lambda: next(looks)))
    assert await held.slots.room(1, ahead=True) == 2


async def test_what_waits_for_too_long_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MOST_WAIT_S", 0.05)
    held = Held(Slots(1))
    await held.send(1, 2)
    await asyncio.wait(held.tasks[1:])
    assert (held.running, held.refused, held.slots.taken) == ([1], [2], 1)
    await held.end(1)
    await held.send(3)
    assert held.running == [3]


async def test_without_memory_there_is_room_for_one_once_nothing_runs() -> None:
    held = Held(Slots(8))
    await held.send(1)
    held.slots.closed = True
    waiting = asyncio.create_task(held.slots.room(8, ahead=True))
    await asyncio.sleep(2 * slots.LINGER_S)
    assert not waiting.done()
    await held.end(1)
    assert await waiting == 1
