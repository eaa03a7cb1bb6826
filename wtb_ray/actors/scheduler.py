"""The batch scheduler: keeps runner pools as large as the work needs and their slots full.

It compares what Postgres says there is to do with the runners that hold a lease, and acts on the
difference; it holds no state that it could not read again. Two of it at once are harmless, since
work is claimed with SKIP LOCKED under the runner's own lease; the singleton lease only spares that.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from wtb_ray import errors, fleet, telemetry
from wtb_ray.actors.pool import ActorPool, Done, Undelivered, Worker
from wtb_ray.actors.runners import Runners
from wtb_ray.db import Database, ended
from wtb_ray.fleet import Demand, Pool, Runner, Share, Want
from wtb_ray.model import Assignment, ProjectVersion, new_id
from wtb_ray.settings import Settings, configuration
from wtb_ray.store import Store
from wtb_ray.store.settlements import DRAINED, Settlement

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
    reserved: set[str] = field(default_factory=set)
    """Workers that are kept for one execution each."""
    served: dict[tuple[str | None, int], int] = field(default_factory=dict)
    """The turn in which each party last was given slots."""
    ready: list[Runner] = field(default_factory=list)
    """Runners that may be given any work."""
    kept: int = 0
    """Runners beside those of `want`: they drain, or are kept for an execution."""
    want: Want | None = None
    reason: str | None = None
    """Why no runner is there for what waits."""
    trouble: str | None = None
    """Why the last one did not start."""
    failures: int = 0
    not_before: float = 0.0
    full_since: float | None = None

    def one_by_one(self) -> bool:
        """Whether a runner has one execution at a time."""
        isolation = self.version.spec.workspace_isolation
        return self.solo or (isolation is not None and isolation.isolation == "process")

    def sends_ahead(self, worker: Worker) -> bool:
        """Whether a worker is given executions before it has free slots for them.

        Not while several parties wait, whose shares of the slots would be less exact.
        """
        return not self.one_by_one() and worker.id not in self.reserved and len(self.served) < 2

    def full(self) -> bool:
        """Whether no worker has had room for a while; to be asked again and again.

        That there are no workers, or that a new one has not said yet how much room it has, is not
        a lack of room.
        """
        now = time.monotonic()
        shared = set(self.workers.ids()) - self.reserved - self.workers.resting
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
        self._pools: dict[Pool, _Pool] = {}
        self._wake = asyncio.Event()
        self._turn = 0
        self._told: dict[str, str | None] = {}
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
        """Ends all of its tasks and lets another one take over at once; what runs goes on running."""
        tasks = [self._loop, *(t for p in self._pools.values() for t in (*p.tasks, *p.spawning))]
        await ended(*tasks)
        for pool in self._pools.values():
            await pool.workers.close()
        with contextlib.suppress(errors.Unavailable):  # then it runs out
            await self._store.leases.release(ACTOR, self._holder)
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
        for batch_id in await self._store.batches.unstarted():
            await self._start(batch_id)
        most = self._settings.runners_per_pool * self._settings.chunk_size  # no more is ever wanted
        demands = {d.version: d for d in await self._store.executions.demand(most)}
        by_pool: dict[Pool, list[Runner]] = {}
        for runner in await self._store.leases.runners():
            by_pool.setdefault((runner.pool, runner.solo), []).append(runner)
        wanted = {(d.version, False) for d in demands.values() if d.pending > d.suspects or d.cells}
        wanted |= {(d.version, True) for d in demands.values() if d.suspects}
        used = wanted | set(by_pool)
        pools = [
            await self._try_to_adopt(key, demands.get(key[0]), by_pool.get(key, [])) for key in used
        ]
        await self._share_out([pool for pool in pools if pool is not None])
        await self._drop_pools_but(used)
        for batch_id in await self._store.batches.enforce_budgets(actor=ACTOR):
            log.info("batch %s used up a budget", batch_id, extra={"action": "budget_exceeded"})
        for batch_id in await self._store.batches.close(actor=ACTOR):
            log.info("batch %s completed", batch_id, extra={"action": "batch_completed"})

    async def _start(self, batch_id: str) -> None:
        try:
            await self._store.batches.start(batch_id, actor=ACTOR)
        except errors.InvalidTransition as e:
            log.info("%s", e, extra={"action": "batch_started"})  # it was stopped meanwhile

    async def _try_to_adopt(
        self, key: Pool, demand: Demand | None, runners: Sequence[Runner]
    ) -> _Pool | None:
        """Brings one pool up to date; trouble with it is not to hold up the others."""
        try:
            pool = await self._pool(key)
            alive = [r for r in runners if await self._runners.alive(r.id)]
        except errors.Unavailable:
            raise
        except errors.UnknownVersion:
            log.debug("version %s is being registered", key[0], extra={"action": "fit"})
            return None
        except Exception:
            log.exception("pool of %s not fitted", key[0], extra={"action": "fit"})
            return None
        self._adopt(pool, alive)
        self._look_at(pool, demand, alive)
        return pool

    def _adopt(self, pool: _Pool, alive: Sequence[Runner]) -> None:
        """Takes ready runners in and drops lost ones."""
        usable = {r.id: r for r in alive if r.status == "READY" and not r.expired}
        for worker_id in pool.workers.ids():
            if worker_id not in usable:  # nothing can be claimed for it
                pool.workers.remove(worker_id)
        pool.reserved = {r.id for r in alive if r.reserved_for is not None}
        pool.epochs = {id: epoch for id, epoch in pool.epochs.items() if id in usable}
        for runner in usable.values():
            if runner.id not in pool.workers:
                pool.epochs[runner.id] = runner.epoch
                worker = self._runners.worker(runner)
                pool.workers.push(worker, 0)
                pool.workers.submit(worker, [])  # it says itself when it has how much room
                pool.full_since = None

    def _look_at(self, pool: _Pool, demand: Demand | None, alive: Sequence[Runner]) -> None:
        """Says how many runners the pool has and could use."""
        ready = [r for r in alive if r.status == "READY" and r.reserved_for is None]
        started = sum(r.status == "STARTING" for r in alive)
        starting = max(len(pool.spawning), started)
        have, busy = len(ready) + starting, sum(r.in_flight > 0 for r in ready)
        if demand is None:
            pool.full_since = None
        else:
            pool.work.set()
        wanted = 0 if demand is None else self._desired(pool, demand, len(ready))
        if not pool.solo and (demand is not None or busy):
            wanted = max(wanted, self._settings.runners_min)
        if any(r.short == "host" for r in ready):  # one more would have no more memory
            wanted = min(wanted, have)
        pool.ready, pool.kept = ready, len(alive) - len(ready) - started
        pool.want = Want(
            pool=(pool.version.version, pool.solo),
            project=pool.version.project,
            priority=0 if demand is None else demand.priority,
            have=have,
            wanted=max(wanted, busy),
        )

    def _desired(self, pool: _Pool, demand: Demand, ready: int) -> int:
        waiting = demand.pending - demand.suspects - demand.reserved + demand.cells
        if pool.solo:
            waiting = demand.suspects
        wanted = math.ceil(waiting / (1 if pool.one_by_one() else self._settings.chunk_size))
        if waiting and pool.full():  # however little waits, those that are there may be held up
            wanted = max(wanted, ready + 1)
        return min(self._settings.runners_per_pool, wanted)

    async def _share_out(self, pools: Sequence[_Pool]) -> None:
        """Starts missing runners, within what there may be and what the cluster has room for.

        Runners beyond a pool's share get no more work once others lack them, and end when empty.
        """
        pools = sorted(pools, key=lambda p: (-p.want.priority, p.want.have) if p.want else (0, 0))
        wants = [pool.want for pool in pools if pool.want is not None]
        have = sum(want.have for want in wants)
        most = max(0, self._settings.runners_max - sum(pool.kept for pool in pools))
        why = f"all {self._settings.runners_max} runners that there may be are in use"
        if any(want.have < want.wanted for want in wants):
            room = await self._runners.room()
            placed = have + max(0, room.runners - sum(len(pool.spawning) for pool in pools))
            if placed < most:
                most, why = placed, room.reason or "the hosts have no room for another runner"
        granted = fleet.grants(wants, most)
        given_up = fleet.surplus(wants, granted, most)
        free = most - have
        for pool in pools:
            if (want := pool.want) is not None:
                await self._give_up(pool, given_up.get(want.pool, 0))
                free -= self._start_missing(pool, min(free, granted[want.pool] - want.have))
                unserved = want.wanted > 0 and not want.have and not pool.spawning
                pool.reason = (pool.trouble or why) if unserved else None
        await self._tell(pools)

    async def _give_up(self, pool: _Pool, count: int) -> None:
        """Gives no more work to so many runners, the emptiest first, and ends those without any."""
        runners = sorted(pool.ready, key=lambda r: r.in_flight)[:count]
        pool.workers.rest({r.id for r in runners})
        for runner in runners:
            if runner.in_flight == 0 and await self._store.leases.retire(runner.id):
                log.info("runner %s makes room", runner.id, extra={"action": "retire"})

    def _start_missing(self, pool: _Pool, missing: int) -> int:
        """Starts runners unless the last one failed just now; gives how many."""
        if missing <= 0 or time.monotonic() < pool.not_before:
            return 0
        count = 1 if pool.failures else missing
        for _ in range(count):
            task = asyncio.create_task(self._spawn(pool, pool.failures))
            pool.spawning.add(task)
            task.add_done_callback(pool.spawning.discard)
        return count

    async def _tell(self, pools: Sequence[_Pool]) -> None:
        """Has whoever waits in vain say why, once."""
        reasons: dict[str, str | None] = {}
        for pool in pools:
            version = pool.version.version
            reasons[version] = reasons.get(version) or pool.reason
        for version in {*self._told, *reasons}:
            reason = reasons.get(version)
            if self._told.get(version, "") != reason:  # what an earlier scheduler said is unknown
                await self._store.leases.unplaced(version, reason, actor=ACTOR)
                self._told[version] = reason
        self._told = {version: self._told[version] for version in reasons}

    async def _pool(self, key: Pool) -> _Pool:
        if key not in self._pools:
            pool = _Pool(await self._store.projects.by_version(key[0]), key[1])
            pool.tasks = [
                asyncio.create_task(self._feed(pool)),
                asyncio.create_task(self._collect(pool)),
            ]
            self._pools[key] = pool
        return self._pools[key]

    async def _drop_pools_but(self, used: set[Pool]) -> None:
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
            pool.failures, pool.trouble = 0, None
            self._wake.set()

    async def _spawn_failed(self, pool: _Pool, error: Exception) -> None:
        """Puts the next try off; gives the version up when its code fails again and again.

        What is not the code's fault may pass, and a version that runs somewhere can run.
        """
        version = pool.version.version
        pause = min(SPAWN_BACKOFF_S * 2**pool.failures, SPAWN_PAUSE_S)
        pool.not_before = time.monotonic() + pause
        pool.trouble = f"no runner starts: {error}"
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
                pool.workers.submit(worker, chunk, ahead=pool.sends_ahead(worker))
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
        """A chunk for a worker, from all that wait in equal shares of the slots."""
        version = pool.version.version
        limit = 1 if pool.solo else min(pool.workers.free(worker.id), self._settings.chunk_size)
        shares: list[Share] | None = None
        if not pool.solo and worker.id not in pool.reserved:
            shares = await self._shares(pool, worker, limit)
            if not shares:
                return []
        return await self._store.executions.claim(
            worker.id,
            pool.epochs.get(worker.id, 0),  # nobody's, when it was removed meanwhile
            version,
            limit,
            solo=pool.solo,
            shares=shares,
            actor=ACTOR,
        )

    async def _shares(self, pool: _Pool, worker: Worker, room: int) -> list[Share]:
        """Who gets how much of the room; what is missing is made of waiting cells."""
        version = pool.version.version
        found = await self._store.executions.parties(worker.id, version, room)
        parties = {(party.batch_id, party.priority): party for party in found}
        pool.served = {key: turn for key, turn in pool.served.items() if key in parties}
        in_turn = sorted(found, key=lambda p: pool.served.get((p.batch_id, p.priority), 0))
        shares = fleet.shares(in_turn, room)
        self._turn += 1
        for share in shares:
            key = (share.batch_id, share.priority)
            pool.served[key] = self._turn
            missing = share.count - parties[key].pending
            if share.batch_id is not None and missing > 0:
                await self._store.executions.admit(share.batch_id, missing, actor=ACTOR)
        return shares

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
                if isinstance(done.error, Undelivered):
                    await self._give_back(done)
                self._wake.set()

    async def _give_back(self, done: Done) -> None:
        """What never reached its runner waits again, and that one's death is not held against it."""
        lost = [
            Settlement(one.execution_id, one.epoch, done.worker, "requeue", reason=DRAINED)
            for one in done.chunk
        ]
        try:
            await self._store.executions.settle(lost, actor=ACTOR)
        except errors.Unavailable as e:  # it goes back when the runner is buried
            log.warning("undelivered work not returned: %s", e, extra={"action": "chunk_failed"})
