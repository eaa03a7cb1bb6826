"""The limits of one runner process: its waiters queue here, and it reserves for them in chunks.

Who waits holds no connection. Waiters of a limit are served in the order in which they came; a chunk
is reserved when the one before is served, so that processes take turns, and one that dies loses at
most its chunk. A waiter that leaves while its chunk is reserved loses its share of it.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Final, Protocol

import psycopg

from wtb_ray import errors
from wtb_ray.context import Limits as ContextLimits
from wtb_ray.crossing import Asked, Granted, Left, packed
from wtb_ray.rates import LimitSpec, Reserved
from wtb_ray.store.limits import Limits

log = logging.getLogger(__name__)

POLL_S: Final = (0.1, 0.3)
"""How long who waits for a slot lets pass until it asks again, at random."""
AGAIN_S: Final = 0.5
"""How long to wait for a database that is away."""

GiveBack = Callable[[], None]


class _Waiter:
    def __init__(self, amounts: Mapping[str, float]) -> None:
        self.amounts = amounts
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class RunnerLimits:
    """Limits as the nodes of one process take from them."""

    def __init__(self, rows: Limits, holder: str) -> None:
        """For one process; made on its event loop.

        Args:
            rows: The limits of the cluster.
            holder: The lease of the runner, with which its slots end.
        """
        self.loop = asyncio.get_running_loop()
        self._rows = rows
        self._holder = holder
        self._queues: dict[str, _Queue] = {}

    async def take(self, name: str, amounts: Mapping[str, float]) -> GiveBack:
        """Waits for its turn; gives what to call, from any thread, when it is done.

        Raises:
            UnknownLimit: There is no such limit.
            LimitUnmeetable: More is asked for than it ever has.
            Unavailable: The database does not answer, and nothing is known of the limit.
        """
        if name not in self._queues:
            self._queues[name] = _Queue(self._rows, name, self._holder)
        queue = self._queues[name]
        await queue.take(amounts)
        given = [queue.leave]

        def give_back() -> None:
            if given:
                self.loop.call_soon_threadsafe(given.pop())

        return give_back

    async def close(self) -> None:
        """Lets go of everything that waits; slots end with the runner's lease."""
        for queue in self._queues.values():
            await queue.close()


