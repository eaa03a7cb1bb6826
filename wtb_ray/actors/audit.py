"""The audit sink: seals the event log as long as it runs.

It owns nothing that a second one could not do at the same time: a seal is added by compare-and-set,
so it may be killed at any instant and started anywhere. An idle log costs one small query a second.
"""

import asyncio
import logging
import time
from typing import Final

from wtb_ray import errors, telemetry
from wtb_ray.audit.keys import make_keys
from wtb_ray.audit.objects import SealObjects
from wtb_ray.audit.sealing import MOST_EVENTS, Sealer
from wtb_ray.db import Database, ended
from wtb_ray.settings import Settings, configuration
from wtb_ray.store import Store

log = logging.getLogger(__name__)

POLL_S: Final = 1.0
PATIENCE_S: Final = 3.5
"""An event is sealed at the first look after it has been waiting this long: within 5 s."""


class AuditSink:
    """Seals what has happened."""

    def __init__(self, settings: Settings, database_url: str):
        telemetry.configure(settings.log_level)
        self._settings = settings
        self._configuration = configuration(settings, database_url)
        self._db = Database(database_url, size=1, name="wtb-audit")
        self._objects = SealObjects(settings.objects())
        self._sealer: Sealer | None = None
        self._since: float | None = None
        self._loop = asyncio.create_task(self._run())

    async def configured(self) -> str:
        """A digest of the settings that this actor was made with."""
        return self._configuration

    async def close(self) -> None:
        """Seals what there is and ends its loop."""
        await ended(self._loop)
        try:
            await self._seal_all()
        except errors.Unavailable as e:
            log.warning("the end of the log is not sealed: %s", e, extra={"action": "seal"})
        await self._objects.aclose()
        await self._db.close()

    async def _run(self) -> None:
        await self._db.open()
        while True:
            try:
                await self._round()
            except errors.Unavailable as e:
                log.warning("no sealing: %s", e, extra={"action": "seal"})
            except Exception:  # a defect in one round must not end the sealing
                log.exception("sealing failed", extra={"action": "seal"})
            await asyncio.sleep(POLL_S)

    async def _round(self) -> None:
        """Seals when enough events wait, or when some have waited long enough."""
        sealer = self._made()
        waiting = await sealer.waiting()
        await sealer.store_newest()
        if waiting == 0:
            self._since = None
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        overdue = now - self._since >= PATIENCE_S
        while waiting >= MOST_EVENTS or (waiting and overdue):
            if await sealer.seal() is None:
                return
            self._since, overdue = None, False
            waiting = await sealer.waiting()

    async def _seal_all(self) -> None:
        sealer = self._made()
        while await sealer.waiting():
            if await sealer.seal() is None:
                break
        await sealer.store_newest()

    def _made(self) -> Sealer:
        """The sealer; its key may have to be made, and must not fail when the actor is made."""
        if self._sealer is None:
            keys = make_keys(self._settings)
            self._sealer = Sealer(Store(self._db).audit, self._objects, keys)
        return self._sealer
