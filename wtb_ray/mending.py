"""Reading stored objects again, and replacing damaged ones from other copies.

A copy is only ever taken for what its digest says it is. Copies are looked for in a mirror of the
store, in the workspaces of this host, whose stat caches know which file has which digest, and in the
folders of bundles that were unpacked here. Never replaces an object that is whole.
"""

import asyncio
import hashlib
import logging
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from wtb_ray import bundles, errors, trees
from wtb_ray.homes import FILES
from wtb_ray.objects import SHARDS, ObjectStore, Stored
from wtb_ray.storage_api import RehashReport
from wtb_ray.store import Store

log = logging.getLogger(__name__)

DAMAGED: Final = (errors.UnknownObject, errors.ObjectCorrupt)
WHOLE: Final = "nothing"
"""What an object that is whole was repaired from."""
_STEP: Final = 64
"""Objects that are read between two looks at the clock."""


class Mender:
    """Reads and repairs the objects of one store."""

    def __init__(
        self,
        store: Store,
        objects: ObjectStore,
        *,
        actor: str,
        scratch: Path,
        workspaces: Path,
        bundle_folders: Path,
        mirror: ObjectStore | None,
        rate_mb_s: float,
    ) -> None:
        """A mender.

        Args:
            store: Where damage is written down.
            objects: What is read.
            actor: Whom the log names.
            scratch: A directory for files that are copies on their way.
            workspaces: Where workspaces lie on this host.
            bundle_folders: Where bundles are unpacked on this host.
            mirror: Another store that may have the same objects.
            rate_mb_s: The most that is read, in stored MiB a second.
        """
        self._rows = store.collections
        self._objects = objects
        self._actor = actor
        self._scratch = scratch
        self._workspaces = workspaces
        self._bundle_folders = bundle_folders
        self._mirror = mirror
        self._rate = rate_mb_s * (1 << 20)

    async def rehash(
        self,
        sample: int | None = None,
        digests: Collection[str] | None = None,
        *,
        repair: bool = False,
    ) -> RehashReport:
        """Reads all objects, or some, and checks them against their digests.

        Args:
            sample: So many, at random.
            digests: These, missing ones too.
            repair: Replace the damaged ones from other copies.

        Raises:
            Unavailable: Object store or database do not answer.
        """
        began, checked, size = time.monotonic(), 0, 0
        damaged: dict[str, str] = {}
        repaired: dict[str, str] = {}
        pages = self._pages(sample) if digests is None else _named(digests)
        async for page in pages:
            for start in range(0, len(page), _STEP):
                part = page[start : start + _STEP]
                for stored in part:
                    why = await self._damage(stored.digest, missing=digests is not None)
                    if why is not None:
                        damaged[stored.digest] = why
                checked += len(part)
                size += sum(stored.size for stored in part)
                await asyncio.sleep(max(0.0, size / self._rate - (time.monotonic() - began)))
        for digest, reason in damaged.items():
            await self._rows.damaged(digest, reason, actor=self._actor)
            if repair and (source := await self.repair(digest)) is not None:
                repaired[digest] = source
        return RehashReport(
            checked=checked,
            bytes=size,
            damaged=damaged,
            repaired=repaired,
            duration_s=time.monotonic() - began,
        )

    async def repair(self, digest: str) -> str | None:
        """Makes an object whole; says from what, or None if there is no other copy.

        Raises:
            InvalidRequest: That is no digest.
            Unavailable: Object store or database do not answer.
        """
        source: str | None = WHOLE
        why = await self._damage(digest, missing=True)
        if why is not None:
            await self._rows.damaged(digest, why, actor=self._actor)
            source = await self._replaced(digest)
        if source is not None:
            await self._rows.repaired(digest, source, actor=self._actor)
        return source

    async def _damage(self, digest: str, *, missing: bool = False) -> str | None:
        """Why an object is not what it should be; one that went since it was listed is not meant."""
        try:
            await self._objects.verify(digest)
        except errors.ObjectCorrupt as e:
            return str(e.details.get("reason") or e.message)
        except errors.UnknownObject:
            return "missing" if missing else None
        return None

    async def _pages(self, sample: int | None) -> AsyncIterator[list[Stored]]:
        if sample is None:
            for shard in SHARDS:
                async for page in self._objects.pages(shard):
                    yield page
            return
        left, chance = sample, random.Random()  # noqa: S311
        share = max(1, -(-sample // len(SHARDS)))
        for shard in chance.sample(SHARDS, len(SHARDS)):
            if left <= 0:
                return
            found = [stored async for stored in self._objects.listed(shard)]
            part = chance.sample(found, min(share, left, len(found)))
            left -= len(part)
            yield part

    async def _replaced(self, digest: str) -> str | None:
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="mend-", dir=self._scratch) as folder:
            copy = Path(folder) / "copy"
            if await self._mirrored(digest, copy):
                source = "mirror"
            else:
                found = await asyncio.to_thread(self._copied, digest, copy)
                if found is None:
                    return None
                source = found
            await self._objects.mend(digest, copy)
        log.warning("object %s repaired from %s", digest, source, extra={"action": "repair"})
        return source

    async def _mirrored(self, digest: str, copy: Path) -> bool:
        if self._mirror is None:
            return False
        try:
            await self._mirror.get_file(digest, copy)
        except (*DAMAGED, errors.Unavailable) as e:
            log.info("no copy in the mirror: %s", e, extra={"action": "repair"})
            return False
        return True

    def _copied(self, digest: str, copy: Path) -> str | None:
        """Copies what has this digest on this host, and says where it was."""
        for source, candidate in self._candidates(digest):
            with suppress(OSError, errors.WTBError):  # it may go or change meanwhile
                if isinstance(candidate, Path):
                    shutil.copyfile(candidate, copy, follow_symlinks=False)
                else:
                    copy.write_bytes(candidate)
                with copy.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                        return source
        return None

    def _candidates(self, digest: str) -> Iterator[tuple[str, Path | bytes]]:
        folder = self._bundle_folders / digest
        if folder.is_dir():
            with suppress(OSError):
                yield "bundle", bundles.repacked(folder)
        for stats in sorted(self._workspaces.glob("*/*/stats")):
            for candidate in trees.copies(stats, stats.parent / FILES, digest):
                yield f"workspace {stats.parent.relative_to(self._workspaces)}", candidate


async def _named(digests: Collection[str]) -> AsyncIterator[list[Stored]]:
    yield [Stored(digest, 0, 0.0) for digest in dict.fromkeys(digests)]
