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
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from wtb_ray import bundles, errors, graphs, plan, scoring, telemetry
from wtb_ray.actors.lease import LeaseKeeper, LoopWatch
from wtb_ray.attachments import Attachment
from wtb_ray.db import Database, GroupCommit
from wtb_ray.events import RunnerLagged
from wtb_ray.model import (
    Assignment,
    Case,
    Fault,
    GraphInfo,
    ProjectSpec,
    Score,
    ScorerSpec,
)
from wtb_ray.objects import ObjectStore
from wtb_ray.saver import Saver
from wtb_ray.settings import Settings
from wtb_ray.store import Store
from wtb_ray.store.settlements import DRAINED, Kind, Settlement

log = logging.getLogger(__name__)

RETRY_S = (0.1, 0.3, 1.0, 2.0)
KNOWN_BATCHES = 64
"""Batches whose scorers are kept at hand."""
UNSTORABLE = "unstorable_result"
UNCLAIMED_S = 120.0
"""How long a process waits for its start, beside the time that imports may take."""
GC_THRESHOLDS = (10_000, 10, 10)
"""Rarer costs no less processor time, and lets garbage of thousands of executions lie."""
LINGER_S = 0.1
"""How long a free slot waits for others, so that work is claimed in chunks."""


class VariantRunner:
    """One runner process. `prepare`, optionally `describe`, `start`, then `run` as often as wanted."""

    def __init__(
        self,
        runner_id: str,
        spec: ProjectSpec,
        settings: Settings,
        database_url: str,
        solo: bool = False,
    ):
        telemetry.configure(settings.log_level)
        self.id = runner_id
        self._spec = spec
        self._version = spec.version()
        self._settings = settings
        self._solo = solo
        self._slots = 1 if solo else settings.runner_slots
        self._url = database_url
        self._db = Database(database_url, size=settings.pool_size, name=f"wtb-{runner_id}")
        self._store = Store(self._db)
        self._saver = Saver(self._db)
        self._graphs = graphs.Graphs(spec, self._saver, timeout_s=settings.entry_timeout_s)
        self._settlements: GroupCommit[Settlement, None] = GroupCommit(self._settle)
        self._scorers: dict[str, tuple[ScorerSpec, ...]] = {}
        self._controls: dict[tuple[str, int], graphs.Control] = {}
        self._held: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reports: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._room = asyncio.Condition()
        self._draining = False
        self._lease: LeaseKeeper | None = None
        self._watch: LoopWatch | None = None
        self._returning: asyncio.Task[None] | None = None
        # Without a lease nobody else would ever find a process whose maker died before its start.
        self._unclaimed = threading.Timer(UNCLAIMED_S + settings.entry_timeout_s, self._forgotten)
        self._unclaimed.daemon = True
        self._unclaimed.start()

    async def prepare(self) -> None:
        """Fetches and unpacks the code, without importing it.

        Raises:
            BundleRejected: The archive is not acceptable.
            UnknownBundle: It is not in the object store.
        """
        await self._db.open()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(self._slots + 4, "node"))
        if self._spec.bundle is not None:
            async with ObjectStore(self._settings.objects()) as objects:
                root = self._settings.data_dir / "bundles"
                bundles.activate(await bundles.fetch(objects, self._spec.bundle, root))

    async def describe(self) -> tuple[GraphInfo, dict[str, GraphInfo]]:
        """Imports everything that the project names and says what it is.

        Raises:
            InvalidRequest: Any of its kinds, as the project's code gave cause.
        """
        return await asyncio.to_thread(self._graphs.describe)

    async def check_scorers(self, scorers: Sequence[ScorerSpec]) -> None:
        """Imports scorers and checks their arguments, before any cell is made.

        Raises:
            UnknownScorer: One is not there, or is no scorer.
            InvalidRequest: One does not take its arguments.
        """
        await asyncio.to_thread(scoring.validate, scorers)

    async def start(self) -> None:
        """Imports the project and takes the lease; from then on the scheduler gives it work."""
        await asyncio.to_thread(self._graphs.compiled, {})
        ttl = self._settings.lease_ttl_s
        epoch = await self._store.leases.start_runner(
            self.id,
            self._version,
            self._slots,
            self._solo,
            socket.gethostname(),
            os.getpid(),
            None,
            ttl,
        )
        self._unclaimed.cancel()
        self._lease = LeaseKeeper(self._url, self.id, epoch, ttl, self._lost)
        self._lease.start()
        self._watch = LoopWatch(self._lagged)
        self._watch.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._returning = asyncio.create_task(self._return_undelivered())
        await self._store.leases.ready(self.id, epoch)

    async def run(self, chunk: Sequence[Assignment]) -> int:
        """Starts all executions of the chunk; returns when there is room again, with the free slots.

        If the process dies halfway, everything in flight is still RUNNING under its lease in
        Postgres, and goes back to PENDING when the lease is buried.
        """
        self._busy += len(chunk)
        for assignment in chunk:
            self._held.add((assignment.execution_id, assignment.epoch))
            task = asyncio.create_task(self._execute(assignment))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await self._room_again()
        return self._slots - self._busy

    async def _room_again(self) -> None:
        """Waits for enough free slots that filling them pays, but not long: then one is enough."""
        enough = min(self._settings.chunk_size, max(1, self._slots // 2))
        async with self._room:
            try:
                async with asyncio.timeout(LINGER_S):
                    await self._room.wait_for(lambda: self._slots - self._busy >= enough)
            except TimeoutError:
                await self._room.wait_for(lambda: self._busy < self._slots)

    async def drain(self) -> None:
        """Gives all work back at the next boundary of each execution, and lets the lease go."""
        self._draining = True
        for control in self._controls.values():
            control.request_drain("drained")
        while self._tasks:
            await asyncio.wait(self._tasks)
        for thread in (self._lease, self._watch):
            if thread is not None:
                thread.stop()

    async def close(self) -> None:
        """Lets go of the database; for a runner that has drained or is given up."""
        self._unclaimed.cancel()
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
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

    async def _execute(self, assignment: Assignment) -> None:
        """One execution from its head to its next rest, whatever happens on the way."""
        claim = (assignment.execution_id, assignment.epoch)
        try:
            settlement = await self._outcome(assignment)
            if settlement is not None:
                await self._conclude(settlement)
        finally:
            self._held.discard(claim)
            self._busy -= 1
            async with self._room:
                self._room.notify_all()

    async def _outcome(self, assignment: Assignment) -> Settlement | None:
        """How the execution is to be settled; None when it is another owner's by now."""
        attachment = Attachment(
            execution_id=assignment.execution_id,
            epoch=assignment.epoch,
            thread_id=assignment.thread_id,
            head=assignment.head,
            head_step=assignment.head_step,
            project=assignment.project,
            batch_id=assignment.batch_id,
            actor=self.id,
        )
        claim = (assignment.execution_id, assignment.epoch)
        control = self._controls[claim] = graphs.Control()
        if self._draining:
            control.request_drain("drained")
        self._saver.attach(attachment)
        try:
            return await self._run(assignment, attachment, control)
        except errors.Fenced:
            return None
        except Exception as e:  # what is no node's fault is tried again elsewhere
            log.exception(
                "execution %s interrupted", assignment.execution_id, extra={"action": "run"}
            )
            return self._settlement(
                assignment,
                "requeue",
                reason=f"infrastructure: {type(e).__name__}: {e}",
                delay_s=plan.retry_delay(assignment.attempt),
            )
        finally:
            self._saver.detach(assignment.thread_id)
            del self._controls[claim]

    async def _run(
        self, assignment: Assignment, attachment: Attachment, control: graphs.Control
    ) -> Settlement:
        try:
            compiled = self._graphs.compiled(assignment.binding)
        except errors.InvalidRequest as e:  # what was importable at registration is not any more
            return self._settlement(assignment, "fail", fault=_fault(e))
        outcome = await graphs.run(compiled, attachment, assignment, control)
        match outcome.kind:
            case "completed":
                try:
                    scores = await self._score(assignment, outcome.values or {})
                except (errors.ScorerFailed, errors.InvalidRequest) as e:
                    return self._settlement(assignment, "fail", fault=_fault(e))
                return self._settlement(assignment, "complete", scores=scores)
            case "interrupted" if assignment.batch_id is not None:
                fault = Fault(
                    code=errors.InterruptInBatch.code,
                    type="InterruptInBatch",
                    message="a node asked for an answer, and the batch has none",
                )
                return self._settlement(assignment, "fail", fault=fault)
            case "interrupted" | "breakpoint":
                reason = "interrupt" if outcome.kind == "interrupted" else "breakpoint"
                return self._settlement(
                    assignment, "pause", reason=reason, interrupts=outcome.interrupts
                )
            case "failed":
                return self._settlement(assignment, "fail", fault=outcome.fault)
            case "fenced":
                raise errors.Fenced
        if attachment.wanted == "stop":
            return self._settlement(assignment, "cancel")
        if attachment.wanted == "pause":
            return self._settlement(assignment, "pause", reason="requested")
        return self._settlement(assignment, "requeue", reason=DRAINED)

    async def _score(
        self, assignment: Assignment, state: dict[str, object]
    ) -> list[tuple[ScorerSpec, Score]]:
        if assignment.batch_id is None:
            return []
        outcome = scoring.CellOutcome(
            case=Case(
                id=assignment.case_id or "",
                input=assignment.input,
                expected=assignment.expected,
                metadata=assignment.metadata,
            ),
            state=state,
        )
        specs = await self._scorers_of(assignment.batch_id)
        if any(":" in spec.name for spec in specs):
            await self._store.executions.scoring(assignment.execution_id, assignment.epoch, self.id)
        return [(spec, s) for spec in specs for s in await scoring.score(spec, outcome)]

    async def _scorers_of(self, batch_id: str) -> tuple[ScorerSpec, ...]:
        if batch_id not in self._scorers:
            specs = (await self._store.batches.get(batch_id)).scorers
            await self.check_scorers(specs)  # imports them, away from the event loop
            if len(self._scorers) >= KNOWN_BATCHES:
                self._scorers.clear()
            self._scorers[batch_id] = specs
            return specs
        return self._scorers[batch_id]

    def _settlement(self, assignment: Assignment, kind: Kind, **what: Any) -> Settlement:
        return Settlement(
            execution_id=assignment.execution_id,
            epoch=assignment.epoch,
            owner=self.id,
            kind=kind,
            **what,
        )

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

    def _forgotten(self) -> None:
        log.error("runner %s was never started and ends", self.id, extra={"action": "unclaimed"})
        os._exit(1)

    def _lost(self) -> None:
        """The lease was taken away: everything here belongs to others, so the process ends."""
        log.error("runner %s lost its lease and ends", self.id, extra={"action": "lease_lost"})
        os._exit(1)


def _fault(error: errors.WTBError) -> Fault:
    return Fault(
        code=error.code,
        type=type(error.__cause__ or error).__name__,
        message=error.message,
        traceback="".join(traceback.format_exception(error)),
    )
