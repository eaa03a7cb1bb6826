"""How a process protects objects that it has stored and no row names yet, and those that it reads.

All work of a process that begins in one generation shares one lease, which is renewed while there is
such work, and ends when there is none: keeping files costs no statement for each snapshot. Work is
`writing` from the first object that it relies on to the commit of the row that names it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from contextvars import Context
from functools import partial
from typing import Final

from wtb_ray import errors
from wtb_ray.db import ended
from wtb_ray.model import new_id
from wtb_ray.objects import GUARD
from wtb_ray.store.holds import ByRunner, Holding

log = logging.getLogger(__name__)

TTL_S: Final = 15.0
JOURNAL_S: Final = 7 * 86_400.0
"""How long trees that a restore was displacing when it was cut off are kept for the next one."""
LIMBO_S: Final = 240.0
"""How long a writer waits for objects that are being deleted: longer than a dead collector's last
deletion may take."""
_POLL_S: Final = 0.05


class Session:
    """The lease of the work of one process that began in one generation; see `objects.Guard`."""

    def __init__(
        self, holds: "Holds", id: str, generation: int, careful: bool, protector: Holding
    ) -> None:
        self.id = id
        self.generation = generation
        self.careful = careful
        self.users = 0
        self._holds = holds
        self._holding = protector

    async def claim(self, digests: Collection[str]) -> None:
        if self.users == 0:
            raise errors.WTBError(f"objects are stored outside of the work of {self.id}")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LIMBO_S
        while await self._holding.take_back(digests):
            if loop.time() > deadline:
                raise errors.Unavailable(
                    "objects are being deleted, and nobody says that it is done", reason="collected"
                )
            await asyncio.sleep(_POLL_S)

    async def protect(self, manifests: Collection[str]) -> str:
        key = new_id("h")
        await self._holding.begin_reading(key, self._holds.holder, JOURNAL_S, manifests=manifests)
        return key

    async def unprotect(self, key: str) -> None:
        await self._holding.end([key])


class Holds:
    """The leases of one process; belongs to its event loop."""

    def __init__(self, holding: Holding, holder: str, *, ttl_s: float = TTL_S) -> None:
        self.holder = holder
        self.runner: ByRunner | None = None
        """Of a runner, once it has its lease: its claims fence what it commits."""
        self._holding = holding
        self._ttl_s = ttl_s
        self._sessions: dict[str, Session] = {}
        self._current: Session | None = None
        self._reads: set[str] = set()
        self._beginning = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    async def begin(self) -> Session:
        """Makes the caller a user of a lease, to be given back by `release`.

        Raises:
            Unavailable: The database does not answer.
        """
        async with self._beginning:
            session = self._current
            if session is None:
                id = new_id("h")
                found = await self._holding.begin_writing(id, self.holder, self._ttl_s, self.runner)
                session = Session(self, id, found.generation, found.sweeping, self._holding)
                self._sessions[id] = self._current = session
                self._keep()
            session.users += 1
            return session

    def release(self, session: Session) -> None:
        """The work is done: its row is committed, or never will be."""
        session.users -= 1

    def share(self, session: Session) -> Callable[[], None]:
        """Makes one more user of a lease in use; gives what ends that use."""
        session.users += 1
        return partial(self.release, session)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Session]:
        """Protects what is stored inside until its row is committed inside.

        Raises:
            Unavailable: The database does not answer.
        """
        session = await self.begin()
        token = GUARD.set(session)
        try:
            yield session
        finally:
            GUARD.reset(token)
            self.release(session)

    @asynccontextmanager
    async def reading(self, manifests: Collection[str]) -> AsyncIterator[None]:
        """Protects trees that rows named when it was entered: look at the row again inside.

        Raises:
            Unavailable: The database does not answer.
        """
        key = new_id("h")
        await self._holding.begin_reading(
            key, self.holder, self._ttl_s, manifests=manifests, runner=self.runner
        )
        self._reads.add(key)
        self._keep()
        try:
            yield
        finally:
            self._reads.discard(key)
            try:
                await asyncio.shield(self._holding.end([key]))
            except errors.Unavailable as e:  # it runs out by itself
                log.warning("a lease is left to run out: %s", e, extra={"action": "holds"})

    async def leave(self, digests: Collection[str], for_s: float) -> None:
        """Protects objects for a while, whatever becomes of this process.

        Raises:
            Unavailable: The database does not answer.
        """
        await self._holding.begin_reading(new_id("h"), self.holder, for_s, digests=digests)

    async def close(self) -> None:
        """Gives back what nobody uses any more; what is still used runs out."""
        if self._keeper is not None:
            await ended(self._keeper)
        try:
            await self._end_unused()
        except errors.Unavailable as e:
            log.warning("leases are left to run out: %s", e, extra={"action": "holds"})

    def _keep(self) -> None:
        if self._keeper is None or self._keeper.done():
            # In a context of its own: that of a node would keep its graph for as long as this runs.
            loop = asyncio.get_running_loop()
            self._keeper = loop.create_task(self._run(), context=Context())

    async def _run(self) -> None:
        while self._sessions or self._reads:
            await asyncio.sleep(self._ttl_s / 3)
            try:
                await self._round()
            except errors.Unavailable as e:
                log.warning("leases not renewed: %s", e, extra={"action": "holds"})
            except Exception:  # a defect in one round must not end the renewing
                log.exception("leases not renewed", extra={"action": "holds"})

    async def _round(self) -> None:
        """Renews what is used, ends what is not, and lets new work begin in the newest generation."""
        await self._end_unused()
        ids = [*self._sessions, *self._reads]
        if not ids:
            return
        standing, now = await self._holding.renew(ids, self._ttl_s)
        for session in self._sessions.values():
            if session.generation == now.generation:
                session.careful = session.careful and now.sweeping
        current = self._current
        known = current is not None and current.id in ids
        if current is not None and known:
            stands = current.id in standing and current.generation == now.generation
            self._current = current if stands else None
        await self._end_unused()

    async def _end_unused(self) -> None:
        async with self._beginning:
            unused = [id for id, session in self._sessions.items() if not session.users]
            if self._current is not None and self._current.id in unused:
                self._current = None
            if unused:
                await self._holding.end(unused)
            for id in unused:
                del self._sessions[id]
