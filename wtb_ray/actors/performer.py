"""Performs claims: each execution from its head to its next rest, whatever happens on the way.

What comes out is how the claim is to be settled, or nothing when the execution is another owner's by
now. A node's error is the execution's; everything else that goes wrong gives the execution back. A
stop waits for the running nodes for a while; what does not end by then is left behind.
"""

import asyncio
import dataclasses
import logging
import random
import traceback
from collections.abc import Callable
from typing import Any, Final

from wtb_ray import errors, graphs, overload, plan, scoring
from wtb_ray.actors.slots import Slots
from wtb_ray.actors.tracking import Tracking
from wtb_ray.answers import next_of
from wtb_ray.attachments import Attachment
from wtb_ray.context import Limits
from wtb_ray.model import Assignment, Batch, Case, Fault, Score, ScorerSpec
from wtb_ray.running import STEPPED
from wtb_ray.saver import Saver
from wtb_ray.sharing import Group
from wtb_ray.states import PauseReason, Wanted
from wtb_ray.store import Store
from wtb_ray.store.settlements import ANSWERED, DRAINED, WAITING, Kind, Settlement

log = logging.getLogger(__name__)

KNOWN_BATCHES: Final = 64
"""Batches that are kept at hand."""
FILES: Final = (errors.FilesRefused, errors.RestoreRefused, errors.StorageFull)
"""Why the files of an execution cannot be kept or brought back."""
FILE_CODES: Final = frozenset(error.code for error in (*FILES, errors.QuotaExceeded))

Claim = tuple[str, int]


@dataclasses.dataclass(eq=False)
class _Work:
    """A claim that is being performed."""

    control: graphs.Control
    attachment: Attachment
    binding: dict[str, str]
    dropped: bool = False
    """It was taken away: nothing is to be settled."""
    task: "asyncio.Task[Settlement | None] | None" = None
    ending: asyncio.TimerHandle | None = None
    """Set when it was told to stop: it is left behind when this timer ends."""
    deadline: asyncio.TimerHandle | None = None
    late: bool = False
    """Its deadline is over: its nodes are cancelled, and it fails."""

    def stop_late(self) -> None:
        self.late = True
        if self.task is not None:
            self.task.cancel()

    @property
    def over(self) -> bool:
        return self.late or self.ending is not None

    def end_timers(self) -> None:
        for timer in (self.ending, self.deadline):
            if timer is not None:
                timer.cancel()


