"""The actor lifecycle: takes work back from dead runners, ends the ones that nobody needs, parks what
has been paused for long, and sweeps the workspaces of its host.

A runner is taken for dead when its process is known to be gone *and* nothing of it is heard: its
process id is free on this host, or its lease was not renewed for half of its length; a process that
lives renews it every third. Or when the lease is overdue by ten times its length. Burying is one
transaction and may be repeated.
After a pause of the whole machine or of the database every lease is overdue, so that each runner
first gets one length of a lease, measured here, in which to renew it. A runner that was made with
other settings is drained: what it runs goes on in a new one.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import psutil

from wtb_ray import errors, telemetry
from wtb_ray.actors.cellar import Cellar
from wtb_ray.actors.runners import Runners
from wtb_ray.actors.sweeping import sweep_host
from wtb_ray.db import Database, ended
from wtb_ray.fleet import Runner
from wtb_ray.holds import Holds
from wtb_ray.objects import ObjectStore
from wtb_ray.settings import Settings, configuration
from wtb_ray.store import Store
from wtb_ray.store.parking import Due
from wtb_ray.workspaces import Workspaces

log = logging.getLogger(__name__)

TICK_S: Final = 0.5
PRUNE_S: Final = 3600.0
PARK_S: Final = 1.0
LATE_S: Final = 1.0
LATE_AT_ONCE: Final = 100
PARKED_AT_ONCE: Final = 32
PARKING_TIMEOUT_S: Final = 60.0
SWEEP_S: Final = 60.0
HARD_LIMIT: Final = 10
SILENT: Final = 0.5
"""The part of a lease that is left when it should have been renewed before."""
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
        self._objects = ObjectStore(settings.objects())
        self._workspaces = Workspaces(settings.workspaces(), self._objects, runner=ACTOR)
        self._holds = Holds(self._store.holds, ACTOR)
        self._cellar = Cellar(ACTOR, self._store, self._workspaces, self._holds)
        self._of_runners = configuration(settings.for_runners(), database_url)
        self._expired: dict[str, float] = {}
        self._least: set[str] = set()
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.create_task(self._run())

    async def configured(self) -> str:
        """A digest of the settings that this actor was made with."""
        return self._configuration

    async def close(self) -> None:
        """Ends its loop."""
        await ended(self._loop, *self._ending.values())
        self._workspaces.close()
        await self._holds.close()
        await self._objects.aclose()
        await self._db.close()

    async def _run(self) -> None:
        await self._db.open()
        sweep_s = min(SWEEP_S, max(TICK_S, self._settings.workspace_grace_s))
        await asyncio.gather(
            self._again_and_again(self._round, TICK_S, "reap"),
            self._again_and_again(self._sweep, sweep_s, "sweep"),
            self._again_and_again(self._park, PARK_S, "park"),
            self._again_and_again(self._send_late_on, LATE_S, "late"),
            self._again_and_again(self._prune, PRUNE_S, "prune"),
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

    async def _prune(self) -> None:
        await self._store.retention.prune(self._settings.command_memory_s)

    async def _send_late_on(self) -> None:
        """A cell that waits for somebody fails with its deadline too, and its batch ends."""
        for execution_id in await self._store.control.send_late_on(LATE_AT_ONCE, actor=ACTOR):
            log.info("%s is late", execution_id, extra={"action": "late"})

    async def _park(self) -> None:
        """Gives back what paused executions have held for long, or hold in vain."""
        await self._store.parking.free()
        await self._store.parking.left_alone(PARKED_AT_ONCE, actor=ACTOR)
        due = await self._store.parking.due(
            warm_after_s=self._settings.warm_after_s,
            cold_after_s=self._settings.cold_after_s,
            limit=PARKED_AT_ONCE,
        )
        for one in due:
            try:
                async with asyncio.timeout(PARKING_TIMEOUT_S):
                    await self._park_colder(one)
            except (errors.WTBError, TimeoutError) as e:
                log.warning("%s not parked: %s", one.execution_id, e, extra={"action": "park"})

    async def _park_colder(self, due: Due) -> None:
        """Has it done where the execution's directory is, by the runner that had it if it lives."""
        here = due.host in (None, socket.gethostname())
        for runner in await self._store.leases.runners():
            able = runner.id == due.runner or (not here and runner.host == due.host)
            if able and not runner.expired and await self._runners.alive(runner.id):
                await self._runners.ask(runner.id, "park", due)
                return
        await self._cellar.cool(due)

    async def _round(self) -> None:
        # Asked first: what is given to a runner meanwhile is seen there.
        working = await self._working() if self._settings.runners_min else set()
        runners, now = await self._store.leases.runners(), time.monotonic()
        self._least = self._kept(runners, working)
        self._expired = {r.id: self._expired.get(r.id, now) for r in runners if r.expired}
        for runner in runners:
            try:
                await self._look_after(runner)
            except errors.Unavailable:
                raise
            except Exception:  # trouble with one runner must not keep the others from being reaped
                log.exception("runner %s not looked after", runner.id, extra={"action": "reap"})

    async def _working(self) -> set[str]:
        """Versions that work waits for."""
        return {demand.version for demand in await self._store.executions.demand(1)}

    def _kept(self, runners: Sequence[Runner], working: set[str]) -> set[str]:
        """Runners that stay although they are idle: the least of each version that has work."""
        kept: set[str] = set()
        for version in working | {r.pool for r in runners if r.in_flight}:
            serving = [
                r.id
                for r in sorted(runners, key=lambda r: r.in_flight, reverse=True)
                if r.pool == version and r.status == "READY" and not r.solo and not r.reserved_for
            ]
            kept.update(serving[: self._settings.runners_min])
        return kept

    async def _gone(self, runner: Runner) -> bool:
        """Whether the process is dead for sure, before its lease has run out."""
        if await self._runners.alive(runner.id):
            return False
        here = runner.host == socket.gethostname() and runner.pid is not None
        if here and not psutil.pid_exists(runner.pid or 0):
            return True
        return runner.left_s < self._settings.lease_ttl_s * SILENT

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
        elif await self._gone(runner):
            await self._bury(runner, "process died")
        elif runner.status == "STARTING" and runner.idle_s > 2 * settings.entry_timeout_s:
            await self._bury(runner, "never became ready")
        elif runner.status == "DRAINING":
            self._end(runner, "drained")
        elif runner.status != "READY":
            return
        elif runner.configuration not in ("", self._of_runners):
            await self._store.leases.drain(runner.id)
            self._end(runner, "made with other settings")
        elif (
            runner.in_flight == 0
            and runner.idle_s > settings.idle_pool_s
            and runner.id not in self._least
            and await self._store.leases.retire(runner.id)
        ):
            self._end(runner, "idle")

    def _end(self, runner: Runner, reason: str) -> None:
        """Ends a draining runner, beside all else, once its work is given back or its time is over."""
        if runner.id not in self._ending:
            task = asyncio.create_task(self._drain_and_bury(runner, reason))
            self._ending[runner.id] = task
            task.add_done_callback(lambda _: self._ending.pop(runner.id, None))

    async def _drain_and_bury(self, runner: Runner, reason: str) -> None:
        try:
            async with asyncio.timeout(self._settings.drain_grace_s):
                await self._runners.drain(runner.id)
        except TimeoutError:
            log.warning("runner %s did not drain", runner.id, extra={"action": "drain"})
        except Exception:  # it is to end, whatever it says
            log.exception("runner %s did not drain", runner.id, extra={"action": "drain"})
        try:
            await self._bury(runner, reason)
        except errors.Unavailable as e:  # it is DRAINING, so the next round tries again
            log.warning("runner %s not buried: %s", runner.id, e, extra={"action": "bury"})

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
