"""The slots of a runner process: how many executions run in it at once, and how many wait for that."""

import asyncio
import contextlib
import itertools
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

AHEAD_S: Final = 0.25
"""For how long executions are kept at hand: somewhat longer than new ones take to be claimed and sent."""
SAMPLE: Final = 31
"""Executions that ended last, whose median says how long one takes."""
RECENT_S: Final = 1.0
"""What ended within this time says how many end soon."""
LINGER_S: Final = 0.1
"""How long room for one waits for more, so that work is claimed in chunks."""
MOST_WAIT_S: Final = 1.0
"""How long an execution waits for a slot here; another process may have had one all the while."""


class Slots:
    """Runs some executions and keeps those that follow them.

    A slot that becomes free is taken at once by an execution that waits here already. Kept are as many
    as lately ended in `AHEAD_S`, and of those that run have run for about as long as what ended: where
    nothing ends, or all have just begun, nothing waits.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0
        """Executions that run or wait here."""
        self.closed = False
        """Whether there is no room, as memory is short, except for one while nothing runs."""
        self._running = asyncio.Semaphore(count)
        self._began: dict[object, float] = {}
        self._ended: deque[float] = deque(maxlen=int(count * RECENT_S / AHEAD_S))
        self._took: deque[float] = deque(maxlen=SAMPLE)
        self._changed = asyncio.Condition()

    async def room(self, chunk: int, *, ahead: bool) -> int:
        """Waits for room for so many, but for half of the slots at most; after a while one is enough.

        Args:
            chunk: How many executions one would like to send.
            ahead: Whether they may wait here, if slots become free soon.

        Returns:
            How many may be sent.
        """
        wanted = min(chunk, max(1, self.count // 2))
        async with self._changed:
            try:
                async with asyncio.timeout(LINGER_S):
                    return await self._at_least(wanted, ahead)
            except TimeoutError:
                return await self._at_least(1, ahead)

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[bool]:
        """A slot, in turn; gives False when none was free in time."""
        try:
            async with asyncio.timeout(MOST_WAIT_S):
                await self._running.acquire()
        except TimeoutError:
            yield False
            return
        one = object()
        self._began[one] = time.monotonic()
        try:
            yield True
        finally:
            self._running.release()
            now = time.monotonic()
            self._took.append(now - self._began.pop(one))
            self._ended.append(now)

    async def leave(self) -> None:
        """One that ran or waited here does so no more."""
        self.taken -= 1
        await self.changed()

    async def changed(self) -> None:
        """Has whoever waits for room look again."""
        async with self._changed:
            self._changed.notify_all()

    async def _at_least(self, wanted: int, ahead: bool) -> int:
        """What was enough, since a moment later it may be none: nobody would ask again."""
        while (free := self._free(ahead)) < wanted:
            await self._changed.wait()
        return free

    def _free(self, ahead: bool) -> int:
        if self.closed:
            return int(self.taken == 0)
        return self.count - self.taken + (self._ending_soon() if ahead else 0)

    def _ending_soon(self) -> int:
        now = time.monotonic()
        while self._ended and self._ended[0] < now - RECENT_S:
            self._ended.popleft()
        most = int(len(self._ended) * AHEAD_S / RECENT_S)
        if not most:
            return 0
        young = now + AHEAD_S - statistics.median(self._took)
        old = itertools.takewhile(lambda began: began <= young, self._began.values())
        return sum(1 for _ in itertools.islice(old, most))
