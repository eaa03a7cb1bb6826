"""Makes the next seal: the row first, since only one of several sealers can add it, then its object.

The row and the events under it say what the object holds, so a sealer that finds the newest seal
without an object writes it, whoever made the seal. No seal is made before the one before it has its
object: at any instant at most the newest one lacks it.
"""

import asyncio
import logging
from typing import Final

from wtb_ray.audit.objects import SealObjects
from wtb_ray.seals import START, Keys, Place, Row, Seal, digest_of, index
from wtb_ray.store.audit import Audit

log = logging.getLogger(__name__)

MOST_EVENTS: Final = 1000


class Sealer:
    """Seals one event log. Any number of them may run."""

    def __init__(self, audit: Audit, objects: SealObjects, keys: Keys):
        self._audit = audit
        self._objects = objects
        self._keys = keys
        self._newest: Seal | None = None
        self._stored = False

    async def waiting(self) -> int:
        """How many events a seal may cover now, counted up to the most of one seal."""
        poll = await self._audit.poll(self._end(), MOST_EVENTS)
        if poll.number == (self._newest.number if self._newest else 0):
            return poll.waiting
        newest = await self._audit.newest()
        self._newest, self._stored = (newest[0] if newest else None), False
        return (await self._audit.poll(self._end(), MOST_EVENTS)).waiting

    async def seal(self) -> Seal | None:
        """Makes one seal; None when nothing waits, or when another sealer was faster."""
        await self.store_newest()
        rows = await self._audit.settled(self._end(), MOST_EVENTS)
        if not rows:
            return None
        seal, records = await asyncio.to_thread(self._signed, rows, await self._now())
        if not await self._audit.insert(seal):
            self._newest = None  # it is not what it was: somebody added one, or changed it
            return None
        self._newest, self._stored = seal, False
        await self._store(seal, records)
        return seal

    async def store_newest(self) -> None:
        """Sees to it that the newest seal has its object."""
        seal = self._newest
        if seal is None or self._stored:
            return
        if not self._keys.authentic(seal):
            log.error(
                "seal %s was not made with a key of ours: run `wtb audit verify`",
                seal.number,
                extra={"action": "seal"},
            )
            self._stored = True
            return
        behind, to = Place.parse(seal.after), Place.parse(seal.to)
        rows = await self._audit.between(behind, to, MOST_EVENTS + 1)
        records = await asyncio.to_thread(index, rows)
        await self._store(seal, records if digest_of(records) == seal.digest else None)

    async def _store(self, seal: Seal, records: bytes | None) -> None:
        if not await self._objects.put(seal, records):
            log.error(
                "another object stands in the place of seal %s: run `wtb audit verify`",
                seal.number,
                extra={"action": "seal"},
            )
        self._stored = True

    async def _now(self) -> str:
        return (await self._audit.poll(self._end(), 0)).now

    def _end(self) -> Place:
        return Place.parse(self._newest.to) if self._newest else START

    def _signed(self, rows: list[Row], now: str) -> tuple[Seal, bytes]:
        records = index(rows)
        before = self._newest
        seal = Seal(
            number=before.number + 1 if before else 1,
            after=str(self._end()),
            to=f"{rows[-1][0]}.{rows[-1][1]}",
            events=len(rows),
            digest=digest_of(records),
            previous=before.chain if before else "",
            sealed_at=now,
            key_id=self._keys.signing,
        )
        return self._keys.sign(seal), records