class _Queue:
    """The waiters of one limit in this process."""

    def __init__(self, rows: Limits, name: str, holder: str) -> None:
        self._rows = rows
        self._name = name
        self._holder = holder
        self._spec: LimitSpec | None = None
        self._waiting: deque[_Waiter] = deque()
        self._inside = 0
        self._held = 0
        """Slots that are held in the database."""
        self._work = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    async def take(self, amounts: Mapping[str, float]) -> None:
        if self._spec is None or self._spec.above(amounts) is not None:
            self._spec = await self._rows.get(self._name)
        self._check(self._spec, amounts)
        waiter = _Waiter(amounts)
        self._waiting.append(waiter)
        self._stir()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self.leave()  # its turn had just come
            raise

    def leave(self) -> None:
        """One that was inside is outside again."""
        self._inside -= 1
        if self._held > self._inside:
            self._stir()

    async def close(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait({self._serving})
        for waiter in self._waiting:
            waiter.turn.cancel()

    def _check(self, spec: LimitSpec, amounts: Mapping[str, float]) -> None:
        if (found := spec.above(amounts)) is not None:
            unit, asked, most = found
            raise errors.LimitUnmeetable(
                f"limit {self._name!r} never has {asked:g} {unit} at once: its capacity is {most:g}",
                field=unit,
                reason=f"{asked:g} asked, {most:g} at most",
                limit=self._name,
                unit=unit,
                asked=asked,
                most=most,
            )

    def _stir(self) -> None:
        self._work.set()
        if self._serving is None:  # in a context of its own: that of a node would keep its graph
            loop = asyncio.get_running_loop()
            self._serving = loop.create_task(self._serve(), context=Context())

    async def _serve(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._settle()
            except (errors.Unavailable, psycopg.Error) as e:
                log.warning("limit %s waits: %s", self._name, e, extra={"action": "limit"})
                await asyncio.sleep(AGAIN_S)
                self._work.set()
            except Exception:  # a defect in one round must not leave all others waiting
                log.exception("limit %s", self._name, extra={"action": "limit"})
                await asyncio.sleep(AGAIN_S)
                self._work.set()

    async def _settle(self) -> None:
        """Serves waiters until none is left, and gives back the slots that nobody is in."""
        while self._arrived():
            if self._spec is None:
                await self._known()
                continue
            room = len(self._waiting)
            if self._spec.concurrency is not None:
                room = await self._slots(room)
            if room:
                await self._serve_chunk(room)
            else:
                await self._pause()
        if self._held > self._inside:
            await self._slots(0)

    async def _serve_chunk(self, room: int) -> None:
        waiting = list(self._arrived())
        if self._spec is None or not waiting:
            return
        chunk = waiting[: min(room, self._spec.chunk([w.amounts for w in waiting]))]
        if (reserved := await self._reserved(chunk)) is not None:
            await self._let_in(chunk, reserved)

    async def _pause(self) -> None:
        """Until somebody here leaves or comes, or it is time to ask for slots again."""
        try:
            async with asyncio.timeout(random.uniform(*POLL_S)):  # noqa: S311
                await self._work.wait()
        except TimeoutError:
            return
        self._work.clear()

    def _arrived(self) -> deque[_Waiter]:
        """Those who still wait."""
        self._waiting = deque(w for w in self._waiting if not w.turn.done())
        return self._waiting

    async def _slots(self, wanted: int) -> int:
        """Gives back the slots that nobody is in, and asks for as many as are wanted.

        All are asked for anew each time, so that other processes have their turn.
        """
        inside = self._inside
        got = await self._rows.slots(self._name, self._holder, inside, wanted)
        self._held = inside + (got or 0)
        if got is None:  # there is no concurrency any more, or no limit
            self._spec, self._held = None, 0
        return got or 0

    async def _known(self) -> None:
        """Reads the limit anew; refuses those who wait in vain."""
        try:
            self._spec = spec = await self._rows.get(self._name)
        except errors.UnknownLimit as e:
            self._spec = None
            for waiter in self._arrived():
                waiter.turn.set_exception(e)
            return
        for waiter in self._arrived():
            try:
                self._check(spec, waiter.amounts)
            except errors.LimitUnmeetable as e:
                waiter.turn.set_exception(e)

    async def _reserved(self, chunk: list[_Waiter]) -> Reserved | None:
        units = {unit for waiter in chunk for unit in waiter.amounts}
        sums = {unit: sum(w.amounts.get(unit, 0.0) for w in chunk) for unit in units}
        reserved = await self._rows.reserve(self._name, sums)
        if reserved is None:
            await self._known()
        else:
            self._spec = reserved.spec
        return reserved

    async def _let_in(self, chunk: list[_Waiter], reserved: Reserved) -> None:
        began = asyncio.get_running_loop().time()
        for waiter, delay in zip(chunk, reserved.delays([w.amounts for w in chunk]), strict=True):
            left = began + delay - asyncio.get_running_loop().time()
            if left > 0:
                await asyncio.sleep(left)
            if not waiter.turn.done():
                self._inside += 1
                waiter.turn.set_result(None)


class Grantor(Protocol):
    """The process of a node, as far as it takes from limits through its runner."""

    async def grant(self, call_id: str, granted: bytes) -> None:
        """Tells a call that it may go on, or why not."""
        ...


class Grants:
    """What one call of a node in a process of its own takes from the limits of its runner."""

    def __init__(self, limits: ContextLimits | None, actor: Grantor, call_id: str) -> None:
        self._limits = limits
        self._actor = actor
        self._call_id = call_id
        self._given: dict[int, GiveBack] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def hear(self, message: Asked | Left) -> None:
        """The node waits for a limit, or waits and is inside no more."""
        if isinstance(message, Asked):
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._answer(message), context=Context())
            self._tasks[message.number] = task
            return
        if (waiting := self._tasks.pop(message.number, None)) is not None:
            waiting.cancel()
        if (give_back := self._given.pop(message.number, None)) is not None:
            give_back()

    def close(self) -> None:
        """The call is over, however it ended: all that it has goes back."""
        for task in self._tasks.values():
            task.cancel()
        for give_back in self._given.values():
            give_back()
        self._given.clear()

    async def _answer(self, asked: Asked) -> None:
        error: BaseException | None = None
        try:
            if self._limits is not None:
                self._given[asked.number] = await self._limits.take(asked.name, asked.amounts)
        except errors.WTBError as e:
            error = e
        try:
            await self._actor.grant(self._call_id, packed(Granted(asked.number, error)))
        except errors.Unavailable as e:  # the call hears of its end by itself
            log.warning("limit %s not granted: %s", asked.name, e, extra={"action": "limit"})
