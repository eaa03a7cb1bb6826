"""Running a graph: one execution from its head to the next place where it must stop.

`run` enters LangGraph and says what became of the execution, read from the head that is stored,
never from how LangGraph returned: it comes back normally from a drain at the last checkpoint and
from an interrupt alike. Nothing here writes state; that is the saver's and the store's part.
"""

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import CONFIG_KEY_RESUMING as RESUMING
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata
from langgraph.errors import GraphDrained, GraphRecursionError
from langgraph.pregel._algo import prepare_next_tasks
from langgraph.pregel._checkpoint import channels_from_checkpoint
from langgraph.pregel._io import read_channels
from langgraph.pregel._task_status import read_task_statuses
from langgraph.runtime import RunControl
from langgraph.types import Command
from pydantic_core import to_jsonable_python

from wtb_ray import errors
from wtb_ray.attachments import Attachment, Boundary
from wtb_ray.context import Context, entered
from wtb_ray.entries import CompiledGraph, is_graph
from wtb_ray.faults import fault_of
from wtb_ray.model import Assignment, Fault, digest
from wtb_ray.overload import overload_of
from wtb_ray.saver import Saver
from wtb_ray.sharing import Group, Part
from wtb_ray.states import Wanted

log = logging.getLogger(__name__)

STEPPED: Final = "step"
"""Why a run was drained that was to do one super-step."""
ROOT: Final = "__root__"
"""The one channel of a state that is no mapping."""

SPLIT: Final = "split"
"""Why a run was drained whose variants part."""

Kind = Literal["completed", "interrupted", "drained", "breakpoint", "split", "failed", "fenced"]


class Control:
    """Asks one run to stop at its next super-step boundary; from any thread, at any time."""

    def __init__(self) -> None:
        self.inner = RunControl()

    def request_drain(self, reason: str) -> None:
        self.inner.request_drain(reason)

    @property
    def reason(self) -> str | None:
        return self.inner.drain_reason


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run, by the head that is stored."""

    kind: Kind
    fault: Fault | None = None
    interrupts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """`{"id", "value", "node"}` of every question without an answer."""
    values: dict[str, Any] | None = None
    """The final state, as LangGraph gives it."""
    next_nodes: tuple[str, ...] = ()
    reason: str | None = None
    """Why it was drained, or which breakpoint it stands at."""
    parts: tuple[Part, ...] = ()
    """Of a split: the variants that go on together."""
    retry_after_s: float | None = None
    """How long what was overloaded asked to be left alone."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A graph with its implementations bound, ready to run any number of executions at once."""

    graph: CompiledGraph
    breakpoints: tuple[str, ...]
    """Those of the entry's own compile options."""
    implementations: Mapping[str, str]
    """Fingerprints of what the nodes run, by path."""
    params: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """What `params()` gives, by path of the node."""

    @functools.cached_property
    def remembering(self) -> frozenset[str]:
        """Nodes that are subgraphs which keep their state from one call to the next."""
        return frozenset(
            name
            for name, node in self.graph.nodes.items()
            if is_graph(node.bound) and node.bound.checkpointer is True
        )

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of implementation and params together, by path of the node."""
        varied = {n: digest([self.implementations[n], v]) for n, v in self.params.items() if v}
        return {**self.implementations, **varied}

    def next_tasks(
        self, checkpoint: Checkpoint, metadata: CheckpointMetadata, config: RunnableConfig
    ) -> tuple[tuple[str, str], ...]:
        """Id and node name of each task that follows a root checkpoint."""
        channels, managed = channels_from_checkpoint(self.graph.channels, checkpoint)
        step = metadata["step"] + 1
        tasks = prepare_next_tasks(
            checkpoint,
            [],
            self.graph.nodes,
            channels,
            managed,
            config,
            step,
            step + 2,
            for_execution=False,
            trigger_to_nodes=self.graph.trigger_to_nodes,
            updated_channels=set(checkpoint.get("updated_channels") or ()) or None,
        )
        return tuple((task.id, task.name) for task in tasks.values())

    def values(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The state of a root checkpoint, as LangGraph gives it."""
        channels, _ = channels_from_checkpoint(self.graph.channels, checkpoint)
        return _state(read_channels(channels, self.graph.stream_channels_asis))


