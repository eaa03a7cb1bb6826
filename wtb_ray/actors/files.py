"""The file tracker: what of the stored objects is needed, what can go, and whether it is whole.

It owns nothing that is not in rows: a collection that is cut off is gone on with by the next one, a
second tracker at the same time is kept out by the collector's lease, and reading objects again
changes only those that are damaged. So it may be killed at any instruction.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from wtb_ray import errors, files, telemetry
from wtb_ray.collection import Collector
from wtb_ray.db import Database, ended
from wtb_ray.mending import Mender
from wtb_ray.objects import ObjectStore
from wtb_ray.settings import Settings, configuration
from wtb_ray.states import CollectionStatus
from wtb_ray.storage_api import CollectionReport, RehashReport
from wtb_ray.store import Store

log = logging.getLogger(__name__)

ACTOR: Final = "files"
LOOK_S: Final = 10.0
"""How often it looks whether a collection is due, or was cut off: writers may wait for its end."""
WEIGH_S: Final = 300.0
WEIGHED: Final = 100
"""Trees that are weighed in one go."""


class FileTracker:
    """Weighs trees, collects garbage, reads objects again and repairs them."""

    def __init__(self, settings: Settings, database_url: str):
        telemetry.configure(settings.log_level)
        self._settings = settings
        self._configuration = configuration(settings, database_url)
        self._db = Database(database_url, size=3, name="wtb-files")
        self._store = Store(self._db)
        self._objects = ObjectStore(settings.objects())
        mirror = settings.objects_mirror_url
        self._mirror = ObjectStore(mirror) if mirror is not None else None
        self._mender = Mender(
            self._store,
            self._objects,
            actor=ACTOR,
            scratch=settings.data_dir / "tmp",
            workspaces=settings.workspaces(),
            bundle_folders=settings.data_dir / "bundles",
            mirror=self._mirror,
            rate_mb_s=settings.rehash_mb_s,
        )
        every_s = settings.gc_every_s
        self._loops = [
            self._again_and_again(self._collect_if_due, min(LOOK_S, every_s or LOOK_S), "collect"),
            self._again_and_again(self._weigh, WEIGH_S, "weigh"),
        ]

    async def configured(self) -> str:
        """A digest of the settings that this actor was made with."""
        return self._configuration

    async def close(self) -> None:
        """Ends its loop; a collection under way is cut off."""
        await ended(*self._loops)
        for objects in (self._objects, self._mirror):
            if objects is not None:
                await objects.aclose()
        await self._db.close()

    async def collect(
        self, dry_run: bool, grace_s: float | None = None, actor: str = ACTOR
    ) -> CollectionReport:
        """Deletes what nothing needs, or only counts it; see `Collector`.

        Args:
            dry_run: Only count.
            grace_s: What was written later than so many seconds ago stays; None: by the settings.
            actor: Whom the log names.

        Raises:
            Conflict: Another collection is at work.
            Fenced: Another collector has taken over.
            Unavailable: Database or object store do not answer.
        """
        await self._db.open()
        collector = Collector(self._store, self._objects, actor=actor)
        grace_s = self._settings.gc_grace_s if grace_s is None else grace_s
        report = await (collector.survey(grace_s) if dry_run else collector.collect(grace_s))
        log.info("%s", report.model_dump_json(exclude_none=True), extra={"action": "collect"})
        return report

    async def rehash(
        self,
        sample: int | None = None,
        digests: Collection[str] | None = None,
        repair: bool = False,
    ) -> RehashReport:
        """Reads objects and checks them against their digests; see `Mender.rehash`."""
        await self._db.open()
        return await self._mender.rehash(sample, digests, repair=repair)

    async def repair(self, digest: str) -> str | None:
        """Makes an object whole from another copy; see `Mender.repair`."""
        await self._db.open()
        return await self._mender.repair(digest)

    def _again_and_again(
        self, do: Callable[[], Awaitable[None]], pause_s: float, action: str
    ) -> "asyncio.Task[None]":
        return asyncio.create_task(self._repeat(do, pause_s, action))

    async def _repeat(self, do: Callable[[], Awaitable[None]], pause_s: float, action: str) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._db.open()
                await do()
            except errors.Conflict as e:  # somebody else does it
                log.debug("%s: %s", action, e, extra={"action": action})
            except (errors.Unavailable, errors.Fenced) as e:
                log.warning("%s: %s", action, e, extra={"action": action})
            except Exception:  # a defect in one round must not end all of them
                log.exception("%s failed", action, extra={"action": action})

    async def _collect_if_due(self) -> None:
        status, age_s = await self._store.collections.since() or (None, math.inf)
        due = 0 < self._settings.gc_every_s <= age_s
        if status is CollectionStatus.SWEEPING or due:
            await self.collect(dry_run=False)

    async def _weigh(self) -> None:
        while found := await self._store.collections.unweighed(WEIGHED):
            if len(await files.weigh(self._store, self._objects, found)) < len(found):
                return  # some cannot be read: they would be found again and again
