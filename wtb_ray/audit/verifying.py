"""Compares seals, their objects and the log: what was changed, removed or added is named.

A seal counts when somebody with the key made it, whether it is found as a row or as an object; each
stands in for the other when one is missing or was changed. Only the events of seals that count are
compared. What is read at a time is bounded, however long the log is.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from wtb_ray.api import AuditProblem, AuditReport
from wtb_ray.audit.objects import SealObject, SealObjects
from wtb_ray.seals import LOWEST, START, Keys, Place, Row, Seal, index, place_of, records
from wtb_ray.store.audit import Audit

SEALS_AT_ONCE: Final = 64
ROWS_AT_ONCE: Final = 2000
MOST_PROBLEMS: Final = 100
MOST_MISSING: Final = 1000
"""Of a longer row of missing seals only the range is reported."""
FRESH_S: Final = 60.0
"""How long the newest seal may lack its object: the row is written first."""


class Anchor(NamedTuple):
    """A seal that somebody has kept elsewhere."""

    number: int
    chain: str


class Found(NamedTuple):
    """What there is of one seal."""

    row: Seal | None
    object: SealObject | None


class Verifier:
    """Checks one event log."""

    def __init__(self, audit: Audit, objects: SealObjects, keys: Keys):
        self._audit = audit
        self._objects = objects
        self._keys = keys

    async def verify(
        self, first: int = 1, limit: int = 1000, anchor: Anchor | None = None
    ) -> AuditReport:
        """Checks up to `limit` seals from `first` on; the seal before it must be right.

        Raises:
            Unavailable: Database or object store do not answer.
        """
        check = _Check(self._audit, self._keys, anchor)
        if first > 1:
            await self._before(check, first - 1)
        done, more = 0, True
        while more and done < limit:
            part = min(limit - done, SEALS_AT_ONCE)
            found, gaps, more = await self._page(check.number + 1, part)
            check.fresh = await self._again(found)
            check.gaps(gaps)
            await check.seals(found)
            done += part
        following = check.number + 1 if more else None
        if following is None and anchor is not None and anchor.number > check.number:
            check.anchor_missing()
        unsealed, since = await self._audit.unsealed(check.end) if following is None else (0, None)
        return check.report(first, unsealed, since, following)

    async def _before(self, check: "_Check", number: int) -> None:
        """Starts behind a seal that was checked before: it only has to be the same."""
        rows = await self._audit.seals(number, 1)
        row = rows[0] if rows and rows[0].number == number else None
        found = {number: Found(row, await self._objects.get(number))}
        check.fresh = await self._again(found)
        check.start(number, found[number])

    async def _again(self, found: dict[int, Found]) -> int | None:
        """Looks again for objects that were not there; gives the seal that may still lack its own.

        A sealer may be at work: when a seal has one behind it, its object is there.
        """
        bare = [n for n, one in found.items() if one.row is not None and one.object is None]
        if not bare:
            return None
        newest = await self._audit.newest()
        for number, stored in (await self._objects.get_many(bare)).items():
            found[number] = found[number]._replace(object=stored)
        return newest[0].number if newest and newest[1] < FRESH_S else None

    async def _page(
        self, first: int, limit: int
    ) -> tuple[dict[int, Found], list[tuple[int, int]], bool]:
        """The next seals by number, ranges of numbers that nothing is known of, and if there is more."""
        rows = {seal.number: seal for seal in await self._audit.seals(first, limit + 1)}
        more = len(rows) > limit
        if more:
            del rows[max(rows)]
        numbers = set(rows)
        if not more:
            beyond = set((await self._objects.numbers(first))[:MOST_MISSING]) - numbers
            numbers |= beyond
            if beyond:  # a seal that was made meanwhile has its row before its object
                later = await self._audit.seals(min(beyond), len(beyond))
                rows |= {seal.number: seal for seal in later if seal.number in beyond}
        gaps, expected = [], first
        for number in sorted(numbers):
            if number - expected > MOST_MISSING:
                gaps.append((expected, number - 1))
            else:
                numbers |= set(range(expected, number))
            expected = number + 1
        objects = await self._objects.get_many(sorted(numbers))
        return {n: Found(rows.get(n), objects.get(n)) for n in sorted(numbers)}, gaps, more


class _Check:
    """One pass over seals in their order, and what it has found."""

    def __init__(self, audit: Audit, keys: Keys, anchor: Anchor | None):
        self._audit = audit
        self._keys = keys
        self._anchor = anchor
        self._before: Seal | None = None
        self._linked = True
        """Whether the seal before is known, so that the next one must fit to it."""
        self._problems: list[AuditProblem] = []
        self._count = 0
        self._seals = 0
        self._events = 0
        self.number = 0
        self.end = START
        self.fresh: int | None = None

    def start(self, number: int, found: Found) -> None:
        self.number = number
        self._before = self._valid(number, found)
        self._linked = self._before is not None
        if self._before is not None:
            self.end = Place.parse(self._before.to)

    def gaps(self, gaps: list[tuple[int, int]]) -> None:
        for first, last in gaps:
            self._linked = False
            self._add("seal_removed", f"seals {first} to {last} are not there", seal=first)

    async def seals(self, found: dict[int, Found]) -> None:
        """Checks the next seals and the events under them."""
        valid = {number: self._valid(number, one) for number, one in found.items()}
        self._seals += len(found)
        last = max((Place.parse(s.to) for s in valid.values() if s), default=START)
        rows = _Rows(self._audit, last)
        for number, seal in valid.items():
            self.number = number
            if seal is None:
                self._linked = False
                continue
            if self._linked:
                self._link(seal)
            await self._compare(seal, found[number].object, rows)
            self._before, self._linked, self.end = seal, True, Place.parse(seal.to)

    def _valid(self, number: int, found: Found) -> Seal | None:
        """The seal that was made with the key, be it the row or the object."""
        row, stored = found
        kept = stored.seal if stored else None
        if kept is not None and not (kept.number == number and self._keys.authentic(kept)):
            kept = None
        if row is None:
            if kept is None and stored is None:
                self._add("seal_removed", f"seal {number} is not there", seal=number)
            elif kept is None:
                self._add("object_changed", f"the object of seal {number} is no seal", seal=number)
            else:
                self._add("seal_removed", f"seal {number} is only in the objects", kept)
            return self._anchored(kept)
        if not self._keys.authentic(row):
            self._not_ours(row, kept)
            return self._anchored(kept)
        if stored is None:
            if number != self.fresh:
                self._add("object_missing", f"seal {number} has no object", row)
        elif kept is None:
            self._add("object_changed", f"the object of seal {number} is not as it was made", row)
        elif kept != row:
            message = f"seal {number} was made twice: the log was cut and sealed anew"
            self._add("seal_replaced", message, row)
        return self._anchored(row)

    def _not_ours(self, row: Seal, kept: Seal | None) -> None:
        if kept is not None:
            self._add("seal_changed", f"seal {row.number} is not as its object", kept)
        elif not self._keys.knows(row.key_id):
            message = (
                f"seal {row.number} was made with the key {row.key_id}, which is not known here"
            )
            self._add("unknown_key", message, row)
        else:
            message = f"seal {row.number} was changed, or made by somebody without the key"
            self._add("seal_forged", message, row)

    def _anchored(self, seal: Seal | None) -> Seal | None:
        kept = self._anchor
        if seal is not None and kept and kept.number == seal.number and kept.chain != seal.chain:
            message = f"seal {seal.number} is not the one that was kept elsewhere"
            self._add("seal_replaced", message, seal)
        return seal

    def anchor_missing(self) -> None:
        if self._anchor is not None:
            number = self._anchor.number
            self._add("seal_removed", f"seal {number}, kept elsewhere, is not there", seal=number)

    def _link(self, seal: Seal) -> None:
        before = self._before
        previous, end = (before.chain, before.to) if before else ("", str(START))
        if seal.previous != previous or seal.after != end:
            message = f"seal {seal.number} does not follow the one before it"
            self._add("chain_broken", message, seal)

    async def _compare(self, seal: Seal, stored: SealObject | None, rows: "_Rows") -> None:
        """Compares the events under a seal; those that differ are named if its object knows them."""
        behind = LOWEST if seal.number == 1 else Place.parse(seal.after)
        to, sha = Place.parse(seal.to), hashlib.sha256()
        self._events += seal.events
        async for part in rows.between(behind, to):
            sha.update(await asyncio.to_thread(index, part))
        if sha.hexdigest() == seal.digest:
            return
        known = stored.records if stored and stored.seal == seal else None
        if known is None:
            message = f"the events from {seal.after} to {seal.to} are not as they were sealed"
            self._add("events_differ", message, seal)
            return
        expected = dict(records(known))
        async for part in rows.between(behind, to):
            self._differ(seal, expected, index(part))
        for place in expected:
            self._add("event_removed", f"event {place} was removed", seal, place)

    def _differ(self, seal: Seal, expected: dict[Place, bytes], found: bytes) -> None:
        """Names what differs, and takes what was found out of what is expected."""
        for place, sha in records(found):
            sealed = expected.pop(place, None)
            if sealed is None:
                self._add("event_inserted", f"event {place} was added", seal, place)
            elif sealed != sha:
                self._add("event_changed", f"event {place} was changed", seal, place)

    def _add(
        self,
        kind: str,
        message: str,
        of: Seal | None = None,
        event: Place | None = None,
        **more: int,
    ) -> None:
        self._count += 1
        if len(self._problems) < MOST_PROBLEMS:
            where = {"seal": of.number, "after": of.after, "to": of.to} if of else more
            cursor = None if event is None else str(event)
            self._problems.append(
                AuditProblem.model_validate(
                    {"kind": kind, "message": message, "cursor": cursor, **where}
                )
            )

    def report(
        self, first: int, unsealed: int, since: str | None, following: int | None
    ) -> AuditReport:
        return AuditReport(
            intact=self._count == 0,
            first=first,
            seals=self._seals,
            events=self._events,
            problem_count=self._count,
            problems=self._problems,
            head=f"{self._before.number}:{self._before.chain}" if self._before else None,
            unsealed=unsealed,
            unsealed_since=since,
            next=following,
        )


class _Rows:
    """Reads the log once from front to back, in parts, up to a place that is sealed."""

    def __init__(self, audit: Audit, last: Place):
        self._audit = audit
        self._last = last
        self._position = LOWEST
        self._buffer: list[Row] = []

    async def between(self, behind: Place, to: Place) -> AsyncIterator[list[Row]]:
        """The events behind a place up to another."""
        if behind != self._position:
            self._position, self._buffer = behind, []
        while self._position < to:
            if not self._buffer:
                self._buffer = await self._audit.between(self._position, self._last, ROWS_AT_ONCE)
            if not self._buffer:
                break
            taken = _up_to(self._buffer, to)
            if taken:
                part, self._buffer = self._buffer[:taken], self._buffer[taken:]
                self._position = place_of(part[-1])
                yield part
            if self._buffer:
                break
        self._position = to


def _up_to(rows: list[Row], to: Place) -> int:
    """How many of the rows stand at this place or before it."""
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        if place_of(rows[middle]) <= to:
            low = middle + 1
        else:
            high = middle
    return low
