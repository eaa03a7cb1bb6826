"""The variant runner: executes many executions of one project version at once on its event loop.

Its process is the only place where the project's code is imported, and serves that version alone.
Checkpoints, steps and events are written by its saver in group commits; how an execution ended is
settled in groups too. Everything it does is fenced by the epoch of its claims, so a runner that was
taken for dead and comes back can change nothing, and ends itself once its lease is refused.
"""

import asyncio
import dataclasses
import gc
import logging
import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg

from wtb_ray import (
    bundles,
    environments,
    errors,
    graphs,
    inputs,
    scoring,
    secret_values,
    telemetry,
    venvs,
)
from wtb_ray.actors.cellar import Cellar
from wtb_ray.actors.lease import LeaseKeeper, LoopWatch
from wtb_ray.actors.limiting import RunnerLimits
from wtb_ray.actors.memory import MemoryWatch
from wtb_ray.actors.nodes import NodeActors, Nodes
from wtb_ray.actors.operations import Operations
from wtb_ray.actors.parking import Parker
from wtb_ray.actors.performer import Performer
from wtb_ray.actors.slots import Slots
from wtb_ray.actors.sweeping import sweep_host
from wtb_ray.actors.tracking import Tracking
from wtb_ray.api import NodeOutcome
from wtb_ray.db import Database, GroupCommit, ended
from wtb_ray.environment import EnvSpec, Pins
from wtb_ray.events import RunnerLagged
from wtb_ray.flocks import Hold
from wtb_ray.holds import Holds
from wtb_ray.model import (
    Assignment,
    Execution,
    Fault,
    GraphInfo,
    ProjectSpec,
    ScorerSpec,
)
from wtb_ray.objects import ObjectStore
from wtb_ray.saver import Saver
from wtb_ray.scans import Rules
from wtb_ray.settings import Settings, configuration
from wtb_ray.store import Store
from wtb_ray.store.holds import ByRunner
from wtb_ray.store.parking import Due
from wtb_ray.store.settlements import DRAINED, Settlement
from wtb_ray.workspaces import Workspaces

log = logging.getLogger(__name__)

RETRY_S = (0.1, 0.3, 1.0, 2.0)
UNSTORABLE = "unstorable_result"
UNCLAIMED_S = 120.0
"""How long a process waits for its start, beside the time that imports may take."""
GC_THRESHOLDS = (10_000, 10, 10)
"""Rarer costs no less processor time, and lets garbage of thousands of executions lie."""
WISHES_S = 1.0
"""How often executions are looked at that commit nothing."""