async def run(
    compiled: Compiled,
    attachment: Attachment,
    assignment: Assignment,
    control: Control | None = None,
    *,
    answers: Mapping[str, Any] | None = None,
    ran: Sequence[str] = (),
    passed: str | None = None,
    one_step: bool = False,
    group: Group | None = None,
) -> Outcome:
    """Runs an attached execution from its head until it ends, asks, or is told to stop.

    Args:
        compiled: The graph of the execution's binding.
        attachment: What the saver knows of it; its boundary and its wish to stop are set here.
        assignment: Where it stands and what it was given.
        control: To ask it to stop from outside.
        answers: To questions at its head, by interrupt id; those that are not open are left out.
        ran: The nodes that ended in its head, for breakpoints after them.
        passed: The checkpoint whose breakpoints a user has already sent it past.
        one_step: Stop after one super-step in which nodes ran.
        group: The variants that it runs for; it stops before they part.

    Raises:
        Unavailable: The database did not answer; nothing can be said about the execution.
    """
    one = _Run(compiled, attachment, assignment, control or Control(), ran, passed, one_step, group)
    return await one.go(answers)


class _Limit(int):
    """A recursion limit that goes on where the head stands, instead of starting anew.

    LangGraph computes the last step as `step + limit + 1` when a graph is entered, so the sum is what
    has to be right for the root graph, which is entered first. To the subgraphs below it is the whole
    limit, as it is in a run that was never interrupted; and so it is in messages.
    """

    _entered = False

    def __radd__(self, step: int) -> int:
        if self._entered:
            return step + int(self)
        self._entered = True
        return int(self) - 1


@dataclasses.dataclass(frozen=True)
class _Head:
    """The newest root checkpoint, as it is stored."""

    id: str
    checkpoint: Checkpoint
    following: tuple[str, ...]
    """The nodes of the tasks that follow; empty at the end."""
    waiting: tuple[str, ...]
    """Those of them that have not finished."""
    interrupts: list[dict[str, Any]]


