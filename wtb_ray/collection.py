"""Garbage collection: deletes the objects that no row and no live lease can reach.

No object that a row names, now or ever again, is deleted, whoever dies or stops for however long:

1. Mark what rows and readers' leases reach; *condemn* in rows what is not reached and old enough.
   A tree that cannot be walked ends the collection here.
2. Begin a generation. Writers who begin now look at the list of the condemned before they rely on
   an object, and take it back: taking back and step 5 are changes of one row. What a process has
   seen of the store in an earlier generation it does not believe any more.
3. Wait until no lease of a writer from before is left. One that has run out is ended by deleting
   its row, and rows that name objects commit only while that is there, in the same transaction
   (`store.holds.still_held`): a writer that has slept cannot commit any more.
4. Mark again. Every row that names something condemned was committed under such a lease and is
   seen here, or names what was taken back.
5. Of those that are still not reached, *doom* some, unless they were taken back, and only then
   delete them; what is doomed stays listed until that is done, and writers who want it wait.

A collector that dies is followed by one with a higher fencing number, which goes on at 3. It first
waits until the other's last deletions have been carried out: until its process is provably gone, or
`SURE_S` have passed, as no deletion is begun later than `DELETE_S` after the dooming and a request
is given up, or has reached the store, within its deadline of two minutes.
What no store can fence is left: a collector that is stopped between its look at the clock and the
very call that deletes, for longer than `SURE_S`, and then goes on.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from wtb_ray import errors, locks
from wtb_ray.db import ended
from wtb_ray.marking import Marker
from wtb_ray.model import new_id
from wtb_ray.objects import ObjectStore, Stored
from wtb_ray.states import CollectionStatus
from wtb_ray.storage_api import CollectionReport
from wtb_ray.store import Store
from wtb_ray.store.collections import LEASE, Doomed, Fence, Row

log = logging.getLogger(__name__)

TTL_S: Final = 15.0
DELETE_S: Final = 30.0
SURE_S: Final = 180.0
SETTLED_S: Final = 10.0
"""What a process that has died may still have under way to a store that is not a disk."""
STAGED_S: Final = 86_400.0
"""Nobody stages an object for longer: its process has died."""
BATCH: Final = 4000
SHARDS: Final = "0123456789abcdef"
"""First digits of digests: the store is listed by them."""
CONDEMNED_AT_ONCE: Final = 10_000
_POLL_S: Final = 0.25

Check = Callable[[str], Awaitable[None]]


@dataclass
class Found:
    """What a collection has counted so far."""

    marked: int = 0
    leased: int = 0
    """Reached from leases alone."""
    listed: int = 0
    listed_bytes: int = 0
    garbage: int = 0
    garbage_bytes: int = 0
    young: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    waits_for: list[str] = field(default_factory=list)


class Collector:
    """Collects the garbage of one store, one collection at a time over all processes."""

    def __init__(
        self,
        store: Store,
        objects: ObjectStore,
        *,
        actor: str,
        ttl_s: float = TTL_S,
        wait_s: float = 600.0,
        settled_s: float = SETTLED_S,
        pause: Check | None = None,
    ) -> None:
        """A collector.

        Args:
            store: Where rows and leases are.
            objects: What is collected.
            actor: Whom the log names.
            ttl_s: Length of its lease.
            wait_s: How long it waits for writers from before; then the next one goes on.
            settled_s: How long what a dead process has sent to the store may be on its way.
            pause: Is told of every step before it is done.
        """
        self._store = store
        self._rows = store.collections
        self._objects = objects
        self._actor = actor
        self._ttl_s = ttl_s
        self._wait_s = wait_s
        self._settled_s = 0.0 if objects.url.startswith("file:") else settled_s
        self._pause = pause
        self._owner = locks.Owner.here(actor)
        self._holder = f"{actor}:{new_id('c')}"

    async def survey(self, grace_s: float) -> CollectionReport:
        """What a collection would delete; changes nothing.

        Raises:
            Unavailable: Database or object store do not answer.
        """
        began, found = time.monotonic(), Found()
        marker = Marker(self._objects)
        await self._mark(marker, found)
        async for _ in self._garbage(marker, found, grace_s):
            pass
        return CollectionReport(
            dry_run=True,
            status=CollectionStatus.DONE,
            grace_s=grace_s,
            done=1.0,
            duration_s=time.monotonic() - began,
            **dataclasses.asdict(found),
        )

    async def collect(self, grace_s: float) -> CollectionReport:
        """Deletes garbage, or goes on with a collection that was cut off.

        Where writers from before do not end in time it is left SWEEPING, and names them.

        Args:
            grace_s: What was written later than so many seconds ago stays.

        Raises:
            Conflict: Another collector is at work.
            Fenced: Another one has taken over.
            Unavailable: Database or object store do not answer.
        """
        epoch = await self._store.leases.acquire(LEASE, self._holder, self._ttl_s)
        if epoch is None:
            raise errors.Conflict(
                "another collection is at work", field="collection", reason="at work"
            )
        fence = Fence(self._holder, epoch, self._ttl_s)
        try:
            async with self._renewed(fence):
                return await self._collect(fence, grace_s)
        finally:
            await self._store.leases.release(LEASE, self._holder)

    async def _collect(self, fence: Fence, grace_s: float) -> CollectionReport:
        found, marker = Found(), Marker(self._objects)
        owner = dataclasses.asdict(self._owner)
        opened = await self._rows.open(fence, grace_s, owner, self._actor)
        id = opened.id
        if opened.resumed:
            await self._settle(fence, id, opened.owners)
            found = _found(await self._rows.get(id))
            generation = (await self._store.holds.collecting()).generation
        else:
            await self._mark(marker, found)
            if found.damaged:
                return await self._failed(fence, id, found)
            await self._condemn(fence, id, marker, found, grace_s)
            if not found.garbage:
                return await self._finished(fence, id, found)
            await self._step("generation")
            counts = dataclasses.asdict(found)
            generation = await self._rows.next_generation(fence, id, counts)
        if not await self._writers_gone(fence, id, generation, found):
            return report(await self._rows.get(id))
        await self._step("mark again")
        await self._mark(marker, found)
        if found.damaged:
            return await self._failed(fence, id, found)
        await self._sweep(fence, id, marker, found)
        return await self._finished(fence, id, found)

    async def _finished(self, fence: Fence, id: int, found: Found) -> CollectionReport:
        await self._objects.tidy(STAGED_S)
        await self._step("finish")
        counts = dataclasses.asdict(found)
        return report(await self._rows.finish(fence, id, counts, None, self._actor))

    async def _failed(self, fence: Fence, id: int, found: Found) -> CollectionReport:
        for digest, reason in found.damaged.items():
            await self._rows.damaged(digest, reason, actor=self._actor)
        why = f"{len(found.damaged)} directory objects cannot be read, so nothing was deleted"
        counts = dataclasses.asdict(found)
        return report(await self._rows.finish(fence, id, counts, why, self._actor))

    # --- marking ---

    async def _mark(self, marker: Marker, found: Found) -> None:
        roots, trees = await self._roots(held=False)
        await marker.mark(roots, trees)
        by_rows = len(marker.reached)
        roots, trees = await self._roots(held=True)
        await marker.mark(roots, trees, strict=False)
        found.marked = len(marker.reached)
        found.leased = max(found.leased, found.marked - by_rows)
        found.damaged = dict(list(marker.damaged.items())[:100])

    async def _roots(self, *, held: bool) -> tuple[bytes, bytes]:
        single, trees = bytearray(), bytearray()
        async for digest, is_tree in self._rows.roots(held=held):
            (trees if is_tree else single).extend(digest)
        return bytes(single), bytes(trees)

    async def _garbage(
        self, marker: Marker, found: Found, grace_s: float
    ) -> AsyncIterator[tuple[int, list[tuple[bytes, int]]]]:
        """What is not reached and old enough, shard by shard; counts what is there."""
        youngest = await self._objects.now() - grace_s
        for done, shard in enumerate(SHARDS, 1):
            garbage: list[tuple[bytes, int]] = []
            async for page in self._objects.pages(shard):
                garbage += _unreached(marker, page, youngest, found)
                if len(garbage) >= CONDEMNED_AT_ONCE:
                    yield done, garbage
                    garbage = []
            yield done, garbage

    async def _condemn(
        self, fence: Fence, id: int, marker: Marker, found: Found, grace_s: float
    ) -> None:
        last = 0.0
        async for done, garbage in self._garbage(marker, found, grace_s):
            if garbage:
                await self._step("condemn")
                await self._rows.condemn(fence, garbage)
            if time.monotonic() > last + 1:
                last = time.monotonic()
                counts = dataclasses.asdict(found)
                await self._rows.advance(fence, id, done / len(SHARDS), counts)

    # --- waiting ---

    async def _writers_gone(self, fence: Fence, id: int, generation: int, found: Found) -> bool:
        deadline = time.monotonic() + self._wait_s
        while True:
            await self._step("wait")
            found.waits_for = await self._rows.writers_before(fence, generation)
            if not found.waits_for:
                return True
            if time.monotonic() > deadline:
                await self._rows.advance(fence, id, 0.0, dataclasses.asdict(found))
                return False
            await asyncio.sleep(_POLL_S)

    async def _settle(self, fence: Fence, id: int, owners: dict[str, Any]) -> None:
        """Waits for the last deletions of collectors before, and has them done for certain."""
        while True:
            doomed = await self._rows.doomed_by_others(
                fence, sure_s=SURE_S, settled_s=self._settled_s
            )
            if not doomed:
                return
            over = [one for one in doomed if one.sure or (one.settled and _gone(one, owners))]
            if over:
                await self._step("settle")
                await self._objects.delete([one.digest.hex() for one in over])
                await self._rows.deleted(fence, id, [one.digest for one in over], 0.0)
            else:
                await asyncio.sleep(_POLL_S)

    # --- deleting ---

    async def _sweep(self, fence: Fence, id: int, marker: Marker, found: Found) -> None:
        total, seen = await self._rows.condemned(), 0
        after = b""
        while batch := await self._rows.next_condemned(after, BATCH):
            after = batch[-1][0]
            seen += len(batch)
            there = marker.reached.among(b"".join(raw for raw, _ in batch))
            kept = [raw for (raw, _), reached in zip(batch, there, strict=True) if reached]
            gone = [raw for (raw, _), reached in zip(batch, there, strict=True) if not reached]
            if kept:
                await self._step("pardon")
                await self._rows.pardon(fence, kept)
            if gone:
                await self._delete(fence, id, gone, seen / max(total, seen))

    async def _delete(self, fence: Fence, id: int, digests: list[bytes], done: float) -> None:
        await self._step("doom")
        began = time.monotonic()
        doomed = [raw for raw, _ in await self._rows.doom(fence, digests)]
        await self._step("delete")
        within_s = DELETE_S - (time.monotonic() - began)
        await self._objects.delete([raw.hex() for raw in doomed], within_s=within_s)
        await self._step("deleted")
        await self._rows.deleted(fence, id, doomed, done)

    # --- the lease ---

    @asynccontextmanager
    async def _renewed(self, fence: Fence) -> AsyncIterator[None]:
        """Renews the lease beside the work; statements of the work notice when it is lost."""
        task = asyncio.create_task(self._renew(fence))
        try:
            yield
        finally:
            await ended(task)

    async def _renew(self, fence: Fence) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            try:
                await self._store.leases.hold(LEASE, fence.holder, fence.epoch, self._ttl_s)
            except errors.Unavailable as e:
                log.warning("lease not renewed: %s", e, extra={"action": "collect"})

    async def _step(self, name: str) -> None:
        if self._pause is not None:
            await self._pause(name)


def report(row: Row) -> CollectionReport:
    """A collection as the API shows it."""
    over, done = row.ended_at, row.status is CollectionStatus.DONE
    return CollectionReport(
        id=row.id,
        dry_run=False,
        status=row.status,
        grace_s=row.grace_s,
        done=row.done,
        swept=row.swept,
        swept_bytes=row.swept_bytes,
        pardoned=row.counts["garbage"] - row.swept if done else 0,
        error=row.error,
        started_at=row.started_at,
        duration_s=(over - row.started_at).total_seconds() if over is not None else None,
        **row.counts,
    )


def _found(row: Row) -> Found:
    return Found(**row.counts)


def _unreached(
    marker: Marker, page: list[Stored], youngest: float, found: Found
) -> list[tuple[bytes, int]]:
    found.listed += len(page)
    found.listed_bytes += sum(stored.size for stored in page)
    reached = marker.reached.among(bytes.fromhex("".join(stored.digest for stored in page)))
    garbage = []
    for i in np.flatnonzero(~reached).tolist():
        stored = page[i]
        if stored.modified > youngest:
            found.young += 1
        else:
            garbage.append((bytes.fromhex(stored.digest), stored.size))
            found.garbage += 1
            found.garbage_bytes += stored.size
    return garbage


def _gone(doomed: Doomed, owners: dict[str, Any]) -> bool:
    """Whether the process that was deleting it provably is no more."""
    owner = owners.get(str(doomed.doomed))
    return owner is not None and locks.Owner(**owner).lets_go()