class Performer:
    """Performs the claims of one runner process."""

    def __init__(
        self,
        runner: str,
        compiled: graphs.Graphs,
        saver: Saver,
        store: Store,
        tracking: Tracking,
        limits: Limits,
        slots: Slots,
        *,
        grace_s: float,
        on_abandoned: Callable[[], None],
    ) -> None:
        self._runner = runner
        self._graphs = compiled
        self._saver = saver
        self._store = store
        self._tracking = tracking
        self._limits = limits
        self._slots = slots
        self._grace_s = grace_s
        self._on_abandoned = on_abandoned
        self._batches: dict[str, Batch] = {}
        self._scoring: set[str] = set()
        """Those of them whose scorers are imported."""
        self._works: dict[Claim, _Work] = {}
        self._draining = False

    def drain(self) -> None:
        """Every claim comes to rest at its next boundary, those that still come included."""
        self._draining = True
        for work in self._works.values():
            work.control.request_drain(DRAINED)

    def wish(self, execution_id: str, epoch: int, wanted: str) -> None:
        """What others want of a claim; a stop is carried out also if its nodes never end."""
        work = self._works.get((execution_id, epoch))
        if work is None or wanted in (Wanted.RUN, Wanted.STEP):
            return
        work.attachment.wanted = wanted
        work.control.request_drain(wanted)
        if wanted == Wanted.STOP and work.ending is None and work.task is not None:
            loop = asyncio.get_running_loop()
            work.ending = loop.call_later(self._grace_s, work.task.cancel)

    def drop(self, execution_id: str, epoch: int) -> None:
        """Lets go at once of a claim that was taken away, whatever its nodes are doing."""
        work = self._works.get((execution_id, epoch))
        if work is not None and work.task is not None:
            work.dropped = True
            work.task.cancel()

    def bindings(self) -> list[dict[str, str]]:
        """Those of the claims that are being performed."""
        return [work.binding for work in self._works.values()]

    async def perform(self, one: Assignment) -> Settlement | None:
        """How the claim is to be settled; None when it is another owner's by now."""
        claim = (one.execution_id, one.epoch)
        if one.left_s is not None and one.left_s <= 0:
            return self._settlement(one, "fail", fault=_late())
        work = self._works[claim] = _Work(graphs.Control(), self._attachment(one), one.binding)
        if self._draining:
            work.control.request_drain(DRAINED)
        work.task = asyncio.create_task(self._in_turn(one, work))
        if one.left_s is not None:
            loop = asyncio.get_running_loop()
            work.deadline = loop.call_later(one.left_s, work.stop_late)
        try:
            settlement = await work.task
            return settlement and dataclasses.replace(
                settlement, usage=work.attachment.calls.unstored()
            )
        except asyncio.CancelledError:
            if work.dropped:
                return None
            this = asyncio.current_task()
            if not work.over or (this is not None and this.cancelling()):
                raise  # not the nodes' time is over, but that of this process
            if work.late:
                return self._settlement(one, "fail", fault=_late())
            log.warning("%s did not end and is left behind", one.execution_id)
            return self._settlement(one, "cancel")
        finally:
            work.end_timers()
            del self._works[claim]
            work.attachment.calls.over = True
            if work.attachment.calls.running:
                self._tracking.abandon(one)
                self._on_abandoned()

    async def leave(self, one: Assignment, settlement: Settlement | None) -> None:
        """Lets go of what the claim had for itself, after its end is settled."""
        try:
            await self._tracking.leave(one, settlement)
        except Exception:  # what is left lying is swept later
            log.exception("workspace of %s not left", one.execution_id, extra={"action": "files"})

    def _attachment(self, one: Assignment) -> Attachment:
        return Attachment(
            execution_id=one.execution_id,
            epoch=one.epoch,
            thread_id=one.thread_id,
            head=one.head,
            head_step=one.head_step,
            project=one.project,
            batch_id=one.batch_id,
            actor=self._runner,
            environment=one.environment,
            limits=self._limits,
        )

    async def _in_turn(self, one: Assignment, work: _Work) -> Settlement | None:
        """What comes of it in a slot; without one it goes back, since others may have one."""
        async with self._slots.one() as free:
            if not free:
                return self._settlement(one, "requeue", reason=DRAINED)
            return await self._outcome(one, work)

    async def _outcome(self, one: Assignment, work: _Work) -> Settlement | None:
        self._saver.attach(work.attachment)
        try:
            await self._tracking.enter(one, work.attachment)
            with self._tracking.inside(one):
                return await self._run(one, work)
        except errors.Fenced:
            return None
        except FILES as e:
            return self._unkept(one, fault_of(e))
        except errors.ResourcesUnavailable as e:
            return self._settlement(
                one, "requeue", reason=f"{WAITING}{e.message}", delay_s=plan.WAIT_S
            )
        except Exception as e:  # what is no node's fault is tried again elsewhere
            log.exception("execution %s interrupted", one.execution_id, extra={"action": "run"})
            return self._settlement(
                one,
                "requeue",
                reason=f"infrastructure: {type(e).__name__}: {e}",
                delay_s=plan.retry_delay(one.attempt),
            )
        finally:
            self._saver.detach(one.thread_id)

    async def _run(self, one: Assignment, work: _Work) -> Settlement:
        try:
            compiled = self._graphs.compiled(one.binding)
        except errors.InvalidRequest as e:  # what was importable at registration is not any more
            return self._settlement(one, "fail", fault=fault_of(e))
        outcome = await graphs.run(
            compiled,
            work.attachment,
            one,
            work.control,
            answers=one.answers,
            ran=one.ran,
            passed=one.passed,
            one_step=one.wanted == Wanted.STEP,
            group=await self._group(one),
        )
        match outcome.kind:
            case "completed":
                return await self._completed(one, outcome)
            case "interrupted":
                return await self._interrupted(one, outcome)
            case "breakpoint":
                return self._settlement(one, "pause", reason=str(PauseReason.BREAKPOINT))
            case "split":
                return self._settlement(one, "split", parts=outcome.parts)
            case "failed":
                return self._failed(one, outcome)
            case "fenced":
                raise errors.Fenced
            case "drained":
                return await self._drained(one, work)

    async def _completed(self, one: Assignment, outcome: graphs.Outcome) -> Settlement:
        try:
            scores = await self._score(one, outcome.values or {})
        except (errors.ScorerFailed, errors.InvalidRequest) as e:
            return self._settlement(one, "fail", fault=fault_of(e))
        return self._settlement(one, "complete", scores=scores)

    async def _interrupted(self, one: Assignment, outcome: graphs.Outcome) -> Settlement:
        """Goes on with what its case answers; where that is used up, the batch says what follows."""
        try:
            answers = await self._prepared(one)
        except errors.InvalidAnswer as e:
            return self._settlement(one, "fail", fault=fault_of(e))
        fails = one.batch_id is not None and (await self._batch(one.batch_id)).interrupts == "fail"
        if not answers and fails:
            return self._settlement(one, "fail", fault=_unanswered(one))
        place: dict[str, Any] = {"restore_point": True, "manifest": await self._tracking.rest(one)}
        place["lease"] = self._tracking.lease(one)
        if answers:
            return self._settlement(one, "requeue", reason=ANSWERED, answers=answers, **place)
        asked = {"reason": str(PauseReason.INTERRUPT), "interrupts": outcome.interrupts}
        return self._settlement(one, "pause", **asked, **place)

    async def _prepared(self, one: Assignment) -> dict[str, Any]:
        """What its case answers to what it asks at its head, by interrupt id.

        Raises:
            InvalidAnswer: An answer does not fit its question.
        """
        left = one.case_answers[one.answered :]
        if not left:
            return {}
        return next_of(await self._store.control.asked(one.execution_id), left)

    async def _drained(self, one: Assignment, work: _Work) -> Settlement:
        if work.attachment.wanted == Wanted.STOP:
            return self._settlement(one, "cancel")
        place: dict[str, Any] = {}
        if work.attachment.within:  # at a boundary of a subgraph; all tasks beside it have ended
            place = {"restore_point": True, "manifest": await self._tracking.rest(one)}
            place["lease"] = self._tracking.lease(one)
        if work.attachment.wanted == Wanted.PAUSE or work.control.reason == STEPPED:
            return self._settlement(one, "pause", reason=str(PauseReason.REQUESTED), **place)
        return self._settlement(one, "requeue", reason=DRAINED, **place)

    def _failed(self, one: Assignment, outcome: graphs.Outcome) -> Settlement:
        fault = outcome.fault
        if fault is not None and fault.code in FILE_CODES:
            return self._unkept(one, fault)
        if fault is not None and fault.code in overload.CODES:
            return self._overloaded(one, fault, outcome.retry_after_s)
        return self._settlement(one, "fail", fault=fault)

    def _overloaded(self, one: Assignment, fault: Fault, retry_after_s: float | None) -> Settlement:
        """Tried again later; not the variant's doing, whatever becomes of it."""
        delay_s = plan.overload_delay(one.attempt, retry_after_s, random.random())  # noqa: S311
        reason = f"{fault.code}: {fault.type}: {fault.message}"
        return self._settlement(one, "requeue", reason=reason, fault=fault, delay_s=delay_s)

    def _unkept(self, one: Assignment, fault: Fault) -> Settlement:
        """What becomes of an execution whose files cannot be kept, by the project's choice."""
        if self._tracking.pauses(one):
            return self._settlement(one, "pause", reason=f"files: {fault.message}")
        return self._settlement(one, "fail", fault=fault)

    async def _score(
        self, one: Assignment, state: dict[str, object]
    ) -> list[tuple[ScorerSpec, Score]]:
        if one.batch_id is None:
            return []
        outcome = scoring.CellOutcome(
            case=Case(
                id=one.case_id or "",
                input=one.input,
                expected=one.expected,
                metadata=one.metadata,
                answers=one.case_answers,
            ),
            state=state,
        )
        specs = await self._scorers_of(one.batch_id)
        if any(":" in spec.name for spec in specs):
            await self._store.executions.scoring(one.execution_id, one.epoch, self._runner)
        return [(spec, s) for spec in specs for s in await scoring.score(spec, outcome)]

    async def _group(self, one: Assignment) -> Group | None:
        """The variants that share the execution, where there are several."""
        if one.batch_id is None or len(one.members) < 2:
            return None
        if one.members[-1] >= len((await self._batch(one.batch_id)).bindings):
            del self._batches[one.batch_id]  # variants were added to it
        bindings = (await self._batch(one.batch_id)).bindings
        return Group(self._graphs.spec, {member: bindings[member] for member in one.members})

    async def _scorers_of(self, batch_id: str) -> tuple[ScorerSpec, ...]:
        specs = (await self._batch(batch_id)).scorers
        if batch_id not in self._scoring:
            await asyncio.to_thread(scoring.validate, specs)  # imports them
            self._scoring.add(batch_id)
        return specs

    async def _batch(self, batch_id: str) -> Batch:
        """What is the same for all cells of a batch."""
        if batch_id not in self._batches:
            batch = await self._store.batches.get(batch_id)
            if len(self._batches) >= KNOWN_BATCHES:
                self._batches.clear()
                self._scoring.clear()
            self._batches[batch_id] = batch
        return self._batches[batch_id]

    def _settlement(self, one: Assignment, kind: Kind, **what: Any) -> Settlement:
        return Settlement(
            execution_id=one.execution_id, epoch=one.epoch, owner=self._runner, kind=kind, **what
        )


def _unanswered(one: Assignment) -> Fault:
    error = errors.InterruptInBatch
    had = f"its case had {len(one.case_answers)}" if one.case_answers else "the batch has none"
    message = f"a node asked for an answer, and {had}"
    return Fault(code=error.code, type=error.__name__, message=message)


def _late() -> Fault:
    error = errors.DeadlineExceeded
    return Fault(code=error.code, type=error.__name__, message=(error.__doc__ or "").strip())


def fault_of(error: errors.WTBError) -> Fault:
    """The fault of what the bench itself refused."""
    return Fault(
        code=error.code,
        type=type(error.__cause__ or error).__name__,
        message=error.message,
        traceback="".join(traceback.format_exception(error)),
    )