class _Run:
    """One call of `run`: what it knows between LangGraph's callbacks and its return."""

    def __init__(
        self,
        compiled: Compiled,
        attachment: Attachment,
        assignment: Assignment,
        control: Control,
        ran: Sequence[str],
        passed: str | None,
        one_step: bool,
        group: Group | None,
    ) -> None:
        self._compiled = compiled
        self._attachment = attachment
        self._assignment = assignment
        self._control = control
        self._saver = cast(Saver, compiled.graph.checkpointer)
        # In a batch nobody is there to send it past the breakpoints of a compiled graph.
        self._own = compiled.breakpoints if assignment.batch_id is None else ()
        self._breakpoints = frozenset((*self._own, *assignment.breakpoints))
        self._one_step = one_step
        self._group = group
        self._parts: tuple[Part, ...] = ()
        self._ran = tuple(ran)
        self._ended: tuple[str, ...] = ()
        self._passed = passed
        self._config: RunnableConfig = {"configurable": {"thread_id": assignment.thread_id}}
        self._last: tuple[str, tuple[str, ...]] | None = None
        self._hit: str | None = None
        self._answers: Mapping[str, Any] = {}
        attachment.boundary = self.boundary
        attachment.on_wanted = self.wanted
        attachment.on_breakpoints = self.breakpoints

    def boundary(
        self, checkpoint: Checkpoint, metadata: CheckpointMetadata, config: RunnableConfig
    ) -> Boundary:
        """What follows a root checkpoint that is about to be written."""
        tasks = self._compiled.next_tasks(checkpoint, metadata, config)
        nodes = tuple(name for _, name in tasks)
        ended = tuple(name for _, name in self._attachment.next_tasks)
        if self._one_step and metadata["step"] > 0:
            self._control.request_drain(STEPPED)
        if self._part(nodes):
            self._control.request_drain(SPLIT)
        self._last, self._ended = (checkpoint["id"], nodes), ended
        return Boundary(next_nodes=nodes, next_tasks=tasks)

    def _part(self, following: Sequence[str]) -> bool:
        """Whether the variants part before these nodes."""
        parts = self._group.parts(following) if self._group is not None else ()
        self._parts = parts if len(parts) > 1 else ()
        return bool(self._parts)

    def wanted(self, wanted: str) -> None:
        """What another process asks for comes back with the commits."""
        if wanted not in (Wanted.RUN, Wanted.STEP):
            self._control.request_drain(wanted)

    def breakpoints(self, breakpoints: Sequence[str]) -> None:
        """Stops at a breakpoint. A root checkpoint has just been stored, and they came back with it."""
        self._breakpoints = frozenset((*self._own, *breakpoints))
        if self._last is not None:
            self._hit = self._breakpoint(*self._last, self._ended)
            if self._hit is not None:
                self._control.request_drain(self._hit)

    async def go(self, answers: Mapping[str, Any] | None) -> Outcome:
        self._answers = answers or {}
        head = await self._head() if self._looks(answers) else None
        if head is not None and (stop := await self._before(head, answers)) is not None:
            return stop
        asked = {i["id"] for i in head.interrupts} if head is not None else set()
        try:
            values = await self._invoke({k: v for k, v in (answers or {}).items() if k in asked})
            await self._saver.flush(self._assignment.thread_id)
        except errors.Fenced:
            return Outcome("fenced")
        except errors.StorageFull as e:  # trying again elsewhere would not help
            return await self._failed(e)
        except (errors.Unavailable, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as e:  # noqa: BLE001 - whatever the user's code raises is its fault
            return await self._failed(e)
        if self._last is not None and not self._last[1]:
            return Outcome("completed", values=_state(values))
        return self._standing(await self._head())

    @property
    def _stepped(self) -> bool:
        """Whether the one step was made by an owner that did not live to say so."""
        one = self._assignment
        return self._one_step and (one.head_step or 0) > 0 and one.head != self._passed

    def _looks(self, answers: Mapping[str, Any] | None) -> bool:
        """Whether something depends on the head before LangGraph is entered again."""
        return self._assignment.head is not None and bool(
            answers
            or self._breakpoints
            or self._compiled.remembering
            or self._stepped
            or self._group is not None
        )

    async def _before(self, head: _Head, answers: Mapping[str, Any] | None) -> Outcome | None:
        """What has to be decided from the head before LangGraph is entered again."""
        self._hit = self._breakpoint(head.id, head.waiting, self._ran)
        if self._stepped:
            self._control.request_drain(STEPPED)
        parted = self._part(head.waiting)
        if self._hit is not None or self._stepped or parted or not head.following:
            return self._standing(head)
        if not answers and await self._begins(head):
            self._config["configurable"][RESUMING] = False
        return None

    async def _begins(self, head: _Head) -> bool:
        """Whether a subgraph with a memory of its own follows and has done nothing yet.

        LangGraph would take its last call for the one to be resumed, and run none of its nodes.
        """
        names = self._compiled.remembering & set(head.waiting)
        for name in names:
            place = {"thread_id": self._assignment.thread_id, "checkpoint_ns": name}
            found = await self._saver.aget_tuple({"configurable": place})
            if found is not None and found.metadata.get("parents", {}).get("") == head.id:
                return False
        return bool(names)

    async def _invoke(self, answers: Mapping[str, Any] | None) -> Any:
        """The last values that LangGraph gave."""
        fresh, limit = self._assignment.head is None, self._assignment.recursion_limit
        given = self._given() if fresh else None
        limit = limit if fresh else _Limit(limit)
        if answers:
            given = Command(resume=dict(answers))
        graph, values = self._compiled.graph, None
        with entered(self._context()):
            try:
                async for newest in graph.astream(
                    given,
                    {**self._config, "recursion_limit": limit},
                    stream_mode="values",
                    output_keys=graph.stream_channels_asis,
                    durability="sync",
                    control=self._control.inner,
                ):
                    values = newest
            except GraphDrained as e:
                log.debug("%s drained: %s", self._assignment.thread_id, e)
        return values

    def _given(self) -> Any:
        """The input. A state that is one value is given, as it is shown, under `__root__`."""
        given, builder = self._assignment.input, self._compiled.graph.builder
        single = ROOT in builder.schemas[builder.input_schema]
        named = isinstance(given, dict) and given.keys() == {ROOT}
        return given[ROOT] if single and named else given

    async def _failed(self, error: BaseException) -> Outcome:
        ended = self._last is not None and not self._last[1]
        if isinstance(error, GraphRecursionError) and ended:
            return self._standing(await self._head())  # its last step was the limit's last one
        fault = fault_of(error)
        try:
            await self._saver.flush(self._assignment.thread_id)
        except errors.Fenced:
            return Outcome("fenced")
        except errors.UnstorableValue as e:
            log.info("a write of %s was not stored: %s", self._assignment.thread_id, e)
        overload = overload_of(error)
        retry_after_s = None if overload is None else overload.retry_after_s
        return Outcome("failed", fault, retry_after_s=retry_after_s)

    def _standing(self, head: _Head) -> Outcome:
        """What a head means when nothing failed."""
        if not head.following:
            return Outcome("completed", values=self._compiled.values(head.checkpoint))
        stopped = self._attachment.wanted == Wanted.STOP
        kind: Kind = "drained"
        reason = self._control.reason
        asked = [i for i in head.interrupts if i["id"] not in self._answers]
        if asked and not stopped:
            kind, reason = "interrupted", "interrupt"
        elif self._hit is not None and not stopped:
            kind, reason = "breakpoint", self._hit
        elif self._parts and not stopped:
            kind, reason = "split", SPLIT
        elif reason is None:
            left = errors.GraphFailed(f"the graph returned although {list(head.waiting)} follow")
            return Outcome("failed", fault_of(left), next_nodes=head.waiting)
        return Outcome(kind, None, asked, None, head.waiting, reason, self._parts)

    async def _head(self) -> _Head:
        found = await self._saver.aget_tuple(self._config)
        if found is None:
            raise errors.UnknownCheckpoint(f"thread {self._assignment.thread_id} has no checkpoint")
        tasks = self._compiled.next_tasks(found.checkpoint, found.metadata, found.config)
        statuses = read_task_statuses(found.pending_writes or ())
        waiting = [
            (id, name) for id, name in tasks if id not in statuses or not statuses[id].finished
        ]
        return _Head(
            id=found.checkpoint["id"],
            checkpoint=found.checkpoint,
            following=tuple(name for _, name in tasks),
            waiting=tuple(name for _, name in waiting),
            interrupts=[
                {"id": i.id, "node": name, "value": to_jsonable_python(i.value, fallback=repr)}
                for id, name in waiting
                if id in statuses
                for i in statuses[id].pending_interrupts
            ],
        )

    def _breakpoint(
        self, checkpoint_id: str, following: Sequence[str], ended: Sequence[str]
    ) -> str | None:
        if not following or not self._breakpoints or checkpoint_id == self._passed:
            return None
        for when, nodes in (("before", following), ("after", ended)):
            for node in nodes:
                named = self._breakpoints & {f"{when}:{node}", f"{when}:*"}
                if named and not node.startswith("__"):
                    return f"{when}:{node}"
        return None

    def _context(self) -> Context:
        one = self._assignment
        return Context(
            execution_id=one.execution_id,
            params=self._compiled.params,
            cache_scope=digest(
                [one.version, one.batch_id or one.execution_id, one.case_id, one.repetition]
            ),
            workspace=self._attachment.workspace,
            calls=self._attachment.calls,
            limits=self._attachment.limits,
        )


def _state(values: Any) -> dict[str, Any]:
    return values if isinstance(values, dict) else {ROOT: values}