class VariantRunner:
    """One runner process. `prepare`, optionally `describe`, `start`, then `run` as often as wanted."""

    def __init__(
        self,
        runner_id: str,
        spec: ProjectSpec,
        settings: Settings,
        database_url: str,
        solo: bool = False,
        nodes: NodeActors | None = None,
        environment: str = "",
        venv: Path | None = None,
    ):
        """A runner that has not begun.

        Args:
            runner_id: Its id.
            spec: The project version that it serves.
            settings: Of the bench.
            database_url: Where its state is.
            solo: Whether it runs one suspect at a time.
            nodes: Makes the processes of nodes that run apart.
            environment: Digest of what it runs in; empty for the bench's own.
            venv: The directory of that, which it keeps from being removed.
        """
        telemetry.configure(settings.log_level)
        self.id = runner_id
        self._spec = spec
        self._version = spec.version()
        self._settings = settings
        self._solo = solo
        isolation = spec.workspace_isolation
        alone = isolation is not None and isolation.isolation == "process"
        self._alone = alone
        self._slots = Slots(1 if solo or alone else settings.runner_slots)
        self._url = database_url
        self._db = Database(database_url, size=settings.pool_size, name=f"wtb-{runner_id}")
        self._store = Store(self._db)
        self._saver = Saver(self._db)
        self._objects = ObjectStore(settings.objects())
        self._holds = Holds(self._store.holds, runner_id)
        self._bundle: Path | None = None
        self._limits: RunnerLimits | None = None
        self._performer: Performer | None = None
        self._parker: Parker | None = None
        self._haunted = False
        self._operations: Operations | None = None
        self._nodes = Nodes(
            spec, nodes, idle_s=settings.idle_node_s, resting_s=settings.idle_pool_s
        )
        self._graphs = graphs.Graphs(
            spec, self._saver, timeout_s=settings.entry_timeout_s, call=self._nodes.call
        )
        self._environment = environment
        self._venv = venv
        self._hold: Hold | None = None
        self._settlements: GroupCommit[Settlement, None] = GroupCommit(self._settle)
        self._held: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reports: set[asyncio.Task[None]] = set()
        self._memory = MemoryWatch(runner_id, settings, self._store.leases, self._slots)
        self._lease: LeaseKeeper | None = None
        self._watch: LoopWatch | None = None
        self._watching: list[asyncio.Task[None]] = []
        # Without a lease nobody else would ever find a process whose maker died before its start.
        self._unclaimed = threading.Timer(UNCLAIMED_S + settings.entry_timeout_s, self._forgotten)
        self._unclaimed.daemon = True
        self._unclaimed.start()

    async def prepare(self) -> None:
        """Fetches and unpacks the code, without importing it.

        Raises:
            BundleRejected: The archive is not acceptable.
            UnknownBundle: It is not in the object store.
            SecretMissing: A secret of its environment is in no place; names it.
        """
        if self._venv is not None:
            self._hold = venvs.hold(self._venv)
        if self._spec.environment_of_all is not None:
            secret_values.provide(self._spec.environment_of_all.secrets)
        await self._db.open()
        self._new_threads()
        if self._spec.bundle is not None:
            root = self._settings.data_dir / "bundles"
            self._bundle = await bundles.fetch(self._objects, self._spec.bundle, root)
            bundles.activate(self._bundle)
        workspaces = Workspaces(self._settings.workspaces(), self._objects, runner=self.id)
        tracking = Tracking(
            workspaces, self._store, self._spec, self.id, self._bundle, self._holds, self._venv
        )
        self._limits = RunnerLimits(self._store.limits, self.id)
        self._performer = Performer(
            self.id,
            self._graphs,
            self._saver,
            self._store,
            tracking,
            self._limits,
            self._slots,
            grace_s=self._settings.stop_grace_s,
            on_abandoned=self._on_abandoned,
        )
        self._parker = Parker(
            self.id,
            self._spec,
            self._graphs,
            self._nodes,
            self._store,
            tracking,
            Cellar(self.id, self._store, workspaces, self._holds),
            alone=self._alone,
            most=self._settings.reserved_runners,
        )
        self._operations = Operations(
            self._graphs,
            self._saver,
            self._store,
            self._spec,
            workspaces,
            self._bundle,
            self._holds,
            self._limits,
        )

    async def describe(self) -> tuple[GraphInfo, dict[str, GraphInfo]]:
        """Imports everything that the project names and says what it is.

        Raises:
            InvalidRequest: Any of its kinds, as the project's code gave cause.
        """
        if self._spec.workspace_isolation is not None:
            wanted = self._spec.workspace_isolation.inputs
            await asyncio.to_thread(inputs.check, self._bundle, wanted)
        if self._spec.file_tracking is not None:
            Rules(self._spec.file_tracking)
        apart = await asyncio.to_thread(self._graphs.aparts)
        told = await asyncio.gather(*(self._nodes.describe(one) for one in apart))
        keys = (one.key for one in apart)
        return await asyncio.to_thread(self._graphs.describe, dict(zip(keys, told, strict=True)))

    async def check_scorers(self, scorers: Sequence[ScorerSpec]) -> None:
        """Imports scorers and checks their arguments, before any cell is made.

        Raises:
            UnknownScorer: One is not there, or is no scorer.
            InvalidRequest: One does not take its arguments.
        """
        await asyncio.to_thread(scoring.validate, scorers)

    async def change_state(self, *what: Any) -> Execution:
        """Changes the state of a paused execution; see `Operations.change_state`."""
        return await self._operating.change_state(*what)

    async def check_state(self, *what: Any) -> None:
        """Checks a change of state that is yet to be made; see `Operations.check_state`."""
        await self._operating.check_state(*what)

    async def execute_node(self, *what: Any) -> NodeOutcome:
        """Tries one node out; see `Operations.execute_node`."""
        return await self._operating.execute_node(*what)

    async def park(self, due: Due) -> bool:
        """Parks a paused execution of this host colder; see `Cellar.cool`."""
        return await self._parking.cool(due, self._performing.bindings())

    async def start(self) -> None:
        """Imports the project and takes the lease; from then on the scheduler gives it work."""
        await asyncio.to_thread(self._graphs.compiled, {})
        environment = self._environment or await self._register_base()
        ttl = self._settings.lease_ttl_s
        epoch = await self._store.leases.start_runner(
            self.id,
            self._version,
            self._slots.count,
            self._solo,
            socket.gethostname(),
            os.getpid(),
            None,
            ttl,
            configuration=configuration(self._settings, self._url),
            environment=environment,
        )
        self._unclaimed.cancel()
        self._holds.runner = ByRunner(self.id, epoch)
        self._lease = LeaseKeeper(self._url, self.id, epoch, ttl, self._lost)
        self._lease.start()
        self._watch = LoopWatch(self._lagged, self._settings.stall_limit_s, self._stalled)
        self._watch.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        own = (self._return_undelivered(), self._hear_wishes(), self._memory.run(epoch))
        self._watching = [asyncio.create_task(watch) for watch in (*own, self._sweep())]
        await self._store.leases.ready(self.id, epoch)

    async def _register_base(self) -> str:
        """Writes down what the bench's own environment has, which everything here runs in."""
        spec, base = EnvSpec(), await asyncio.to_thread(environments.base)
        venv = environments.venv_digest(spec, base, {})
        digest = environments.environment_digest(spec, venv)
        await self._store.environments.register(digest, venv, spec, actor=self.id)
        pins = Pins(lines=(), packages=base.packages, hashed=False)
        await self._store.environments.settle(venv, pins)
        return digest

    async def run(self, chunk: Sequence[Assignment], ahead: bool = False) -> int:
        """Starts all executions of the chunk; returns when there is room again, and for how many.

        With `ahead` there is room, too, for those that will find a free slot soon.

        If the process dies halfway, everything in flight is still RUNNING under its lease in
        Postgres, and goes back to PENDING when the lease is buried.
        """
        self._slots.taken += len(chunk)
        for assignment in chunk:
            self._held.add((assignment.execution_id, assignment.epoch))
            task = asyncio.create_task(self._execute(assignment))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await self._slots.room(self._settings.chunk_size, ahead=ahead)

    async def drain(self) -> None:
        """Gives all work back at the next boundary of each execution, and lets the lease go."""
        self._performing.drain()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for thread in (self._lease, self._watch):
            if thread is not None:
                thread.stop()

    async def close(self) -> None:
        """Lets go of the database; for a runner that has drained or is given up."""
        self._unclaimed.cancel()
        await ended(*self._watching)
        if self._limits is not None:
            await self._limits.close()
        await self._nodes.close()
        if self._hold is not None:
            self._hold.release()
        await self._holds.close()
        await self._objects.aclose()
        await self._db.close()

    async def _return_undelivered(self) -> None:
        """Gives back what was claimed for this runner and never reached it.

        A claim commits before its chunk is sent, so whoever claims may die in between. What is seen
        twice in Postgres and is not here goes back to PENDING; should the chunk arrive after all, its
        epoch is over and it changes nothing.
        """
        missing: set[tuple[str, int]] = set()
        while True:
            await asyncio.sleep(self._settings.lease_ttl_s / 3)
            try:
                owned = await self._store.executions.owned(self.id)
                lost, missing = missing & (owned - self._held), owned - self._held
                for execution_id, epoch in sorted(lost):
                    log.warning("%s never arrived", execution_id, extra={"action": "undelivered"})
                    settlement = Settlement(execution_id, epoch, self.id, "requeue", reason=DRAINED)
                    await self._settlements.submit(settlement)
            except (errors.Unavailable, errors.Fenced) as e:
                log.warning("undelivered work not returned: %s", e, extra={"action": "undelivered"})
            except Exception:  # a defect in one round must not end the returning
                log.exception("undelivered work not returned", extra={"action": "undelivered"})

    async def _hear_wishes(self) -> None:
        """Hears what others want of executions whose nodes do not commit anything for long.

        What was taken away from this runner is let go.
        """
        while True:
            await asyncio.sleep(WISHES_S)
            try:
                held = set(self._held)
                wishes = await self._store.executions.wishes(self.id)
                for id, epoch, wanted in wishes:
                    self._performing.wish(id, epoch, wanted)
                for id, epoch in held - {(id, epoch) for id, epoch, _ in wishes}:
                    self._performing.drop(id, epoch)
            except errors.Unavailable as e:
                log.warning("wishes not heard: %s", e, extra={"action": "wishes"})
            except Exception:  # a defect in one round must not end the hearing
                log.exception("wishes not heard", extra={"action": "wishes"})

    async def _sweep(self) -> None:
        """Once at the start: the lifecycle sweeps its own host only."""
        try:
            await sweep_host(self._settings, self._db, actor=self.id)
        except errors.Unavailable as e:
            log.warning("no sweeping: %s", e, extra={"action": "sweep"})

    @property
    def _parking(self) -> Parker:
        if self._parker is None:
            raise errors.WTBError(f"runner {self.id} parks before it was prepared")
        return self._parker

    @property
    def _operating(self) -> Operations:
        if self._operations is None:
            raise errors.WTBError(f"runner {self.id} is asked before it was prepared")
        return self._operations

    @property
    def _performing(self) -> Performer:
        if self._performer is None:
            raise errors.WTBError(f"runner {self.id} runs before it was prepared")
        return self._performer

    def _new_threads(self) -> None:
        """Threads for sync nodes; those that hang in the ones before do not count any more."""
        executor = ThreadPoolExecutor(self._slots.count + 4, "node")
        asyncio.get_running_loop().set_default_executor(executor)

    def _on_abandoned(self) -> None:
        self._haunted = True
        self._new_threads()

    async def _end_haunted(self) -> None:
        """A process with a current directory is nobody else's while an abandoned node is in it."""
        try:
            await self._store.leases.drain(self.id)
        except errors.WTBError as e:
            log.warning("not drained: %s", e, extra={"action": "drain"})

    async def _execute(self, assignment: Assignment) -> None:
        """One execution from its head to its next rest, whatever happens on the way."""
        claim = (assignment.execution_id, assignment.epoch)
        settlement = None
        try:
            settlement = await self._performing.perform(assignment)
            if settlement is not None:
                others = self._performing.bindings()
                settlement = await self._parking.park(assignment, settlement, others)
                await self._conclude(settlement)
        finally:
            await self._performing.leave(assignment, settlement)
            if self._haunted and self._alone:
                await self._end_haunted()
            self._held.discard(claim)
            await self._slots.leave()

    async def _settle(self, group: list[Settlement]) -> list[BaseException | None]:
        most = self._settings.infrastructure_retries + 1
        return [*await self._store.executions.settle(group, max_attempts=most)]

    async def _conclude(self, settlement: Settlement) -> None:
        """Writes how the execution ended, for as long as it takes the database to come back."""
        attempt = 0
        while True:
            try:
                await self._settlements.submit(settlement)
                return
            except errors.Fenced:
                return
            except (errors.Unavailable, psycopg.Error) as e:
                if attempt % 10 == 0:
                    log.warning("%s not settled yet: %s", settlement.execution_id, e)
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1
            except Exception as e:
                log.exception("settling %s", settlement.execution_id, extra={"action": "settle"})
                if settlement.fault is not None and settlement.fault.code == UNSTORABLE:
                    return
                fault = Fault(code=UNSTORABLE, type=type(e).__name__, message=ascii(e))
                settlement = dataclasses.replace(
                    settlement, kind="fail", reason=None, fault=fault, scores=[]
                )

    def _lagged(self, lag_ms: float, nodes: list[str]) -> None:
        log.warning("event loop held up for %.0f ms by %s", lag_ms, nodes, extra={"action": "lag"})
        task = asyncio.create_task(self._report_lag(lag_ms, nodes))
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def _report_lag(self, lag_ms: float, nodes: list[str]) -> None:
        event = RunnerLagged(runner=self.id, lag_ms=lag_ms, nodes=nodes)
        try:
            async with self._db.transaction() as conn:
                await self._store.events.append(conn, self.id, event, project=self._spec.name)
        except errors.Unavailable as e:
            log.warning("lag not reported: %s", e, extra={"action": "lag"})

    def _stalled(self, nodes: list[str]) -> None:
        """A node holds up all executions of this process for good; each is run alone later."""
        log.error("runner %s is held up by %s and ends", self.id, nodes, extra={"action": "stall"})
        os._exit(1)

    def _forgotten(self) -> None:
        log.error("runner %s was never started and ends", self.id, extra={"action": "unclaimed"})
        os._exit(1)

    def _lost(self) -> None:
        """The lease was taken away: everything here belongs to others, so the process ends."""
        log.error("runner %s lost its lease and ends", self.id, extra={"action": "lease_lost"})
        os._exit(1)
