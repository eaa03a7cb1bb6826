"""The actor lifecycle: takes work back from dead runners, ends the ones that nobody needs, and sweeps
the workspaces of its host.

A runner is taken for dead when its lease has run out *and* its process is known to be gone, or when
the lease is overdue by ten times its length. Burying is one transaction and may be repeated.
After a pause of the whole machine or of the database every lease is overdue, so that each runner
first gets one length of a lease, measured here, in which to renew it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from wtb_ray import errors, telemetry
from wtb_ray.actors.runners import Runners
from wtb_ray.actors.sweeping import sweep_host
from wtb_ray.db import Database
from wtb_ray.model import Runner
from wtb_ray.settings import Settings, configuration
from wtb_ray.store import Store

log = logging.getLogger(__name__)

TICK_S: Final = 0.5
SWEEP_S: Final = 60.0
HARD_LIMIT: Final = 10
ACTOR: Final = "lifecycle"


class ActorLifecycle:
    """Reaps runners, idle pools and workspaces."""

    def __init__(self, settings: Settings, database_url: str, runners: Runners):
        telemetry.configure(settings.log_level)
        self._settings = settings
        self._configuration = configuration(settings, database_url)
        self._db = Database(database_url, size=2, name="wtb-lifecycle")
        self._store = Store(self._db)
        self._runners = runners
        self._expired: dict[str, float] = {}
        self._loop = asyncio.create_task(self._run())

    async def configured(self) -> str:
        """A digest of the settings that this actor was made with."""
        return self._configuration

    async def close(self) -> None:
        """Ends its loop."""
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        await self._db.close()

    async def _run(self) -> None:
        await self._db.open()
        sweep_s = min(SWEEP_S, max(TICK_S, self._settings.workspace_grace_s))
        await asyncio.gather(
            self._again_and_again(self._round, TICK_S, "reap"),
            self._again_and_again(self._sweep, sweep_s, "sweep"),
        )

    async def _again_and_again(
        self, do: Callable[[], Awaitable[None]], pause_s: float, action: str
    ) -> None:
        while True:
            try:
                await do()
            except errors.Unavailable as e:
                log.warning("%s: %s", action, e, extra={"action": action})
            except Exception:  # a defect in one round must not end all of them
                log.exception("%s failed", action, extra={"action": action})
            await asyncio.sleep(pause_s)

    async def _sweep(self) -> None:
        await sweep_host(self._settings, self._db, actor=ACTOR)

    async def _round(self) -> None:
        runners, now = await self._store.leases.runners(), time.monotonic()
        self._expired = {r.id: self._expired.get(r.id, now) for r in runners if r.expired}
        for runner in runners:
            try:
                await self._look_after(runner)
            except errors.Unavailable:
                raise
            except Exception:  # trouble with one runner must not keep the others from being reaped
                log.exception("runner %s not looked after", runner.id, extra={"action": "reap"})

    async def _look_after(self, runner: Runner) -> None:
        settings = self._settings
        if runner.expired:
            seen_for = time.monotonic() - self._expired[runner.id]
            overdue = (
                runner.overdue_s > HARD_LIMIT * settings.lease_ttl_s
                and seen_for > settings.lease_ttl_s
            )
            if overdue or not await self._runners.alive(runner.id):
                await self._bury(runner, "lease overdue" if overdue else "process died")
        elif runner.status == "STARTING" and runner.idle_s > 2 * settings.entry_timeout_s:
            await self._bury(runner, "never became ready")
        elif runner.status == "DRAINING" or (
            runner.status == "READY"
            and runner.in_flight == 0
            and runner.idle_s > settings.idle_pool_s
            and await self._store.leases.retire(runner.id)
        ):
            await self._runners.drain(runner.id)
            await self._bury(runner, "idle")

    async def _bury(self, runner: Runner, reason: str) -> None:
        await self._runners.kill(runner.id)
        returned = await self._store.leases.bury(
            runner.id,
            runner.epoch,
            reason,
            max_attempts=self._settings.infrastructure_retries + 1,
            actor=ACTOR,
        )
        log.warning(
            "runner %s buried (%s), %d executions go back",
            runner.id,
            reason,
            returned,
            extra={"action": "bury", "runner": runner.id},
        )
