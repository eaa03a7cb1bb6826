"""The event log as live streams: one poll of the database per process, fanned out to followers.

A follower gets every event that it wants after its cursor, in the order of the log, none missing
and none twice. It has a bounded queue; one that does not keep up loses the queue and reads from
the database until it does. Nothing here is kept: a cursor is all that is needed to go on anywhere.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from typing import NamedTuple

from wtb_ray import errors
from wtb_ray.events import Cursor, EventRow
from wtb_ray.store.events import Events

log = logging.getLogger(__name__)

IDLE_S = 15.0
RETRY_S = 1.0


class Wanted(NamedTuple):
    """Which events a follower gets; None means all."""

    execution_id: str | None = None
    batch_id: str | None = None
    types: frozenset[str] | None = None


class Part(NamedTuple):
    """Some events, possibly none, and how far the follower has come with them."""

    rows: list[EventRow]
    cursor: Cursor


def _at(cursor: Cursor) -> tuple[int, int]:
    return cursor.xid, cursor.seq


class _Follower:
    """The queue of one follower."""

    def __init__(self, wanted: Wanted, limit: int) -> None:
        self.wanted = wanted
        self.behind = False
        self.wake = asyncio.Event()
        self._limit = limit
        self._rows: deque[EventRow] = deque()

    def offer(self, row: EventRow) -> None:
        if self.behind or not (self.wanted.types is None or row.type in self.wanted.types):
            return
        if len(self._rows) < self._limit:
            self._rows.append(row)
        else:
            self._rows.clear()
            self.behind = True
        self.wake.set()

    def restart(self) -> None:
        self._rows.clear()
        self.behind = False

    def take(self, after: Cursor) -> list[EventRow]:
        rows = [row for row in self._rows if _at(Cursor.parse(row.cursor)) > _at(after)]
        self._rows.clear()
        return rows


class Feed:
    """Followers of the event log in one process; polls only while there are any."""

    def __init__(self, events: Events, poll_ms: int, *, queue: int = 1000, page: int = 500) -> None:
        self.poll_s = poll_ms / 1000
        self._events = events
        self._queue = queue
        self._page = page
        self._followers: dict[tuple[str | None, str | None], set[_Follower]] = {}
        self._position = Cursor.START
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def close(self) -> None:
        """Ends all streams; they can be resumed elsewhere."""
        self._closed = True
        for follower in self._all():
            follower.wake.set()
        self._ready.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def history(self, after: Cursor, wanted: Wanted) -> AsyncGenerator[Part, None]:
        """The events after the cursor that are in the log now."""
        end = await self._events.latest()
        while True:
            rows = await self._read(after, wanted)
            kept = [row for row in rows if _at(Cursor.parse(row.cursor)) <= _at(end)]
            if kept:
                after = Cursor.parse(kept[-1].cursor)
                yield Part(kept, after)
            if len(kept) < self._page:
                return

    async def follow(
        self, after: Cursor, wanted: Wanted, *, idle_s: float = IDLE_S
    ) -> AsyncGenerator[Part, None]:
        """The events after the cursor and all that come, until the caller leaves or the feed ends.

        After each `idle_s` without any it gives an empty part, whose cursor may be ahead of the
        last event's: resuming there spares reading over what was not wanted.
        """
        follower = _Follower(wanted, self._queue)
        try:
            await self._join(follower)
            while not self._closed:
                # The poll passes rows to the queue from here on, and whatever it has passed
                # already is in the database: between the two nothing can be missed.
                follower.restart()
                async for part in self._stored(after, wanted):
                    after = part.cursor
                    yield part
                while not (follower.behind or self._closed):
                    part = await self._queued(follower, after, idle_s)
                    after = part.cursor
                    yield part
        finally:
            self._leave(follower)

    async def _stored(self, after: Cursor, wanted: Wanted) -> AsyncGenerator[Part, None]:
        """Pages from the database until one is not full."""
        while not self._closed:
            try:
                rows = await self._read(after, wanted)
            except errors.Unavailable:
                await asyncio.sleep(RETRY_S)
                continue
            if rows:
                after = Cursor.parse(rows[-1].cursor)
                yield Part(rows, after)
            if len(rows) < self._page:
                return

    async def _queued(self, follower: _Follower, after: Cursor, idle_s: float) -> Part:
        """What is in the queue behind the cursor, waiting for it at most `idle_s`."""
        try:
            async with asyncio.timeout(idle_s):
                while True:
                    follower.wake.clear()
                    rows = follower.take(after)
                    if rows:
                        return Part(rows, Cursor.parse(rows[-1].cursor))
                    if follower.behind or self._closed:
                        return Part([], after)
                    await follower.wake.wait()
        except TimeoutError:
            # No await since the timeout: the queue holds all that the poll has passed and the
            # follower has not seen.
            rows = follower.take(after)
            if rows or follower.behind:
                return Part(rows, Cursor.parse(rows[-1].cursor) if rows else after)
            return Part([], max(after, self._position, key=_at))

    async def _read(self, after: Cursor, wanted: Wanted) -> list[EventRow]:
        return await self._events.read(
            after,
            self._page,
            execution_id=wanted.execution_id,
            batch_id=wanted.batch_id,
            types=None if wanted.types is None else sorted(wanted.types),
        )

    async def _join(self, follower: _Follower) -> None:
        """Adds the follower; returns when the poll has a position, so that nothing falls between."""
        key = (follower.wanted.execution_id, follower.wanted.batch_id)
        self._followers.setdefault(key, set()).add(follower)
        if not self._closed and (self._task is None or self._task.done()):
            self._ready.clear()
            self._task = asyncio.create_task(self._poll())
        await self._ready.wait()

    def _leave(self, follower: _Follower) -> None:
        key = (follower.wanted.execution_id, follower.wanted.batch_id)
        group = self._followers.get(key, set())
        group.discard(follower)
        if not group:
            self._followers.pop(key, None)

    async def _poll(self) -> None:
        while self._followers:
            pause = self.poll_s
            try:
                if not self._ready.is_set():
                    self._position = await self._events.latest()
                    self._ready.set()
                rows = await self._events.read(self._position, self._page)
                self._deliver(rows)
                pause = self.poll_s if len(rows) < self._page else 0
            except errors.Unavailable as e:
                log.warning("events cannot be read: %s", e)
                pause = RETRY_S
            except Exception:
                log.exception("events cannot be read")
                pause = RETRY_S
            await asyncio.sleep(pause)

    def _deliver(self, rows: list[EventRow]) -> None:
        for row in rows:
            for key in {(e, b) for e in (None, row.execution_id) for b in (None, row.batch_id)}:
                for follower in self._followers.get(key, ()):
                    follower.offer(row)
        if rows:
            self._position = Cursor.parse(rows[-1].cursor)

    def _all(self) -> list[_Follower]:
        return [follower for group in self._followers.values() for follower in group]


def sse(part: Part) -> bytes:
    """Server-sent events of a part: id is the cursor, data the event; a bare id when it is empty."""
    if not part.rows:
        return f": idle\nid: {part.cursor}\n\n".encode()
    return "".join(
        f"id: {row.cursor}\nevent: {row.type}\ndata: {row.model_dump_json()}\n\n"
        for row in part.rows
    ).encode()
