"""Watches over the memory of a runner process: while it is short, the runner takes no more work."""

import asyncio
import logging
from typing import Final

import psutil

from wtb_ray import errors, memory
from wtb_ray.actors.slots import Slots
from wtb_ray.memory import Shortage
from wtb_ray.settings import Settings
from wtb_ray.store.leases import Leases

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
"""How often memory is looked at."""


class MemoryWatch:
    """What a runner is short of; says once each time that it is, or is no more."""

    def __init__(
        self,
        runner: str,
        settings: Settings,
        leases: Leases,
        slots: Slots,
    ) -> None:
        self._runner = runner
        self._settings = settings
        self._leases = leases
        self._slots = slots
        self._shortage: Shortage | None = None

    async def run(self, epoch: int) -> None:
        """Looks again and again, under this epoch of the runner's lease."""
        process, said = psutil.Process(), True
        while True:
            # In no thread: nodes may hold them all.
            found = memory.shortage(
                process, self._settings.runner_memory_mb, self._settings.memory_free
            )
            before, self._shortage = self._shortage, found
            if _whose(found) != _whose(before):
                said = False
                self._slots.closed = found is not None
                await self._slots.changed()
            said = said or await self._say(epoch, found)
            await asyncio.sleep(LOOK_S)

    async def _say(self, epoch: int, found: Shortage | None) -> bool:
        """Whether it could be said."""
        reason = "memory is no longer short" if found is None else found.reason
        log.warning("runner %s: %s", self._runner, reason, extra={"action": "memory"})
        try:
            await self._leases.short(self._runner, epoch, _whose(found), reason)
        except errors.Unavailable as e:
            log.warning("not said: %s", e, extra={"action": "memory"})
            return False
        return True


def _whose(found: Shortage | None) -> str | None:
    return None if found is None else found.whose
