"""An asyncio pool of workers with the verbs of `ray.util.ActorPool`, made for workers that die.

`ray.util.ActorPool` blocks, forgets a dead actor and can lose pending work. Here a worker takes
chunks up to its free slots, and a call that fails hands its chunk back with the error: the owner
decides about replacements. There is no deadline on a call: whether a silent worker is dead is
decided by its lease, and until then its work is not given to another.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from wtb_ray.model import Assignment


class Undelivered(Exception):
    """The chunk was never sent: its worker was gone already."""


class Worker(Protocol):
    """Someone who takes chunks of work."""

    @property
    def id(self) -> str: ...

    @property
    def slots(self) -> int: ...

    async def run(self, chunk: Sequence[Assignment], ahead: bool) -> int:
        """Takes the chunk; returns once there is room for more, and for how many.

        With `ahead` there is room, too, for those that will find a free slot soon.

        Raises:
            Undelivered: The worker has certainly seen nothing of it.
        """
        ...


@dataclass(frozen=True)
class Done:
    """How a submitted chunk was taken."""

    worker: str
    chunk: Sequence[Assignment]
    error: Exception | None = None


@dataclass
class _Member:
    worker: Worker
    free: int
    call: asyncio.Task[None] | None = None
    taken: bool = False

    def idle(self) -> bool:
        return self.free > 0 and self.call is None and not self.taken


class ActorPool:
    """Workers by id; each has at most one call under way, which ends when it has room again."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self._done: asyncio.Queue[Done] = asyncio.Queue()
        self._changed = asyncio.Event()
        self.resting: frozenset[str] = frozenset()
        """Those that are given no more chunks."""

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, worker_id: str) -> bool:
        return worker_id in self._members

    def ids(self) -> list[str]:
        return list(self._members)

    def push(self, worker: Worker, free: int | None = None) -> None:
        """Adds a worker with its free slots (all, when not told), or gives back one from `pop_idle`."""
        member = self._members.get(worker.id)
        if member is None:
            self._members[worker.id] = _Member(worker, worker.slots if free is None else free)
        else:
            member.taken = False
            member.free = member.free if free is None else free
            self._members[worker.id] = self._members.pop(worker.id)  # others come first now
        self._changed.set()

    def remove(self, worker_id: str) -> None:
        """Forgets a worker and cancels the call to it; its chunk comes back as done with an error."""
        member = self._members.pop(worker_id, None)
        if member is not None and member.call is not None:
            member.call.cancel()

    def rest(self, worker_ids: Collection[str]) -> None:
        """Gives these no more chunks, and all others again."""
        self.resting = frozenset(worker_ids)
        self._changed.set()

    def room(self, but: Collection[str] = ()) -> bool:
        """Whether any worker, but these, can take a chunk, or is just being given one."""
        members = [m for id, m in self._members.items() if id not in but and id not in self.resting]
        return any(m.taken or m.idle() for m in members)

    def free(self, worker_id: str) -> int:
        """Free slots of a worker as it last said; 0 for one that is not here."""
        member = self._members.get(worker_id)
        return member.free if member else 0

    async def pop_idle(self) -> Worker:
        """Waits for the worker with the most room and takes it out until `submit` or `push`."""
        while True:
            idle = [m for id, m in self._members.items() if m.idle() and id not in self.resting]
            if idle:
                member = max(idle, key=lambda m: m.free)
                member.taken = True
                return member.worker
            self._changed.clear()
            await self._changed.wait()

    def submit(self, worker: Worker, chunk: Sequence[Assignment], *, ahead: bool = False) -> None:
        """Sends a chunk to a worker that `pop_idle` gave; the outcome comes from `get_next_unordered`.

        Args:
            worker: The worker.
            chunk: What it is to do.
            ahead: Whether it is to say, too, for how many it has room that find a free slot soon.
        """
        member = self._members.get(worker.id)
        if member is None:
            error = Undelivered(f"worker {worker.id} is not in the pool any more")
            self._done.put_nowait(Done(worker.id, chunk, error))
            return
        member.taken = False
        member.free -= len(chunk)
        member.call = asyncio.create_task(self._call(member, chunk, ahead))

    async def get_next_unordered(self) -> Done:
        """The next chunk that was taken, or failed to be, in the order of completion."""
        return await self._done.get()

    async def close(self) -> None:
        """Forgets all workers and waits until the calls to them have been cancelled."""
        calls = [m.call for m in self._members.values() if m.call is not None]
        for worker_id in self.ids():
            self.remove(worker_id)
        await asyncio.gather(*calls, return_exceptions=True)

    async def _call(self, member: _Member, chunk: Sequence[Assignment], ahead: bool) -> None:
        error: Exception | None = None
        try:
            member.free = await member.worker.run(chunk, ahead)
        except asyncio.CancelledError:
            error = RuntimeError(f"worker {member.worker.id} was removed from the pool")
        except Exception as e:  # noqa: BLE001 - whatever the worker raised belongs to its chunk
            error = e
        member.call = None
        if error is not None and self._members.get(member.worker.id) is member:
            del self._members[member.worker.id]
        self._done.put_nowait(Done(member.worker.id, chunk, error))
        self._changed.set()
