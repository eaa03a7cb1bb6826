"""The batch scheduler: keeps runner pools as large as the work needs and their slots full.

It compares what Postgres says there is to do with the runners that hold a lease, and acts on the
difference; it holds no state that it could not read again. Two of it at once are harmless, since
work is claimed with SKIP LOCKED under the runner's own lease; the singleton lease only spares that.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from wtb_ray import errors, telemetry
from wtb_ray.actors.pool import ActorPool, Worker
from wtb_ray.actors.runners import Runners
from wtb_ray.db import Database, ended
from wtb_ray.fleet import Demand, Runner
from wtb_ray.model import Assignment, Batch, ProjectVersion, new_id
from wtb_ray.settings import Settings, configuration
from wtb_ray.store import Store

log = logging.getLogger(__name__)

TICK_S: Final = 0.25
SPAWN_BACKOFF_S: Final = 2.0
SPAWN_PAUSE_S: Final = 60.0
"""Longest time between two tries to start a runner."""
SPAWN_ATTEMPTS: Final = 4
FULL_S: Final = 1.0
"""How long all runners of a pool must be without room until another one is started for that."""
ACTOR: Final = "scheduler"


@dataclass
class _Pool:
    """The runners of one version: the shared ones, or the one that runs suspects alone."""

    version: ProjectVersion
    solo: bool
    workers: ActorPool = field(default_factory=ActorPool)
    work: asyncio.Event = field(default_factory=asyncio.Event)
    epochs: dict[str, int] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    spawning: set[asyncio.Task[None]] = field(default_factory=set)
    backlog: bool = True
    """Whether executions wait beside those that are being admitted from cells; they go first."""
    reserved: set[str] = field(default_factory=set)
    """Workers that are kept for one execution each."""
    failures: int = 0
    not_before: float = 0.0
    full_since: float | None = None

    def full(self) -> bool:
        """Whether no worker has had room for a while; to be asked again and again.

        That there are no workers, or that a new one has not said yet how much room it has, is not
        a lack of room.
        """
        now = time.monotonic()
        shared = [id for id in self.workers.ids() if id not in self.reserved]
        if not shared or self.workers.room(but=self.reserved):
            self.full_since = None
        elif self.full_since is None:
            self.full_since = now
        return self.full_since is not None and now - self.full_since >= FULL_S


class BatchScheduler:
    """Plans, claims chunks of work, and keeps the ActorPools full."""

    def __init__(self, settings: Settings, database_url: str, runners: Runners):
        telemetry.configure(settings.log_level)
        self._settings = settings
        self._configuration = configuration(settings, database_url)
        self._db = Database(database_url, size=settings.pool_size, name="wtb-scheduler")
        self._store = Store(self._db)
        self._runners = runners
        self._holder = new_id("s")
        self._pools: dict[tuple[str, bool], _Pool] = {}
        self._wake = asyncio.Event()
        self._turn = 0
        self._loop = asyncio.create_task(self._run())

    async def wake(self) -> None:
        """Says that there is new work; without it, work is found within a tick."""
        self._wake.set()

    async def status(self) -> dict[str, list[str]]:
        """Runner ids by pool, as this scheduler uses them."""
        return {
            f"{version[:12]}{'/solo' if solo else ''}": pool.workers.ids()
            for (version, solo), pool in self._pools.items()
        }

    async def configured(self) -> str:
        """A digest of the settings that this actor was made with."""
        return self._configuration

    async def close(self) -> None:
        """Ends all of its tasks; what runs goes on running."""
        tasks = [self._loop, *(t for p in self._pools.values() for t in (*p.tasks, *p.spawning))]
        await ended(*tasks)
        for pool in self._pools.values():
            await pool.workers.close()
        await self._db.close()

    async def _run(self) -> None:
        await self._db.open()
        while True:
            try:
                if await self._store.leases.acquire(
                    ACTOR, self._holder, self._settings.lease_ttl_s
                ):
                    await self._reconcile()
            except errors.Unavailable as e:
                log.warning("no reconciliation: %s", e, extra={"action": "reconcile"})
            except Exception:  # a defect in one round must not end the scheduler
                log.exception("reconciliation failed", extra={"action": "reconcile"})
            try:
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _reconcile(self) -> None:
        for batch in await self._store.batches.open():
            if batch.status == "PENDING":
                await self._start(batch)
        demands = {d.version: d for d in await self._store.executions.demand()}
        by_pool: dict[tuple[str, bool], list[Runner]] = {}
        for runner in await self._store.leases.runners():
            by_pool.setdefault((runner.pool, runner.solo), []).append(runner)
        wanted = {(d.version, False) for d in demands.values() if d.pending > d.suspects or d.cells}
        wanted |= {(d.version, True) for d in demands.values() if d.suspects}
        used = wanted | set(by_pool)
        for key in used:
            await self._try_to_fit(key, demands.get(key[0]), by_pool.get(key, []))
        await self._drop_pools_but(used)
        for batch_id in await self._store.batches.enforce_budgets(actor=ACTOR):
            log.info("batch %s used up a budget", batch_id, extra={"action": "budget_exceeded"})
        for batch_id in await self._store.batches.close(actor=ACTOR):
            log.info("batch %s completed", batch_id, extra={"action": "batch_completed"})

    async def _start(self, batch: Batch) -> None:
        try:
            await self._store.batches.start(batch.id, actor=ACTOR)
        except errors.InvalidTransition as e:
            log.info("%s", e, extra={"action": "batch_started"})  # it was stopped meanwhile

    async def _try_to_fit(
        self, key: tuple[str, bool], demand: Demand | None, runners: Sequence[Runner]
    ) -> None:
        """Fits one pool; trouble with it is not to hold up the others."""
        try:
            await self._fit(key, demand, runners)
        except errors.Unavailable:
            raise
        except errors.UnknownVersion:
            log.debug("version %s is being registered", key[0], extra={"action": "fit"})
        except Exception:
            log.exception("pool of %s not fitted", key[0], extra={"action": "fit"})

    async def _fit(
        self, key: tuple[str, bool], demand: Demand | None, runners: Sequence[Runner]
    ) -> None:
        """Adopts ready runners, drops lost ones, starts missing ones."""
        pool = await self._pool(key)
        alive = [r for r in runners if await self._runners.alive(r.id)]
        ready = [r for r in alive if r.status == "READY"]
        usable = {r.id: r for r in ready if not r.expired}  # nothing can be claimed for the others
        for worker_id in pool.workers.ids():
            if worker_id not in usable:
                pool.workers.remove(worker_id)
        pool.reserved = {r.id for r in ready if r.reserved_for is not None}
        pool.epochs = {id: epoch for id, epoch in pool.epochs.items() if id in usable}
        for runner in usable.values():
            if runner.id not in pool.workers:
                pool.epochs[runner.id] = runner.epoch
                worker = self._runners.worker(runner)
                pool.workers.push(worker, 0)
                pool.workers.submit(worker, [])  # it says itself when it has how much room
                pool.full_since = None
        if demand is None:
            pool.full_since = None
            return
        pool.backlog = demand.pending > 0
        pool.work.set()
        starting = max(len(pool.spawning), sum(r.status == "STARTING" for r in alive))
        free = len(ready) - len(pool.reserved)
        missing = self._desired(pool, demand, free) - free - starting
        if missing > 0 and time.monotonic() >= pool.not_before:
            for _ in range(1 if pool.failures else missing):
                task = asyncio.create_task(self._spawn(pool, pool.failures))
                pool.spawning.add(task)
                task.add_done_callback(pool.spawning.discard)

    def _desired(self, pool: _Pool, demand: Demand, ready: int) -> int:
        if pool.solo:
            return 1 if demand.suspects else 0
        waiting = demand.pending - demand.suspects - demand.reserved + demand.cells
        wanted = math.ceil(waiting / self._settings.chunk_size)
        if waiting and pool.full():  # however little waits, those that are there may be held up
            wanted = max(wanted, ready + 1)
        return min(self._settings.runners_per_pool, wanted)

    async def _pool(self, key: tuple[str, bool]) -> _Pool:
        if key not in self._pools:
            pool = _Pool(await self._store.projects.by_version(key[0]), key[1])
            pool.tasks = [
                asyncio.create_task(self._feed(pool)),
                asyncio.create_task(self._collect(pool)),
            ]
            self._pools[key] = pool
        return self._pools[key]

    async def _drop_pools_but(self, used: set[tuple[str, bool]]) -> None:
        """Forgets pools that have neither runners nor work."""
        for key in self._pools.keys() - used:
            if not self._pools[key].spawning:
                pool = self._pools.pop(key)
                for task in pool.tasks:
                    task.cancel()
                await asyncio.gather(*pool.tasks, return_exceptions=True)
                await pool.workers.close()

    async def _spawn(self, pool: _Pool, before: int) -> None:
        """Starts a runner; `before` is how often that had failed when it was decided."""
        try:
            await self._runners.spawn(pool.version.spec, solo=pool.solo)
        except Exception as e:  # noqa: BLE001 - whatever it is, the next try must be put off
            pool.failures = max(pool.failures, before + 1)  # tries made together count once
            await self._spawn_failed(pool, e)
        else:
            pool.failures = 0
            self._wake.set()

    async def _spawn_failed(self, pool: _Pool, error: Exception) -> None:
        """Puts the next try off; gives the version up when its code fails again and again.

        What is not the code's fault may pass, and a version that runs somewhere can run.
        """
        version = pool.version.version
        pause = min(SPAWN_BACKOFF_S * 2**pool.failures, SPAWN_PAUSE_S)
        pool.not_before = time.monotonic() + pause
        log.warning(
            "runner for %s did not start (%d): %r",
            pool.version.project,
            pool.failures,
            error,
            extra={"action": "spawn_failed", "version": version},
        )
        if not isinstance(error, errors.WTBError) or isinstance(error, errors.Unavailable):
            return
        served = any(p.workers.ids() for p in self._pools.values() if p.version.version == version)
        if pool.failures < SPAWN_ATTEMPTS or served:
            return
        try:
            await self._store.executions.abandon(version, error, actor=ACTOR)
            pool.failures = 0
        except errors.Unavailable as e:
            log.warning("%s not given up yet: %s", version, e, extra={"action": "abandon"})

    async def _feed(self, pool: _Pool) -> None:
        """Gives claimed chunks to whoever has room, as long as there are any."""
        tried = 0
        while True:
            worker = await pool.workers.pop_idle()
            try:
                chunk = await self._claim(pool, worker)
            except errors.Unavailable as e:
                log.warning("no claim: %s", e, extra={"action": "claim"})
                chunk = []
            except Exception:  # the worker must go back to the pool whatever happened
                log.exception("claim failed", extra={"action": "claim"})
                chunk = []
            if chunk:
                tried = 0
                pool.workers.submit(worker, chunk)
                continue
            if worker.id in pool.workers:  # else it was removed meanwhile
                pool.workers.push(worker)
            tried += 1
            if pool.reserved and tried < len(pool.workers):  # what waits may be for another one
                continue
            tried = 0
            pool.work.clear()
            try:
                async with asyncio.timeout(TICK_S):
                    await pool.work.wait()
            except TimeoutError:
                pass

    async def _claim(self, pool: _Pool, worker: Worker) -> list[Assignment]:
        limit = 1 if pool.solo else min(pool.workers.free(worker.id), self._settings.chunk_size)
        chunk: list[Assignment] = []
        if pool.backlog or pool.solo:
            chunk = await self._claim_pending(pool, worker, limit)
        if len(chunk) < limit and not pool.solo:
            pool.backlog = False
            await self._admit(pool, limit - len(chunk))
            chunk += await self._claim_pending(pool, worker, limit - len(chunk))
        return chunk

    async def _claim_pending(self, pool: _Pool, worker: Worker, limit: int) -> list[Assignment]:
        return await self._store.executions.claim(
            worker.id,
            pool.epochs.get(worker.id, 0),  # nobody's, when it was removed meanwhile
            pool.version.version,
            limit,
            solo=pool.solo,
            actor=ACTOR,
        )

    async def _admit(self, pool: _Pool, room: int) -> int:
        """Turns waiting cells into executions; batches of the highest priority take turns."""
        waiting = [
            b
            for b in await self._store.batches.open()
            if b.version == pool.version.version and b.counts.get("PENDING")
        ]
        if not waiting:
            return 0
        open_ = [b.id for b in waiting if b.priority == max(w.priority for w in waiting)]
        self._turn += 1
        first = self._turn % len(open_)
        share = math.ceil(room / len(open_))
        admitted = 0
        for batch_id in open_[first:] + open_[:first]:
            if admitted < room:
                limit = min(share, room - admitted)
                admitted += await self._store.executions.admit(batch_id, limit, actor=ACTOR)
        return admitted

    async def _collect(self, pool: _Pool) -> None:
        """Notes workers that failed; their executions come back when the lifecycle buries them."""
        while True:
            done = await pool.workers.get_next_unordered()
            if done.error is not None:
                log.warning(
                    "runner %s did not take a chunk of %d: %s",
                    done.worker,
                    len(done.chunk),
                    done.error,
                    extra={"action": "chunk_failed"},
                )
                self._wake.set()
